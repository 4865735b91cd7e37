"""PCA of 200,000 x 1,280 embeddings from Parquet: ours against scikit-learn's IncrementalPCA, and both against exact.

Part of `make bench-search`; alone: `python -m tests.benchmarks.pca`.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import dask
import numpy as np
import pyarrow as pa
import scipy.linalg
from sklearn.decomposition import IncrementalPCA
from threadpoolctl import threadpool_limits

from engine.cluster.reduce import counting
from engine.compute.pca import solve
from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas.partition import Partition
from schemas.tables import EMBEDDING
from tests.benchmarks.table import Bar, Table, console

ROOT = Path(__file__).parents[2]
N_FILES, ROWS, DIMENSION = 20, 10_000, 1_280
NUMBERS = (10, 15, 40)
TIMES_SKLEARN, LARGEST_ANGLE_DEG = 10.0, 1e-4
THREADS = 2


class Timed(NamedTuple):
    """What a fit cost, and what it found."""

    wall_s: float
    cpu_s: float
    components: np.ndarray


def measure() -> tuple[list[Table], list[Bar]]:
    """Measure all; a few minutes."""
    store = generated()
    partitions = [Partition(5, pixel) for pixel in range(N_FILES)]
    ours = [fit_ours(store, partitions) for _ in range(3)]
    ours.sort(key=lambda timed: timed.cpu_s)
    sklearn = fit_sklearn(store, partitions)
    exact = exact_components(store, partitions)
    return report(ours[1], sklearn, exact)


def generated() -> Store:
    """Make the files, once: a random rotation of variances that fall as a power law, about a mean that is not zero."""
    store = Store(str(ROOT / "build" / "bench-pca"))
    generator = np.random.default_rng(0)
    rotation = np.linalg.qr(generator.normal(size=(DIMENSION, DIMENSION)))[0].astype(np.float32)
    spread = (np.arange(1, DIMENSION + 1) ** -0.75 + 0.01).astype(np.float32)
    mean = generator.normal(size=DIMENSION).astype(np.float32)
    for number in range(N_FILES):
        path = Partition(5, number).path
        if not store.exists(path):
            random = np.random.default_rng([1, number])
            rows = (random.standard_normal((ROWS, DIMENSION), np.float32) * spread) @ rotation + mean
            write_table(store, path, pa.table({EMBEDDING: as_vectors(rows)}))
    return store


def fit_ours(store: Store, partitions: Sequence[Partition]) -> Timed:
    """Fit as `voorwerp reduce` does: the same tasks and the same tree, on Dask's threads.

    One BLAS thread a task, as Ray's and dask.distributed's workers have it.
    """
    wall, cpu = perf_counter(), process_time()
    with threadpool_limits(1, "blas"):
        tree = counting(store, "generated", [partition.name for partition in partitions])
        (state,) = dask.compute(tree, scheduler="threads", num_workers=THREADS)
        components = solve(state.moments, max(NUMBERS)).components
    return Timed(perf_counter() - wall, process_time() - cpu, components)


def fit_sklearn(store: Store, partitions: Sequence[Partition]) -> Timed:
    """Fit with scikit-learn, a file at a time."""
    wall, cpu = perf_counter(), process_time()
    model = IncrementalPCA(n_components=max(NUMBERS))
    for partition in partitions:
        model.partial_fit(rows_of(store, partition))
    return Timed(perf_counter() - wall, process_time() - cpu, model.components_)


def exact_components(store: Store, partitions: Sequence[Partition]) -> np.ndarray:
    """Eigenvectors of the covariance in float64, from all rows about their mean."""
    mean = sum(rows_of(store, part).sum(axis=0, dtype=np.float64) for part in partitions) / (N_FILES * ROWS)
    scatter = np.zeros((DIMENSION, DIMENSION))
    for partition in partitions:
        centred = rows_of(store, partition) - mean
        scatter += centred.T @ centred
    return scipy.linalg.eigh(scatter)[1].T[::-1]


def rows_of(store: Store, partition: Partition) -> np.ndarray:
    return as_matrix(read_table(store, partition.path, [EMBEDDING])[EMBEDDING])


def angle_deg(found: np.ndarray, exact: np.ndarray, k: int) -> float:
    """Largest principal angle between the spaces of the first k components."""
    return float(np.degrees(scipy.linalg.subspace_angles(found[:k].T, exact[:k].T).max()))


def report(ours: Timed, sklearn: Timed, exact: np.ndarray) -> tuple[list[Table], list[Bar]]:
    angles = {
        name: [angle_deg(np.asarray(timed.components, np.float64), exact, k) for k in NUMBERS]
        for name, timed in (("moments, tree", ours), ("scikit-learn IncrementalPCA", sklearn))
    }
    rows = [
        [name, f"{timed.wall_s:.1f}", f"{timed.cpu_s:.1f}", *(f"{angle:.1e}" for angle in angles[name])]
        for name, timed in zip(angles, (ours, sklearn), strict=True)
    ]
    size = N_FILES * ROWS
    table = Table(
        f"PCA of {size:,} x {DIMENSION} float32 from {N_FILES} Parquet files, k = {max(NUMBERS)}",
        ("method", "wall s", "CPU s", *(f"angle k={k} (deg)" for k in NUMBERS)),
        rows,
        f"Ours: median of 3, Dask on {THREADS} threads with one BLAS thread each, as its workers have it. "
        "scikit-learn: once, a file per partial_fit, BLAS on all cores. Reading included in both. "
        "Angles: largest principal angle to the float64 decomposition of all rows.",
    )
    bars = [Bar("PCA: wall time of scikit-learn / ours", sklearn.wall_s / ours.wall_s, ">=", TIMES_SKLEARN)]
    bars += [
        Bar(f"PCA: largest angle (deg), k = {k}", angle, "<=", LARGEST_ANGLE_DEG)
        for k, angle in zip(NUMBERS, angles["moments, tree"], strict=True)
    ]
    return [table], bars


if __name__ == "__main__":
    tables, bars = measure()
    for table in tables:
        table.show()
    console.print(*(bar.line() for bar in bars), sep="\n")
    sys.exit(0 if all(bar.passed for bar in bars) else 1)
