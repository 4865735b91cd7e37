"""What embedding costs as a catalogue grows tenfold: the driver's memory, time per unit, commit records and listings.

The cutouts are tiny and the encoder is small, so that what is measured is the engine around them.
"""

import io
import math
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from engine.cluster.protocol import commit, describe, read_commits
from engine.compute.rejects import rejects_table
from engine.compute.sky import healpix_29
from engine.storage.artefacts import claimed, read_manifest
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import FileRecord
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.process import CommandError, run
from tests.benchmarks.table import Bar, Table, console

SIZES = (20_000, 200_000)
ROWS_PER_UNIT = 100
SIDE = 16
PRESET = {"bands": "grey", "resize": 32, "crop": 32, "filter": "bilinear", "mean": [0.5], "std": [0.5]}
SAMPLE_EVERY_S = 0.5
ROWS_PER_FILE = 20_000
READS = 3

DRIVER_BYTES_PER_CUTOUT = 100
"""At units of 100; units of 512, the default of a large catalogue, cost a fifth of that."""
TENFOLD_UNITS_COST = 1.25
TENFOLD_COMMITS_COST = 1.5


class Run(NamedTuple):
    """What embedding one size took."""

    n_units: int
    at_work_s: float
    driver_rss_bytes: int
    """Largest, over the whole command."""
    rss_slope: float
    """Bytes that the driver's memory grew by per cutout done, from a fifth of the work to its end; least squares."""
    commit_read_s: float
    """Listing and reading one commit record, of as many as there are units."""


def measure(work: Path, weights: Path) -> tuple[Table, list[Bar]]:
    """Embed both sizes; compare."""
    (work / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    small, large = (_embed(n, work, weights) for n in SIZES)
    unit_cost = (large.at_work_s / large.n_units) / (small.at_work_s / small.n_units)
    commit_cost = large.commit_read_s / small.commit_read_s
    rows = [
        [
            f"{n:,}",
            f"{found.n_units:,}",
            f"{n / found.at_work_s:,.0f}",
            f"{1e3 * found.at_work_s / found.n_units:.1f}",
            f"{found.driver_rss_bytes / 2**20:,.0f}",
            f"{found.rss_slope:,.1f}",
            f"{1e3 * found.commit_read_s:.2f}",
        ]
        for n, found in zip(SIZES, (small, large), strict=True)
    ]
    table = Table(
        f"Ten times as many units of {ROWS_PER_UNIT} cutouts of {SIDE} px",
        (
            "cutouts",
            "units",
            "cutouts/s",
            "ms per unit",
            "driver MiB",
            "its bytes per cutout",
            "ms to list and read a commit",
        ),
        rows,
        "One run each. The driver's memory is its largest, most of it libraries; then how it grows with the work done.",
    )
    bars = [
        Bar("scale: driver bytes per cutout", large.rss_slope, "<=", DRIVER_BYTES_PER_CUTOUT),
        Bar("scale: cost of a unit, tenfold units", unit_cost, "<=", TENFOLD_UNITS_COST),
        Bar("scale: cost of a commit's listing, tenfold units", commit_cost, "<=", TENFOLD_COMMITS_COST),
    ]
    return table, bars


def _embed(n: int, work: Path, weights: Path) -> Run:
    console.print(f"scale: {n:,} tiny cutouts")
    catalogue, output = work / f"tiny-{n}", work / f"scale-{n}"
    write_catalogue(catalogue, n)
    options = ["--catalogue", catalogue, "--output", output, "--preset", work / "tiny.yaml"]
    options += [
        "--architecture",
        "test_efficientnet",
        "--weights",
        weights,
        "-s",
        f"plan.rows_per_unit={ROWS_PER_UNIT}",
    ]
    run([VOORWERP, "plan", *options])
    store = Store(str(output))
    samples = sampled([VOORWERP, "embed", *options], store)
    n_units = read_manifest(store, "plan", claimed(store, "plan")).counts["units"]
    at_work_s = read_manifest(store, "embeddings", claimed(store, "embeddings")).durations_s["at_work"]
    n_done, rss_bytes = samples.T
    working = (n_done >= n_units / 5) & (n_done < n_units)
    slope = float(np.polyfit(n_done[working], rss_bytes[working], 1)[0]) / ROWS_PER_UNIT
    return Run(n_units, at_work_s, int(rss_bytes.max()), slope, _commit_read_s(work / f"commits-{n}", n_units))


def write_catalogue(path: Path, n: int) -> None:
    """Write a catalogue in sky order that holds its cutouts, in files of `ROWS_PER_FILE`."""
    generator = np.random.default_rng(n)
    images = []
    for _ in range(256):
        sink = io.BytesIO()
        Image.fromarray(generator.integers(0, 255, (SIDE, SIDE), np.uint8)).save(sink, "JPEG")
        images.append(sink.getvalue())
    ra_deg, dec_deg = generator.uniform(0, 360, n), np.degrees(np.arcsin(generator.uniform(-1, 1, n)))
    order = np.argsort(healpix_29(ra_deg, dec_deg), kind="stable")
    columns: dict[str, Any] = {"object_id": np.arange(n), "ra_deg": ra_deg[order], "dec_deg": dec_deg[order]}
    table = pa.table(
        {**columns, "cutout": pa.array([images[number % len(images)] for number in range(n)], pa.binary())}
    )
    path.mkdir()
    for start in range(0, n, ROWS_PER_FILE):
        rows = table.slice(start, ROWS_PER_FILE)
        pq.write_table(rows, path / f"{start:07d}.parquet", row_group_size=ROWS_PER_UNIT)


def sampled(command: list[str | Path], store: Store, every_s: float = SAMPLE_EVERY_S) -> np.ndarray:
    """Run a command to its end; sample (commits there, resident bytes of its own process): (n, 2) float64."""
    samples = []
    with subprocess.Popen([str(part) for part in command], stderr=subprocess.PIPE, text=True) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            n_commits = sum(path.endswith(".json") for path in store.list(paths.WORK))
            with suppress(psutil.Error):
                samples.append((n_commits, watched.memory_info().rss))
            time.sleep(every_s)
        _, said = process.communicate()
    if process.returncode:
        raise CommandError(f"expected exit code 0, found {process.returncode}: {said[-2000:]}")
    return np.array(samples, np.float64)


def _commit_read_s(folder: Path, n_units: int) -> float:
    """Time a listing and reading of commit records, per record; best of `READS`."""
    store = Store(str(folder))
    ids = pa.chunked_array([pa.array(range(ROWS_PER_UNIT), pa.int64())])
    nothing = {"object_id": pa.array([], pa.int64()), "ra_deg": pa.array([], pa.float64())}
    empty = pa.table({**nothing, "dec_deg": pa.array([], pa.float64()), "cutout": pa.array([], pa.string())})
    files = [FileRecord(path="parts/1-1-1-0123456789ab.parquet", size_bytes=1, sha256="0" * 64)]
    for number in range(n_units):
        record = describe(f"1-1-{number}", 1, ids, rejects_table(empty, []), files, {"total": 1.0, "encode": 1.0})
        commit(store, "e", record)
    best_s = math.inf
    for _ in range(READS):
        started = time.perf_counter()
        n_read = sum(1 for _ in read_commits(store, "e"))
        best_s = min(best_s, time.perf_counter() - started)
        if n_read != n_units:
            raise CommandError(f"expected {n_units} commit records, read {n_read}")
    return best_s / n_units
