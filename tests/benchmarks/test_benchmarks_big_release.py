from pathlib import Path

import pyarrow.parquet as pq

from jobs import neighbours
from schemas.config import NeighboursJob, QueryFileConfig
from tests.benchmarks.big_release import generate


def test_a_generated_release_is_searched_by_the_positions_beside_it(tmp_path: Path) -> None:
    generate(tmp_path / "big", 2_000, 200)
    queries = QueryFileConfig(path=str(tmp_path / "big-queries.parquet"))
    job = NeighboursJob(
        release=str(tmp_path / "big"),
        queries=queries,
        k=5,
        match_radius_arcsec=5,
        output=str(tmp_path / "near.parquet"),
    )
    neighbours.run(job)
    status = pq.read_table(tmp_path / "near.parquet")["status"].to_pylist()
    assert status.count("ok") >= 5 * 195
    assert len(set(status)) == 2
