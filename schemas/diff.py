"""What a comparison of two releases is, and what it says."""

from typing import Literal

from pydantic import Field

from schemas.config import Section
from schemas.manifest import Record


class DiffJob(Section):
    """A comparison of two releases."""

    release: str = Field(description="output folder of the newer release")
    previous: str | None = Field(None, description="output folder of the older one; the same output when null")
    as_of: str | None = Field(None, description="id of the newer release; the current one when null")
    previous_as_of: str | None = Field(
        None, description="id of the older release; the one published before, or current in `previous`, when null"
    )
    k: int = Field(10, ge=1, le=1000, description="neighbours that are compared")
    sample: int = Field(1000, ge=0, le=10_000_000, description="objects whose neighbours are compared; 0: of none")
    seed: int = Field(0, ge=0, description="of the sample")
    output: str | None = Field(None, description="folder or s3:// URI for the tables; only a summary when null")


class NeighboursDiff(Record):
    """How the neighbours of objects that are in both releases changed."""

    k: int
    n_asked: int
    n_unchanged: int
    """Objects whose nearest are the same set."""
    mean_shared: float
    """Of the k nearest, in [0, k]."""


class Diff(Record):
    """`diff.json`: the summary of a comparison."""

    format: Literal[1] = 1
    release: str
    previous: str
    same_basis: bool
    """Whether both have the same principal components: else distances differ although no galaxy does."""
    counts: dict[str, int]
    neighbours: NeighboursDiff | None
    created_utc: str
