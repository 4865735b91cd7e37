"""What an index says about itself, in its manifest."""

from typing import Literal

from schemas.manifest import FileRecord, Record

IndexKind = Literal["flat", "ivf-flat", "hnsw-flat"]
"""FAISS indexes that are right under L1; every other kind is refused before FAISS sees it."""


class Known(Record):
    """A question whose answer is known: asked again whenever the shard is opened."""

    row: int
    rows: list[int]
    """The rows nearest to it, itself among them."""
    distances: list[float]


class ShardRecord(Record):
    """A shard that was built: its files, and the box that bounds how near its objects can be to a query."""

    number: int
    n_rows: int
    low: list[float]
    """Smallest value of each component; empty for a shard without objects."""
    high: list[float]
    known: list[Known]
    files: list[FileRecord]
    """Boxes, FAISS index, objects."""
    rows_sha256: str = ""
    """Of its objects and vectors: a shard of the next release that has the same is not built again."""


class Setting(Record):
    """A setting of approximate search, and the share of the true neighbours that it found."""

    effort: int
    """Cells probed per query; `efSearch` of an HNSW graph."""
    recall: float
    """Mean over held-out queries of the share of their nearest objects that was found, in [0, 1]."""


class IndexDetail(Record):
    """`detail` of an index's manifest."""

    metric: Literal["L1"] = "L1"
    kind: IndexKind
    dimension: int
    n_cells: int
    shards: list[ShardRecord]
    settings: list[Setting]
    """By rising effort. Empty for kind flat, which is exact."""
    recall_k: int
    """Neighbours that the recalls were measured with."""
    n_held_out: int
    """Queries that the recalls were measured with; none of them helped to place the cells, but in an index of one."""
