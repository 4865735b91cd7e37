"""`make bench-quick`: whole releases of real galaxies, local and on S3, against a plain loop over the same files.

The galaxies are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository.
"""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from time import perf_counter
from typing import NamedTuple

import numpy as np
import yaml

from schemas.preset import load_preset
from tests.benchmarks import plain
from tests.benchmarks.agreement import agreement, by_class, chance, shuffled
from tests.benchmarks.commands import Released, Searched, release, search
from tests.benchmarks.galaxies import Galaxies, missing, read_galaxies
from tests.benchmarks.object_store import object_store, upload
from tests.benchmarks.process import CommandError
from tests.benchmarks.table import Bar, Table, console, finish, machine

SETS = {
    "sdss_gz1": ("gz1_class", {"spiral_clockwise": "spiral", "spiral_anticlockwise": "spiral"}),
    "decals_rings": ("ring", {"0": "no ring", "1": "ring"}),
}
PRESET = "imagenet-half-zoom"
TIGHT_FIELD = 0.4
"""Chosen after a scan of about 30 settings on this very set: its bar is a regression check, no confirmation."""
N_COMPONENTS = 40
K = 10
WORKERS_AND_BATCHES = ((1, 8), (1, 32), (2, 8), (2, 32))

LARGEST_DIFFERENCE = 1e-5
LARGEST_GAP = 0.01
SDSS_TIMES_CHANCE = 1.3
RINGS_TIGHT_SHARE = 0.55

STAGES = ("plan", "encoder", "embed", "assemble", "fit", "project", "index")
"""Durations of a release that follow each other."""


class Rival(NamedTuple):
    """What the plain script made of a set."""

    vectors: np.ndarray
    rows: np.ndarray
    rate_per_s: float


class Case(NamedTuple):
    """A release, the search in it, and the rival over the same files."""

    label: str
    galaxies: Galaxies
    rival: Rival
    released: Released
    searched: Searched


class Equal(NamedTuple):
    """How far a release's embeddings are from the rival's."""

    label: str
    workers: str
    batch: str
    differences: np.ndarray


