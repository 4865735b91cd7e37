"""`make big-release`: a release of generated objects, without images, to try and to time large searches on.

Writes build/big, a release of 2 million objects, and build/big-queries.parquet, 100,000 positions; some match none.
"""

import argparse
import shutil
from pathlib import Path
from time import perf_counter

import numpy as np
import pyarrow as pa

from engine.compute.quantiser import n_cells_for
from engine.storage.parquet import write_table
from engine.storage.store import Store
from tests.benchmarks.vectors import made_up
from tests.generated import positions, write_release

OUTPUT = Path(__file__).parents[2] / "build" / "big"
_SCATTER_DEG = 0.5 / 3600
_FAR = 100
"""One in so many queries is moved by a degree: no object need be there."""


def generate(output: Path, n: int, n_queries: int) -> None:
    """Write the release and, beside it, the queries."""
    random = np.random.default_rng(1)
    ra_deg, dec_deg = positions(n)
    objects = {
        "object_id": pa.array(random.permutation(n) + 10**15),
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "magnitude": random.uniform(14, 22, n),
    }
    shutil.rmtree(output, ignore_errors=True)
    write_release(output, objects, made_up(n, 0)[0], n_shards=4, n_cells=n_cells_for(n), rows_per_partition=20_000)
    asked = random.choice(n, n_queries, replace=False)
    moved = dec_deg[asked] + random.normal(0, _SCATTER_DEG, n_queries) + (np.arange(n_queries) % _FAR == 0)
    queries = {"ra_deg": ra_deg[asked], "dec_deg": np.clip(moved, -90, 90)}
    write_table(Store(str(output.parent)), f"{output.name}-queries.parquet", pa.table(queries))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("-n", type=int, default=2_000_000)
    parser.add_argument("--queries", type=int, default=100_000)
    given = parser.parse_args()
    started = perf_counter()
    generate(given.output, given.n, given.queries)
    print(f"{given.n:,} objects and {given.queries:,} queries in {perf_counter() - started:,.0f} s: {given.output}")
