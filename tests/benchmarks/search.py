"""`make bench-search`: exact and approximate L1 search against its rivals, reduction, and real galaxies.

Rates are queries per second of CPU time, each method on one thread: the machine may be shared, and CPU time is not. The
galaxies are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from time import perf_counter, process_time
from typing import NamedTuple

import faiss
import numpy as np
from scipy.spatial import cKDTree
from sklearn.neighbors import BallTree

from engine.compute import approximate, boxes
from engine.compute.boxes import Boxes
from engine.compute.quantiser import n_cells_for, nearest_cells, share_out, train
from engine.compute.search import nearest
from tests.benchmarks import pca, real_neighbours
from tests.benchmarks.galaxies import missing
from tests.benchmarks.process import CommandError
from tests.benchmarks.table import Bar, Table, console, finish, machine
from tests.benchmarks.vectors import CLUSTERED, DIMENSION, REAL_LIKE, Shape, made_up

K = 50
N_BULK, N_SINGLE = 10_000, 200
SIZES = (1_000_000, 5_000_000)
CURVE = (100_000, 300_000, 1_000_000, 2_000_000, 5_000_000)
SHARDS = (1, 4, 16)
ROUNDS = 3
EFFORTS = (16, 24, 32, 48, 64, 96, 128)
N_OF = {"IndexFlat (L1)": 300, "cKDTree (p=1)": 1_000, "BallTree (manhattan)": 300}
"""Queries that slow rivals get, of the 10,000."""
FLAT, TREE, BALL = N_OF
OURS = "voorwerp exact"
RECALL = 0.995
SHARD_MIB = 128

TIMES_FLAT, TIMES_TREE, TIMES_BALL, APPROXIMATE_TIMES_FLAT = 8.0, 4.0, 15.0, 25.0


class Method(NamedTuple):
    """One way to search."""

    name: str
    n: int
    search: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Queries to distances and rows."""


class Measured(NamedTuple):
    """What a way to search reached on a set."""

    name: str
    per_cpu_s: float
    recall: float


class Built(NamedTuple):
    """A set, and what was built of it."""

    vectors: np.ndarray
    queries: np.ndarray
    made: Boxes
    ivf: faiss.Index
    centroids: np.ndarray
    build_s: dict[str, float]


class InMemory:
    """A shard that is not on disk."""

    def __init__(self, vectors: np.ndarray) -> None:
        self.n_rows = len(vectors)
        self.boxes = boxes.build(vectors)
        self.low, self.high = boxes.bounding_box(self.boxes)
        self.directions = np.empty((0, 3))
        self.approximate = None

    def ids(self, rows: np.ndarray) -> list[int]:
        """Rows are ids enough: no two of these shards have a distance in common."""
        return rows.tolist()


def main() -> int:
    """Run the benchmark; return the exit code."""
    if complaint := missing(list(real_neighbours.SETS)):
        print(complaint)
        return 2
    started_on = machine()
    faiss.omp_set_num_threads(1)
    tables: list[Table] = []
    bars: list[Bar] = []
    ratios = {}
    for n in SIZES:
        _say(f"build over {n:,} vectors")
        built = build(n)
        _say(f"search among {n:,} vectors")
        measured = race(built, with_trees=n == SIZES[0])
        tables += [race_table(n, measured), build_table(n, built)]
        rates = {one.name: one.per_cpu_s for one in measured}
        ratios[n] = rates[OURS] / rates[FLAT]
        bars += race_bars(n, measured) if n == SIZES[0] else []
        if n == SIZES[-1]:
            _say("search shards")
            tables.append(sharded(built))
        del built
    _say(f"search among {SIZES[0]:,} vectors like those of real galaxies")
    tables.append(race_table(SIZES[0], race(build(SIZES[0], REAL_LIKE), with_trees=True), "nearly one cloud"))
    bars.append(Bar("exact: ratio to IndexFlat at 5 M / at 1 M", ratios[SIZES[1]] / ratios[SIZES[0]], ">=", 1.0))
    _say("cost curve")
    tables.append(cost_curve())
    _say("PCA against scikit-learn, some minutes")
    more_tables, more_bars = pca.measure()
    tables += more_tables
    bars += more_bars
    work = Path(mkdtemp(prefix="voorwerp-bench-"))
    try:
        for variable in ("RAY_ADDRESS", "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"):
            os.environ.pop(variable, None)
        tables += real_neighbours.measure(work, _say)
    except CommandError as error:
        print(error)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return finish("search", "make bench-search", started_on, tables, bars)


