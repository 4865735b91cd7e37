"""`make bench-quick`: whole releases of real galaxies, local and on S3, against a plain loop over the same files.

The galaxies are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository.
"""

import csv
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import NamedTuple

import numpy as np
import yaml

from engine.storage.artefacts import current_release, read_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Manifest
from schemas.preset import load_preset
from schemas.tables import EMBEDDING, OBJECT_ID, QUERY_ID, RANK
from tests.benchmarks import plain
from tests.benchmarks.agreement import agreement, by_class, chance, shuffled
from tests.benchmarks.object_store import object_store, upload
from tests.benchmarks.process import CommandError, Measured, run
from tests.benchmarks.table import Bar, Table, console, finish, machine

DATA = Path(os.environ.get("VOORWERP_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
VOORWERP = Path(sys.executable).with_name("voorwerp")
PRESET = "imagenet-half-zoom"
TIGHT_FIELD = 0.4
"""The galaxies of the ring set fill the middle third of their cutouts."""
N_COMPONENTS = 40
K = 10
WORKERS_AND_BATCHES = ((1, 8), (1, 32), (2, 8), (2, 32))

EQUAL = 1e-5
SAME_AGREEMENT = 0.01
STAGES = ("plan", "encoder", "embed", "assemble", "fit", "project", "index")
"""Keys of the manifests' durations that follow each other; the rest of the wall time is imports, Ray and publishing."""


@dataclass(frozen=True)
class Galaxies:
    """A set of galaxies with classes: a folder with catalogue.csv, which names cutouts."""

    name: str
    ids: list[str]
    files: list[Path]
    classes: np.ndarray

    @property
    def folder(self) -> Path:
        """Where the catalogue is."""
        return DATA / self.name


class Rival(NamedTuple):
    """What the plain loop made of a set."""

    vectors: np.ndarray
    rows: np.ndarray
    rate_per_s: float


class Ours(NamedTuple):
    """What a release made of a set, in the order of the set's catalogue."""

    manifests: dict[str, Manifest]
    cost: Measured
    vectors: np.ndarray


class Searched(NamedTuple):
    """Neighbours of every galaxy of a set, (n, K) rows of the catalogue, and what the search cost."""

    rows: np.ndarray
    cost: Measured


def main() -> int:
    """Run the benchmark; return the exit code."""
    wanted = [DATA / name / "catalogue.csv" for name in ("sdss_gz1", "decals_rings")]
    missing = [path for path in wanted if not path.is_file()]
    if missing:
        print(f"expected galaxies at {missing[0]}, found nothing; set VOORWERP_BENCH_DATA to their folder")
        return 2
    for variable in ("RAY_ADDRESS", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        os.environ.pop(variable, None)
    started_on = machine()
    work = Path(mkdtemp(prefix="voorwerp-bench-"))
    try:
        tables, bars = _measure(work)
    except CommandError as error:
        print(error)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return finish("quick", "make bench-quick", started_on, tables, bars)


def _measure(work: Path) -> tuple[list[Table], list[Bar]]:
    sdss = _read_set("sdss_gz1", "gz1_class", {"spiral_clockwise": "spiral", "spiral_anticlockwise": "spiral"})
    rings = _read_set("decals_rings", "ring", {"0": "no ring", "1": "ring"})
    tight = work / "tight.yaml"
    tight.write_text(yaml.safe_dump(load_preset(PRESET).settings | {"field": TIGHT_FIELD}))
    field = load_preset(PRESET).field

    rivals = {"sdss": _rival(sdss, field), "rings": _rival(rings, field), "rings tight": _rival(rings, TIGHT_FIELD)}
    releases: dict[str, tuple[str, Galaxies, Ours, Searched]] = {}

    def add(label: str, rival: str, galaxies: Galaxies, source: str, output: str, preset: str = PRESET) -> None:
        ours = _release(label, galaxies, source, output, preset)
        releases[label] = (rival, galaxies, ours, _search(label, galaxies, output, work / "answer.parquet"))

    for name, galaxies in (("sdss", sdss), ("rings", rings)):
        add(f"{name} local", name, galaxies, str(galaxies.folder), str(work / name))
    add("rings tight local", "rings tight", rings, str(rings.folder), str(work / "tight"), str(tight))
    with object_store(work / "moto.log") as bucket:
        for name, galaxies in (("sdss", sdss), ("rings", rings)):
            with _step(f"uploading {galaxies.name}"):
                upload(galaxies.folder, galaxies.name)
            add(f"{name} s3", name, galaxies, f"{bucket}/{galaxies.name}", f"{bucket}/out-{name}")
    equality = [
        _difference(label, ours, rivals[rival], "default", "default") for label, (rival, _, ours, _) in releases.items()
    ]
    for workers, batch in WORKERS_AND_BATCHES:
        settings = {"embed.workers": workers, "embed.batch_size": batch}
        label, output = f"rings, {workers} workers, batch {batch}", str(work / f"equal-{workers}-{batch}")
        ours = _release(label, rings, str(rings.folder), output, PRESET, settings)
        equality.append(_difference("rings local", ours, rivals["rings"], str(workers), str(batch)))
    agreed = [_agreed(label, galaxies, found, rivals[rival]) for label, (rival, galaxies, _, found) in releases.items()]
    tables = [
        _rates([(label, ours, found, rivals[rival]) for label, (rival, _, ours, found) in releases.items()]),
        Table(
            f"Neighbours of the same class among the {K} nearest",
            ("galaxies", "n", "chance", "plain script", "voorwerp", "times chance"),
            [row for rows, _ in agreed for row in rows],
            f"L1 distance of {N_COMPONENTS} components; itself left out. Chance is (n_c - 1) / (n - 1). "
            f"`tight`: the central {TIGHT_FIELD:.0%} of the cutout instead of {field:.0%}.",
        ),
        Table(
            "Embeddings against the plain loop",
            ("release", "workers", "batch", "cutouts", "largest difference"),
            [row for row, _ in equality],
            "Largest difference of any value, over the largest value of the same embedding; the worst cutout.",
        ),
    ]
    accounts = [
        Bar(f"{label}, rejected cutouts", ours.manifests["embeddings"].counts["rejected"], "<=", 0)
        for label, (_, _, ours, _) in releases.items()
    ]
    return tables, [*accounts, *(bar for _, bars in agreed for bar in bars), *(bar for _, bar in equality)]


def _read_set(name: str, class_column: str, merged: dict[str, str]) -> Galaxies:
    with (DATA / name / "catalogue.csv").open() as file:
        rows = list(csv.DictReader(file))
    return Galaxies(
        name,
        [row["object_id"] for row in rows],
        [DATA / name / row["cutout"] for row in rows],
        np.array([merged.get(row[class_column], row[class_column]) for row in rows]),
    )


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is going on and, when it is over, how long it took."""
    console.print(f"{what} ...", end=" ")
    started = perf_counter()
    yield
    console.print(f"{perf_counter() - started:.0f} s")


def _rival(galaxies: Galaxies, field: float) -> Rival:
    with _step(f"plain loop over {len(galaxies.files):,} of {galaxies.name}, central {field:.0%}"):
        embedded = plain.embed(galaxies.files, field)
        return Rival(embedded.vectors, plain.neighbours(embedded.vectors, N_COMPONENTS, K), embedded.rate_per_s)


def _release(
    label: str, galaxies: Galaxies, source: str, output: str, preset: str, settings: dict[str, int] | None = None
) -> Ours:
    command: list[str | Path] = [VOORWERP, "release", "--catalogue", f"{source}/catalogue.csv", "--output", output]
    command += ["--architecture", "tf_efficientnet_lite0", "--weights", "package:lite0", "--preset", preset]
    # On a GPU the same network differs by more than a loop on CPUs can tell.
    command += ["--components", str(N_COMPONENTS), "--set", "embed.device=cpu"]
    for key, value in (settings or {}).items():
        command += ["--set", f"{key}={value}"]
    with _step(f"voorwerp release, {label}"):
        cost = run(command)
    store = Store(output)
    manifests = {
        kind: read_manifest(store, kind, parent.id) for kind, parent in current_release(store).artefacts.items()
    }
    embeddings = store.below(paths.artefact("embeddings", manifests["embeddings"].id))
    table = read_columns(embeddings, [OBJECT_ID, EMBEDDING])
    vectors = np.full((len(galaxies.ids), manifests["embeddings"].detail["dimension"]), np.nan, np.float32)
    values = table[EMBEDDING].combine_chunks().flatten().to_numpy()
    vectors[_rows(galaxies, table[OBJECT_ID].to_pylist())] = values.reshape(len(table), -1)
    return Ours(manifests, cost, vectors)


def _search(label: str, galaxies: Galaxies, output: str, answer: Path) -> Searched:
    queries = [part for object_id in galaxies.ids for part in ("--id", object_id)]
    with _step(f"voorwerp neighbours, {label}, {len(galaxies.ids):,} queries"):
        cost = run([VOORWERP, "neighbours", output, "-k", str(K), "-o", str(answer), *queries])
    table = read_table(Store(str(answer.parent)), answer.name)
    rows = np.empty((len(galaxies.ids), K), np.int64)
    queried, found = (_rows(galaxies, table[column].to_pylist()) for column in (QUERY_ID, OBJECT_ID))
    rows[queried, table[RANK].to_numpy() - 1] = found
    return Searched(rows, cost)


def _rows(galaxies: Galaxies, ids: Sequence[int | str]) -> list[int]:
    known = {object_id: row for row, object_id in enumerate(galaxies.ids)}
    return [known[str(object_id)] for object_id in ids]


def _rates(releases: Sequence[tuple[str, Ours, Searched, Rival]]) -> Table:
    """Seconds and rates, a column per release."""
    columns = []
    for _, ours, found, rival in releases:
        n = len(ours.vectors)
        durations_s = {
            key: value for manifest in ours.manifests.values() for key, value in manifest.durations_s.items()
        }
        other_s = ours.cost.wall_s - sum(durations_s[stage] for stage in STAGES)
        embed_rate = n / durations_s["embed"]
        columns.append(
            [
                f"{n:,}",
                f"{ours.cost.wall_s:.1f} s",
                f"{ours.cost.peak_rss_bytes / 2**30:.2f} GiB",
                f"{other_s:.1f} s",
                *(f"{n / durations_s[stage]:,.1f}/s ({durations_s[stage]:.1f} s)" for stage in STAGES),
                f"{n / durations_s['encode_sum']:,.1f}/s",
                f"{rival.rate_per_s:,.1f}/s",
                f"{embed_rate / rival.rate_per_s:.2f}",
                f"{n / ours.cost.wall_s / rival.rate_per_s:.2f}",
                f"{n / found.cost.wall_s:,.1f}/s ({found.cost.wall_s:.1f} s)",
            ]
        )
    names = [
        "cutouts",
        "release, wall time",
        "release, peak RSS",
        "imports, Ray, publishing",
        *STAGES,
        "encoder alone, per worker",
        "plain loop",
        "embed / plain loop",
        "release / plain loop",
        "neighbours, queries",
    ]
    return Table(
        "Releases: cutouts per second of each stage",
        ("", *(label for label, *_ in releases)),
        [[name, *cells] for name, cells in zip(names, zip(*columns, strict=True), strict=True)],
        "Peak RSS: the command and all its descendants, Ray's among them; shared pages count once for each process. "
        "Plain loop: one process per core, imports and loading of weights not counted.",
    )


def _agreed(label: str, galaxies: Galaxies, found: Searched, rival: Rival) -> tuple[list[list[str]], list[Bar]]:
    """Rows of the neighbours table, and the bars, of one release."""
    ours, plainly = (agreement(rows, galaxies.classes) for rows in (found.rows, rival.rows))
    expected = chance(galaxies.classes)
    rows = [
        [
            f"{label}: {name}",
            f"{members.sum():,}",
            *(f"{values[members].mean():.3f}" for values in (expected, plainly, ours)),
            f"{ours[members].mean() / expected[members].mean():.2f}",
        ]
        for name, members in by_class(galaxies.classes)
    ]
    by_luck = shuffled(found.rows, galaxies.classes, 0.95)
    return rows, [
        Bar(
            f"{label}, same class, away from the plain script", abs(ours.mean() - plainly.mean()), "<=", SAME_AGREEMENT
        ),
        Bar(f"{label}, same class, against 95 % of shuffled classes", ours.mean(), ">=", by_luck),
        *(
            Bar(f"{label}, same class, {what}", value, ">=", bar)
            for what, value, bar in _class_bars(label, ours.mean(), expected.mean())
        ),
    ]


def _class_bars(label: str, measured: float, expected: float) -> list[tuple[str, float, float]]:
    if label.startswith("sdss"):
        return [("times chance", measured / expected, 1.3)]
    return [("share", measured, 0.55)] if "tight" in label else []


def _difference(label: str, ours: Ours, rival: Rival, workers: str, batch: str) -> tuple[list[str], Bar]:
    largest = np.abs(ours.vectors - rival.vectors).max(axis=1) / np.abs(rival.vectors).max(axis=1)
    row = [label, workers, batch, f"{len(largest):,}", f"{largest.max():.1e}"]
    name = f"{label}, {workers} workers, batch {batch}, embeddings away from the plain loop"
    return row, Bar(name, float(largest.max()), "<=", EQUAL)


if __name__ == "__main__":
    sys.exit(main())
