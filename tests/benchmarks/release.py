"""`make bench-release`: what the next data release costs where little has changed, beside a whole one.

Everything made is kept in build/bench-release, so that a run that was stopped goes on; outputs that are timed are made
anew in every run.
"""

import shutil
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from PIL import Image

from engine.compute.changes import compare, outline
from engine.compute.sky import healpix_29
from engine.storage.artefacts import current_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Kind, Manifest
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.process import CommandError, Measured, run
from tests.benchmarks.table import Bar, Table, console, finish, machine
from tests.generated import positions

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench-release"
FIGURE = ROOT / "docs" / "figures" / "map-simulated.jpg"
N, SIDE = 50_000, 64
ADDED, CHANGED, DROPPED = 1_000, 500, 250
PRESET = {"bands": "rgb", "resize": SIDE, "crop": 56, "mean": [0.5] * 3, "std": [0.5] * 3}
N_PLANNED, N_MATCHED, N_MAPPED = 10_000_000, 100_000, 200_000
MOST_BYTES = 4 * 10**9
REST = "first_id=100000000"


def main() -> int:
    """Run the benchmark; return the exit code."""
    started_on = machine()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        tables, bars = _two_releases()
        for more in (_planning(), _matching(), _mapping()):
            tables += more[0]
            bars += more[1]
    except CommandError as error:
        print(error)
        return 1
    return finish("release", "make bench-release", started_on, tables, bars)


def _two_releases() -> tuple[list[Table], list[Bar]]:
    """One release, then the next: onto it with both policies, and from scratch."""
    first, second = _catalogues()
    scratch, once = WORK / "scratch", WORK / "first"
    runs = {"first release": _release(first, once, fresh=True)}
    for basis in ("keep", "refit"):
        runs[f"second, onto it, {basis}"] = _release(second, WORK / basis, basis)
    runs["second, from scratch"] = _release(second, scratch)
    rows = []
    for name, (wall, made) in runs.items():
        took = {stage: _duration(made[kind]) for stage, kind in _STAGES.items()}
        n_embedded = made["embeddings"].counts["embedded"] - made["embeddings"].counts.get("carried", 0)
        rows.append(
            [
                name,
                f"{n_embedded:,}",
                f"{wall.wall_s:.0f}",
                *(f"{seconds:.1f}" for seconds in took.values()),
                f"{made['embeddings'].durations_s['at_work']:.1f}",
            ]
        )
    full, kept = runs["second, from scratch"][1]["embeddings"], runs["second, onto it, keep"][1]["embeddings"]
    vectors = {name: _by_id(WORK / name, "embeddings", "embedding") for name in ("keep", "refit", "scratch")}
    components = {name: _by_id(WORK / name, "components", "components") for name in ("refit", "scratch")}
    drift = runs["second, onto it, keep"][1]["components"].detail["drift"]
    note = (
        f"{N:,} simulated galaxies, {ADDED:,} added, {CHANGED:,} with another cutout, {DROPPED:,} dropped; "
        f"efficientnet_lite0 at {PRESET['crop']} px. Seconds; embed is that stage with starting its workers and "
        "writing partitions, at work from its first batch to its last commit. "
        f"Kept components hold {drift['variance_kept']:.3%} of the variance, refitted ones "
        f"{drift['variance_refit']:.3%}; "
        f"{drift['neighbours_kept']:.1%} of the 10 nearest stay."
    )
    columns = ("release", "embedded", "wall", *_STAGES, "at work")
    return [Table("The next data release", columns, rows, note)], [
        Bar("update / full: time at work of embedding", _ratio(kept, full, "at_work"), "<=", 0.10),
        Bar("update / full: cutouts embedded", _new(kept) / _new(full), "<=", 0.10),
        Bar("refit: largest difference of vectors from scratch, relative", _apart(vectors, "refit"), "<=", 1e-5),
        Bar("keep: largest difference of vectors from scratch, relative", _apart(vectors, "keep"), "<=", 1e-5),
        Bar("refit: largest difference of components, relative", _apart(components, "refit"), "<=", 1e-4),
        Bar("keep: share of the 10 nearest that a refit would keep", drift["neighbours_kept"], ">=", 0.95),
    ]


_STAGES: dict[str, Kind] = {"plan": "plan", "embed": "embeddings", "reduce": "components", "index": "index"}


def _duration(manifest: Manifest) -> float:
    parts = {"embeddings": ("embed", "assemble"), "components": ("fit", "project")}.get(manifest.kind)
    return sum(manifest.durations_s[part] for part in parts or [manifest.kind])


def _new(embeddings: Manifest) -> int:
    return embeddings.counts["embedded"] - embeddings.counts.get("carried", 0)


def _ratio(update: Manifest, full: Manifest, key: str) -> float:
    return update.durations_s[key] / full.durations_s[key]


