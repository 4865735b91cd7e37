"""What may be asked of the map of a release over HTTP, and what is answered."""

from typing import Annotated

from pydantic import Field

from schemas.config import Section
from schemas.manifest import Record
from schemas.map import MapColumn
from schemas.service import TableParameters

MOST_POINTS = 1_048_576
"""In one answer."""
MOST_ROWS_IN_URL = 200

PointRow = Annotated[int, Field(ge=0, lt=2**31)]
"""Number of a point in the order in which points are answered, from 0."""


class PointsParameters(Section):
    """Which points, and what of them."""

    column: str | None = Field(
        None, min_length=1, max_length=256, description="values of this column instead of positions"
    )
    map: str | None = Field(None, max_length=64, description="id of the map, so that answers can be kept for long")
    start: PointRow = Field(0, description="points to leave out at the beginning")
    n: int = Field(65_536, ge=1, le=MOST_POINTS, description="points at most")


class PointIdsParameters(Section):
    """A few points in a URL."""

    row: list[PointRow] = Field(min_length=1, max_length=MOST_ROWS_IN_URL, description="may be given several times")


class PointsQuestion(Section):
    """Points by their rows."""

    rows: tuple[Annotated[PointRow, Field(strict=True)], ...] = Field(min_length=1, description="numbers of points")


class PointsTableParameters(TableParameters):
    """How a table of points is to be written."""


class MapAnswer(Record):
    """The map that is served.

    Points come in an order whose every beginning is a fair sample of all of them: whoever wants fewer reads fewer.
    """

    release: str
    map: str
    created_utc: str
    n_objects: int
    """On the map."""
    n_points: int
    """That can be asked about: all of them, or a sample."""
    n_fitted: int
    """Objects that the map was fitted on; the others were placed by these."""
    x_min: float
    x_max: float
    y_min: float
    y_max: float
    columns: tuple[MapColumn, ...]
    most_points: int = MOST_POINTS
    """In one answer."""
    most_rows: int = 10_000
    """Objects in one table."""


class PointAnswer(Record):
    """The object of a point."""

    row: int
    object_id: str
    ra_deg: float
    dec_deg: float


class PointsAnswer(Record):
    """Objects of points, in the order in which they were asked about."""

    release: str
    map: str
    objects: tuple[PointAnswer, ...]
