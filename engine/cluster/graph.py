"""The k-nearest-neighbour graph of a release: every object asked for its neighbours, in runs of blocks of a shard.

Blocks follow each other in component space, so that a run asks few shards; its vectors are in the blocks already.
"""

from typing import Any

import numpy as np
import pyarrow as pa

from engine.cluster.opened import OpenRelease
from engine.cluster.parts import Made
from engine.compute.boxes import BLOCK_ROWS
from engine.compute.search import Conditions, Places, nearest
from schemas.tables import DISTANCE, NEIGHBOUR_ID, NONE_QUALIFIES, OBJECT_ID, OK, RANK, graph_schema

_ROWS_PER_UNIT = 500_000
_OBJECTS_PER_UNIT = (BLOCK_ROWS, 128 * BLOCK_ROWS)


def runs(release: OpenRelease, rows_per_object: int) -> list[dict[str, Any]]:
    """Cut the shards into units of so many blocks that each makes about half a million rows."""
    fewest, most = _OBJECTS_PER_UNIT
    n_blocks = min(max(_ROWS_PER_UNIT // rows_per_object, fewest), most) // BLOCK_ROWS
    return [
        {"unit": f"{number:05d}-{start:07d}", "shard": number, "start": start, "stop": start + n_blocks}
        for number, shard in enumerate(release.shards)
        for start in range(0, -(-shard.n_rows // BLOCK_ROWS), n_blocks)
    ]


def n_objects(release: OpenRelease, record: dict[str, Any]) -> int:
    """Count the objects of a run."""
    n_rows = release.shards[record["shard"]].n_rows
    return min(n_rows, record["stop"] * BLOCK_ROWS) - record["start"] * BLOCK_ROWS


def objects_of(release: OpenRelease, record: dict[str, Any]) -> tuple[Places, np.ndarray]:
    """Return the places (m,) of a run's objects and their vectors (m, d)."""
    made = release.shards[record["shard"]].boxes
    blocks = slice(record["start"], record["stop"])
    rows = made.rows[blocks].ravel()
    vectors = made.blocks[blocks].swapaxes(1, 2).reshape(-1, made.dimension)[rows >= 0]
    rows = rows[rows >= 0]
    return Places(np.full(len(rows), record["shard"], np.int32), rows), vectors


def neighbours_of_run(release: OpenRelease, record: dict[str, Any], k: int, device: str | None) -> Made:
    """Find the k nearest others of each object of a run: rows of `graph_schema`, by object, then by rank."""
    places, vectors = objects_of(release, record)
    found = nearest(release.shards, vectors, k, Conditions(places), device=device)
    ids = release.take(places, [OBJECT_ID])[OBJECT_ID]
    at, rank = np.nonzero(found.places.rows >= 0)
    neighbours = Places(found.places.shards[at, rank], found.places.rows[at, rank])
    columns = {
        OBJECT_ID: ids.take(pa.array(at)),
        RANK: pa.array(rank + 1, pa.int32()),
        NEIGHBOUR_ID: release.take(neighbours, [OBJECT_ID])[OBJECT_ID],
        DISTANCE: pa.array(found.distances[at, rank]),
    }
    has_any = found.places.rows[:, 0] >= 0
    status = pa.chunked_array([np.where(has_any, OK, NONE_QUALIFIES)], pa.string())
    return Made(pa.table(columns, schema=graph_schema(ids.type)), ids, status)