def _apart(vectors: dict[str, tuple[np.ndarray, np.ndarray]], name: str) -> float:
    """Largest difference from the release made from scratch, relative to the largest value; infinite for other ids."""
    (ids, mine), (expected_ids, expected) = vectors[name], vectors["scratch"]
    if not np.array_equal(ids, expected_ids):
        return float("inf")
    return float(np.abs(mine - expected).max() / np.abs(expected).max())


def _by_id(output: Path, kind: Kind, column: str) -> tuple[np.ndarray, np.ndarray]:
    store = Store(str(output))
    manifest = current_manifest(store, kind)
    table = read_columns(store.below(paths.artefact(kind, manifest.id)), ["object_id", column]).sort_by("object_id")
    return table["object_id"].to_numpy(), as_matrix(table[column])


def _catalogues() -> tuple[Path, Path]:
    """Simulate both surveys; the second has cutouts of the first for most of its galaxies."""
    old, new = WORK / "old", WORK / "new"
    _voorwerp("simulate", old, "-n", N, "--seed", 21, "--tar", "-s", f"side={SIDE}")
    _voorwerp("simulate", new, "-n", ADDED + CHANGED, "--seed", 22, "--tar", "-s", f"side={SIDE}", "-s", REST)
    first, rest = (pq.read_table(folder / "catalogue.parquet") for folder in (old, new))
    columns = [name for name in first.column_names if name in rest.column_names]
    first, rest = (
        table.select(columns).set_column(
            columns.index("cutout"), "cutout", pc.binary_join_element_wise(str(folder), table["cutout"], "/")
        )
        for table, folder in ((first, old), (rest, new))
    )
    place = columns.index("cutout")
    changed = pa.chunked_array(
        [pa.concat_arrays([rest["cutout"][ADDED:].combine_chunks(), first["cutout"][CHANGED:].combine_chunks()])]
    )
    second = pa.concat_tables([first.set_column(place, "cutout", changed).slice(0, N - DROPPED), rest.slice(0, ADDED)])
    for name, table in (("first", first), ("second", second)):
        pq.write_table(table, WORK / f"{name}.parquet")
    return WORK / "first.parquet", WORK / "second.parquet"


def _release(
    catalogue: Path, output: Path, basis: str | None = None, fresh: bool = True
) -> tuple[Measured, dict[str, Any]]:
    """Release into a new folder, timed; return what it took and the manifests."""
    if fresh:
        shutil.rmtree(output, ignore_errors=True)
    preset = WORK / "preset.yaml"
    preset.write_text(yaml.safe_dump(PRESET))
    given = ["--catalogue", catalogue, "--architecture", "efficientnet_lite0", "--weights", "package:lite0"]
    given += ["--preset", preset, "-o", output]
    if basis:
        given += ["--onto", WORK / "first", "-s", f"onto.basis={basis}"]
    measured = _voorwerp("release", *given)
    return measured, {kind: current_manifest(Store(str(output)), kind) for kind in _STAGES.values()}


def _planning() -> tuple[list[Table], list[Bar]]:
    """Plan a large catalogue and compare it with the one before, in processes of their own."""
    catalogue = WORK / "large.parquet"
    if not catalogue.exists():
        ra_deg, dec_deg = positions(N_PLANNED, 4)
        ids = np.random.default_rng(4).permutation(N_PLANNED) + 10**15
        uris = pc.binary_join_element_wise("s3://survey/cutouts/", pa.array(ids).cast(pa.string()), ".jpg", "")
        table = {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg, "cutout": uris}
        pq.write_table(pa.table(table), catalogue, row_group_size=1_000_000)
    rows, peaks = [], []
    for name in ("plan", "compare"):
        measured = run([sys.executable, "-m", "tests.benchmarks.release", name, catalogue], timeout_s=3600)
        rows.append([name, f"{N_PLANNED / measured.wall_s:,.0f}", f"{measured.peak_rss_bytes / 1e9:.2f}"])
        peaks.append(measured.peak_rss_bytes)
    note = (
        f"{N_PLANNED:,} rows of id, position and URI, from Parquet. plan: rejects, sky order, partitions, units, ids "
        "digested; without asking a store about each cutout. compare: two outlines, 3 % of whose objects differ."
    )
    table = Table("A large catalogue", ("what", "rows/s", "largest memory, GB"), rows, note)
    return [table], [Bar("10 M rows: largest memory, GB", max(peaks) / 1e9, "<=", MOST_BYTES / 1e9)]


def plan_large(catalogue: str) -> None:
    """Plan without pinning cutouts: what a store takes to tell of each is its own."""
    from jobs import plan
    from schemas.config import CatalogueConfig, PlanConfig

    plan._located = lambda objects: objects.append_column(  # type: ignore[attr-defined]
        "cutout_size", pa.nulls(len(objects), pa.int64())
    ).append_column("cutout_version", pa.nulls(len(objects), pa.string()))
    output = WORK / "large"
    shutil.rmtree(output, ignore_errors=True)
    plan.run(CatalogueConfig(path=catalogue), PlanConfig(), Store(str(output)))


