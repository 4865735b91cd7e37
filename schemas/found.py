"""What a search found, and what is to be said of all of it."""

from typing import NamedTuple

import pyarrow as pa


class Found(NamedTuple):
    """Answers to the queries of one question."""

    table: pa.Table
    """Rows of `schemas.tables.neighbours_schema`, by query, then by rank."""
    recall: float | None
    """As measured when the index was built, of approximate answers; None where they are exact."""
    shards_asked: int
    """Shards that took part: they were searched, or it is certain that nothing in them is nearer."""
    n_shards: int
    """Of the index."""