def main() -> int:
    """Run the benchmark; return the exit code."""
    if complaint := missing(list(SETS)):
        print(complaint)
        return 2
    for variable in ("RAY_ADDRESS", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
        os.environ.pop(variable, None)
    started_on = machine()
    work = Path(mkdtemp(prefix="voorwerp-bench-"))
    try:
        cases, equals = _measure(work)
    except CommandError as error:
        print(error)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    tables = [_rates(cases), _neighbours(cases), _equality(equals)]
    return finish("quick", "make bench-quick", started_on, tables, [*_case_bars(cases), *_equality_bars(equals)])


def _measure(work: Path) -> tuple[list[Case], list[Equal]]:
    sdss, rings = (read_galaxies(name, *classes) for name, classes in SETS.items())
    settings = load_preset(PRESET).settings
    tight = work / "tight.yaml"
    tight.write_text(yaml.safe_dump(settings | {"field": TIGHT_FIELD}))
    sdss_rival, rings_rival = (_rival(galaxies, settings["field"]) for galaxies in (sdss, rings))
    tight_rival = _rival(rings, TIGHT_FIELD)

    def case(label: str, galaxies: Galaxies, rival: Rival, source: str, output: str, preset: str = PRESET) -> Case:
        with _step(f"voorwerp release, {label}"):
            released = release(galaxies, source, output, preset, N_COMPONENTS)
        with _step(f"voorwerp neighbours, {label}, {len(galaxies.ids):,} queries"):
            searched = search(galaxies, output, work / "answer.parquet", K)
        return Case(label, galaxies, rival, released, searched)

    cases = [
        case("sdss", sdss, sdss_rival, str(sdss.folder), f"{work}/sdss"),
        case("rings", rings, rings_rival, str(rings.folder), f"{work}/rings"),
        case("rings tight", rings, tight_rival, str(rings.folder), f"{work}/tight", str(tight)),
    ]
    with object_store(work / "moto.log") as bucket:
        with _step("upload to S3"):
            upload(sdss.folder, "sdss")
            upload(rings.folder, "rings")
        cases += [
            case("sdss s3", sdss, sdss_rival, f"{bucket}/sdss", f"{bucket}/out-sdss"),
            case("rings s3", rings, rings_rival, f"{bucket}/rings", f"{bucket}/out-rings"),
        ]
    equals = [Equal(case.label, "default", "default", _differences(case.released, case.rival)) for case in cases]
    for workers, batch in WORKERS_AND_BATCHES:
        output = f"{work}/equal-{workers}-{batch}"
        with _step(f"voorwerp release, rings, workers {workers}, batch {batch}"):
            released = release(
                rings, str(rings.folder), output, PRESET, N_COMPONENTS, workers=workers, batch_size=batch
            )
        equals.append(Equal("rings", str(workers), str(batch), _differences(released, rings_rival)))
    return cases, equals


def _rival(galaxies: Galaxies, field: float) -> Rival:
    with _step(f"plain script, {len(galaxies.files):,} of {galaxies.name}, central {field:.0%}"):
        embedded = plain.embed(galaxies.files, field)
        return Rival(embedded.vectors, plain.neighbours(embedded.vectors, N_COMPONENTS, K), embedded.rate_per_s)


def _differences(released: Released, rival: Rival) -> np.ndarray:
    """Per cutout the largest difference of any value, over the largest value: (n,)."""
    return np.abs(released.vectors - rival.vectors).max(axis=1) / np.abs(rival.vectors).max(axis=1)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is going on and, when it is over, how long it took."""
    console.print(f"{what} ...", end=" ")
    started = perf_counter()
    yield
    console.print(f"{perf_counter() - started:.0f} s")


def _rates(cases: Sequence[Case]) -> Table:
    columns = [_rate_column(case) for case in cases]
    return Table(
        "Releases: cutouts per second",
        ("", *(case.label for case in cases)),
        [[name, *(column[name] for column in columns)] for name in columns[0]],
        "Peak RSS: the command and all its descendants, Ray's among them; shared pages count once for each process. "
        "Plain loop: batches of 16, one process per core; imports and loading of weights do not count.",
    )


def _rate_column(case: Case) -> dict[str, str]:
    n = len(case.galaxies.ids)
    cost, durations_s = case.released.cost, case.released.record.durations_s
    # One worker per core is the default, unless there are fewer units of work.
    workers = min(os.cpu_count() or 1, case.released.record.counts["units"])
    at_work_s = durations_s["unit_sum"] / workers
    plain_rate = case.rival.rate_per_s
    return {
        "cutouts": f"{n:,}",
        "whole release": _rate(n, cost.wall_s),
        "peak RSS": f"{cost.peak_rss_bytes / 2**30:.2f} GiB",
        "imports, start of Ray, publishing": f"{cost.wall_s - sum(durations_s[stage] for stage in STAGES):.1f} s",
        **{stage: _rate(n, durations_s[stage]) for stage in STAGES},
        "embed: start of workers": f"{durations_s['embed'] - at_work_s:.1f} s",
        "embed: at work": _rate(n, at_work_s),
        "embed: encoder alone": _rate(n, durations_s["encode_sum"] / workers),
        "plain loop": _rate(n, n / plain_rate),
        "at work / plain loop": f"{n / at_work_s / plain_rate:.2f}",
        "embed / plain loop": f"{n / durations_s['embed'] / plain_rate:.2f}",
        "release / plain loop": f"{n / cost.wall_s / plain_rate:.2f}",
        "neighbours, one query per cutout": _rate(n, case.searched.cost.wall_s),
    }


def _rate(n: int, seconds: float) -> str:
    return f"{n / seconds:,.0f}/s ({seconds:.1f} s)" if n >= 100 * seconds else f"{n / seconds:.1f}/s ({seconds:.1f} s)"


def _neighbours(cases: Sequence[Case]) -> Table:
    rows = []
    for case in cases:
        classes = case.galaxies.classes
        expected, plainly = chance(classes), agreement(case.rival.rows, classes)
        ours = agreement(case.searched.rows, classes)
        for name, members in by_class(classes):
            shares = [values[members].mean() for values in (expected, plainly, ours)]
            row = [f"{case.label}: {name}", f"{members.sum():,}", *(f"{share:.3f}" for share in shares)]
            rows.append([*row, f"{shares[2] / shares[0]:.2f}"])
    return Table(
        f"Neighbours: share of the {K} nearest that are of the same class",
        ("galaxies", "n", "chance", "plain script", "voorwerp", "times chance"),
        rows,
        f"L1 distance of {N_COMPONENTS} components; itself left out. Chance is (n_c - 1) / (n - 1). "
        f"The encoder sees the central {load_preset(PRESET).field:.0%} of a cutout; tight: {TIGHT_FIELD:.0%}.",
    )


def _equality(equals: Sequence[Equal]) -> Table:
    return Table(
        "Embeddings: largest difference from the plain loop",
        ("release", "workers", "batch", "cutouts", "median cutout", "worst cutout"),
        [
            [
                equal.label,
                equal.workers,
                equal.batch,
                f"{len(equal.differences):,}",
                f"{np.median(equal.differences):.1e}",
                f"{equal.differences.max():.1e}",
            ]
            for equal in equals
        ],
        "Largest difference of any value of an embedding, over its largest value.",
    )


def _case_bars(cases: Sequence[Case]) -> list[Bar]:
    bars = []
    for case in cases:
        classes = case.galaxies.classes
        plainly = agreement(case.rival.rows, classes).mean()
        ours = agreement(case.searched.rows, classes).mean()
        by_luck = shuffled(case.searched.rows, classes, 0.95)
        bars += [
            Bar(f"{case.label}: rejected cutouts", case.released.record.counts["rejected"], "<=", 0),
            Bar(f"{case.label}: same class, distance to the plain script", abs(ours - plainly), "<=", LARGEST_GAP),
            Bar(f"{case.label}: same class, against 95 % of shuffled classes", ours, ">=", by_luck),
        ]
        if case.label.startswith("sdss"):
            times = ours / chance(classes).mean()
            bars.append(Bar(f"{case.label}: same class, times chance", times, ">=", SDSS_TIMES_CHANCE))
        if case.label == "rings tight":
            bars.append(Bar(f"{case.label}: same class", ours, ">=", RINGS_TIGHT_SHARE))
    return bars


def _equality_bars(equals: Sequence[Equal]) -> list[Bar]:
    return [
        Bar(
            f"{equal.label}, workers {equal.workers}, batch {equal.batch}: embeddings, distance to the plain loop",
            float(equal.differences.max()),
            "<=",
            LARGEST_DIFFERENCE,
        )
        for equal in equals
    ]


if __name__ == "__main__":
    sys.exit(main())