def build(n: int, shape: Shape = CLUSTERED) -> Built:
    """Build boxes, cells and a FAISS index over a set."""
    vectors, queries = made_up(n, N_BULK, shape)
    boxes.search(boxes.build(vectors[:1000]), queries[:10], K)  # Compile.
    seconds = {}
    started = process_time()
    made = boxes.build(vectors)
    seconds["boxes"] = process_time() - started
    started = process_time()
    n_cells = n_cells_for(n)
    sample = vectors[np.random.default_rng(0).choice(n, min(n, 64 * n_cells), replace=False)]
    centroids = train(sample, n_cells)
    seconds["cells (k-means)"] = process_time() - started
    started = process_time()
    ivf = approximate.build(vectors, "ivf-flat", centroids)
    seconds["FAISS IVF-Flat"] = process_time() - started
    return Built(vectors, queries, made, ivf, centroids, seconds)


def race(built: Built, with_trees: bool) -> list[Measured]:
    """Let all methods answer the same queries, in turns; medians of the rounds."""
    vectors, queries, made, ivf, centroids, _ = built
    flat = faiss.IndexFlat(DIMENSION, faiss.METRIC_L1)
    flat.add(vectors)

    def ours(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = boxes.search(made, part, K)
        return found.distances, found.rows

    def probing(effort: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        return lambda part: approximate.search(ivf, part, K, effort, nearest_cells(part, centroids, effort))

    methods = [Method(FLAT, N_OF[FLAT], lambda part: flat.search(part, K)), Method(OURS, N_BULK, ours)]
    if with_trees:
        tree, ball = cKDTree(vectors), BallTree(vectors, metric="manhattan")
        methods += [
            Method(TREE, N_OF[TREE], lambda part: tree.query(part, K, p=1, workers=1)),
            Method(BALL, N_OF[BALL], lambda part: ball.query(part, K)),
        ]
    methods += [Method(f"IVF-Flat, {effort} cells", N_BULK, probing(effort)) for effort in EFFORTS]
    exact = methods[0].search(queries[: N_OF[FLAT]])
    seconds: dict[str, list[float]] = {method.name: [] for method in methods}
    recalls = {}
    for number in range(ROUNDS):
        for method in methods:
            started = process_time()
            found = method.search(queries[: method.n])
            seconds[method.name].append((process_time() - started) / method.n)
            if number == 0:
                recalls[method.name] = recall(vectors, queries, exact, found)
    return [Measured(name, 1 / median(times), recalls[name]) for name, times in seconds.items()]


def recall(
    vectors: np.ndarray, queries: np.ndarray, exact: tuple[np.ndarray, np.ndarray], found: tuple[np.ndarray, np.ndarray]
) -> float:
    """Share of found objects that are no farther than brute force's last, but for rounding.

    Which of several equally far objects is last is a matter of taste; that it is as near is not. Distances are computed
    anew, in float64, so that no method is believed.
    """
    n = len(exact[0])
    rows = np.asarray(found[1][:n])
    apart = np.abs(vectors[np.maximum(rows, 0)].astype(float) - queries[:n, np.newaxis]).sum(axis=2)
    apart[rows < 0] = np.inf
    unique = np.array([len(np.unique(row[row >= 0])) for row in rows])
    near = (apart <= exact[0][:, -1:] * (1 + 1e-6) + 1e-6).sum(axis=1)
    return float(np.minimum(near, unique).mean() / K)


def race_table(n: int, measured: Sequence[Measured], spread: str = "clustered") -> Table:
    flat = next(one.per_cpu_s for one in measured if one.name == FLAT)
    rows = [[one.name, f"{one.per_cpu_s:,.0f}", f"{one.per_cpu_s / flat:.1f}", f"{one.recall:.4f}"] for one in measured]
    return Table(
        f"L1 search, {n:,} x {DIMENSION}, {spread}, k = {K}, {N_BULK:,} queries",
        ("method", "queries per CPU-s", "times IndexFlat", f"recall@{K}"),
        rows,
        f"One thread each, medians of {ROUNDS} rounds in turns. IndexFlat answers {N_OF[FLAT]} of the queries, cKDTree "
        f"{N_OF[TREE]:,}, BallTree {N_OF[BALL]}; recall over the {N_OF[FLAT]} that all answer. "
        f"IVF-Flat: {n_cells_for(n):,} cells.",
    )


def race_bars(n: int, measured: Sequence[Measured]) -> list[Bar]:
    rates = {one.name: one.per_cpu_s for one in measured}
    recalls = {one.name: one.recall for one in measured}
    good = [one for one in measured if one.name.startswith("IVF") and one.recall >= RECALL]
    best = max((one.per_cpu_s for one in good), default=float("nan"))
    return [
        Bar(f"exact: recall@{K} at 1 M", recalls[OURS], ">=", 1.0),
        Bar("exact: rate / IndexFlat (L1) at 1 M", rates[OURS] / rates[FLAT], ">=", TIMES_FLAT),
        Bar("exact: rate / cKDTree (p=1) at 1 M", rates[OURS] / rates[TREE], ">=", TIMES_TREE),
        Bar("exact: rate / BallTree (manhattan) at 1 M", rates[OURS] / rates[BALL], ">=", TIMES_BALL),
        Bar(
            f"approximate: rate / IndexFlat (L1) at 1 M, recall >= {RECALL}",
            best / rates[FLAT],
            ">=",
            APPROXIMATE_TIMES_FLAT,
        ),
    ]


def build_table(n: int, built: Built) -> Table:
    """What an index costs, and one query at a time."""
    started = perf_counter()
    for query in built.queries[:N_SINGLE]:
        boxes.search(built.made, query[np.newaxis], K)
    single_ms = (perf_counter() - started) / N_SINGLE * 1e3
    rows = [[f"build {name}", f"{seconds / n * 1e6:.2f} CPU-s per million"] for name, seconds in built.build_s.items()]
    box_bytes = sum(array.nbytes for array in built.made)
    rows += [
        ["boxes", f"{box_bytes / n:.1f} bytes per object"],
        ["FAISS IVF-Flat", f"{len(faiss.serialize_index(built.ivf)) / n:.1f} bytes per object"],
        ["one query alone, exact", f"{single_ms:.2f} ms"],
    ]
    return Table(f"An index of {n:,} objects", ("what", "measured"), rows)


def sharded(built: Built) -> Table:
    """The same set in several shards: the same answers, and how many shards a query has to ask."""
    vectors, queries, made, _, centroids, _ = built
    whole = boxes.search(made, queries, K)
    cells = nearest_cells(vectors, centroids, 1)[:, 0]
    rows = []
    for n_shards in SHARDS:
        shard_of = share_out(centroids, np.bincount(cells, minlength=len(centroids)), n_shards)[cells]
        members = [np.flatnonzero(shard_of == number) for number in range(n_shards)]
        shards = [InMemory(vectors[at]) for at in members]
        started = process_time()
        found = nearest(shards, queries, K)
        seconds = (process_time() - started) / len(queries)
        same = np.array_equal(found.distances, whole.distances)
        sizes = [len(at) for at in members]
        rows.append(
            [
                str(n_shards),
                f"{1 / seconds:,.0f}",
                f"{found.n_shards.mean():.2f}",
                f"{found.n_compared.mean() / len(vectors):.2%}",
                f"{max(sizes) / np.mean(sizes):.2f}",
                "yes" if same else "NO",
            ]
        )
    return Table(
        f"{len(vectors):,} objects in shards, k = {K}",
        ("shards", "queries per CPU-s", "shards asked", "objects compared", "largest / mean", "same distances"),
        rows,
        "Shards hold cells that lie together; a query asks the nearest one, then those that can hold a nearer object.",
    )


def cost_curve() -> Table:
    """Cost of an exact query by the size of the catalogue, and what a power law makes of it."""
    shares, seconds = [], []
    for n in CURVE:
        vectors, queries = made_up(n, 2_000)
        made = boxes.build(vectors)
        timed = []
        for _ in range(ROUNDS):
            started = process_time()
            found = boxes.search(made, queries, K)
            timed.append((process_time() - started) / len(queries))
        shares.append(found.n_compared.mean() / n)
        seconds.append(median(timed))
    slope, at_one = np.polyfit(np.log(CURVE), np.log(seconds), 1)
    rows = [
        [f"{n:,}", "measured", f"{share:.2%}", f"{second * 1e6:,.0f}", f"{1 / second:,.0f}", "", ""]
        for n, share, second in zip(CURVE, shares, seconds, strict=True)
    ]
    per_shard = (SHARD_MIB << 20) // boxes.bytes_per_vector(DIMENSION)
    for n in (100_000_000, 1_000_000_000):
        second = float(np.exp(at_one) * n**slope)
        size_gb = n * boxes.bytes_per_vector(DIMENSION) / 1e9
        row = [f"{n:,}", "extrapolated", "", f"{second * 1e6:,.0f}", f"{1 / second:,.0f}"]
        rows.append([*row, f"{-(-n // per_shard):,}", f"{size_gb:,.0f} GB"])
    return Table(
        f"Cost of an exact query, k = {K}, by the size of the catalogue",
        ("objects", "", "compared", "CPU us per query", "queries per CPU-s", f"shards of {SHARD_MIB} MiB", "boxes"),
        rows,
        f"Time grows as n to the {slope:.2f} here. The extrapolation assumes that this goes on, that the boxes "
        "are in memory, and that asking a shard costs nothing beside searching it; real catalogues may cluster "
        "otherwise. Comparing everything grows as n.",
    )


def _say(step: str) -> None:
    console.print(f"[dim]{step}[/dim]")


if __name__ == "__main__":
    sys.exit(main())