def compare_large(catalogue: str) -> None:
    """Compare two outlines as they are in memory after reading both plans."""
    parts = []
    for batch in pq.ParquetFile(catalogue).iter_batches(100_000):
        table = pa.Table.from_batches([batch])
        healpix = healpix_29(table["ra_deg"].to_numpy(), table["dec_deg"].to_numpy())
        table = table.add_column(0, "_healpix_29", pa.array(healpix))
        sizes = pa.array(np.full(len(table), 10_000))
        versions = pa.array(["0123456789abcdef0123456789abcdef"] * len(table))
        parts.append(outline(table.append_column("cutout_size", sizes).append_column("cutout_version", versions)))
    now = pa.concat_tables(parts)
    random = np.random.default_rng(0)
    keys = now["cutout_key"].to_numpy().copy()
    keys[random.choice(len(keys), len(keys) // 100, replace=False)] += 1
    before = now.set_column(now.column_names.index("cutout_key"), "cutout_key", pa.array(keys))
    before = before.take(pa.array(random.permutation(len(before))[: -len(before) // 50]))
    assert compare(now, before).counts["changed"] > 0


def _matching() -> tuple[list[Table], list[Bar]]:
    """Cross-match the embeddings with another catalogue by lsdb as it is."""
    import lsdb

    folder = (
        WORK / "scratch" / paths.artefact("embeddings", current_manifest(Store(str(WORK / "scratch")), "embeddings").id)
    )
    ra_deg, dec_deg, _ = (
        read_columns(Store(str(folder)), [name])[name].to_numpy() for name in ("ra_deg", "dec_deg", "object_id")
    )
    random = np.random.default_rng(5)
    n_near = min(len(ra_deg), N_MATCHED // 2)
    near = random.choice(len(ra_deg), n_near, replace=False)
    far_ra, far_dec = positions(N_MATCHED - n_near, 6)
    other = pa.table(
        {
            "source": np.arange(N_MATCHED),
            "ra": np.concatenate([ra_deg[near], far_ra]),
            "dec": np.concatenate([dec_deg[near] + 0.2 / 3600, far_dec]),
        }
    )
    started = perf_counter()
    sources = lsdb.from_dataframe(other.to_pandas(), ra_column="ra", dec_column="dec", margin_threshold=2)
    galaxies = lsdb.open_catalog(str(folder), columns=["object_id", "ra_deg", "dec_deg", "embedding"])
    matched = sources.crossmatch(galaxies, radius_arcsec=1, suffixes=("_source", ""), n_neighbors=1).compute()
    seconds = perf_counter() - started
    rows = [["rows in the other catalogue", f"{N_MATCHED:,}"], ["of them on a galaxy", f"{n_near:,}"]]
    rows += [["matched", f"{len(matched):,}"], ["seconds", f"{seconds:.1f}"]]
    return [Table("lsdb crosses the embeddings with another catalogue", ("what", "measured"), rows)], [
        Bar("lsdb: galaxies found again, share", len(matched) / n_near, ">=", 0.999)
    ]


def _mapping() -> tuple[list[Table], list[Bar]]:
    """Map generated vectors, and draw the atlas of the simulated galaxies."""
    from tests.benchmarks.vectors import made_up
    from tests.generated import write_release, write_space

    output = WORK / "mapped"
    if not (output / "current.json").exists():
        ra_deg, dec_deg = positions(N_MAPPED, 7)
        ids = np.arange(N_MAPPED)
        vectors = made_up(N_MAPPED, 0)[0]
        write_release(
            output, {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg}, vectors, rows_per_partition=20_000
        )
        fifteen = np.concatenate([vectors, vectors[:, :5] * 0.1], axis=1)
        write_space(output, "map", ids, fifteen)
    shutil.rmtree(output / "map", ignore_errors=True)
    mapped = _voorwerp("map", output)
    shutil.rmtree(WORK / "scratch" / "map", ignore_errors=True)
    atlas = WORK / "atlas.png"
    drawn = _voorwerp("map", WORK / "scratch", "--figure", atlas, "--columns", 40)
    with Image.open(atlas) as figure:
        figure.convert("RGB").reduce(2).save(FIGURE, quality=85)
    rows = [
        [f"{N_MAPPED:,} generated vectors", f"{mapped.wall_s:.0f}"],
        [f"{N:,} simulated galaxies, with the atlas", f"{drawn.wall_s:.0f}"],
    ]
    return [
        Table(
            "Maps",
            ("what", "seconds, the whole command"),
            rows,
            f"Figure: docs/figures/{FIGURE.name}, at half its size.",
        )
    ], []


def _voorwerp(command: str, *arguments: Any) -> Measured:
    console.print(f"voorwerp {command} {' '.join(map(str, arguments))[:110]}")
    return run([VOORWERP, command, *map(str, arguments)], timeout_s=2 * 3600)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        {"plan": plan_large, "compare": compare_large}[sys.argv[1]](sys.argv[2])
    else:
        sys.exit(main())
