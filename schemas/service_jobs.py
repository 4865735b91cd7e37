"""Bulk queries over HTTP: what is asked, what is kept of it, what is answered. Phases are those of IVOA UWS 1.1."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.config import Section
from schemas.manifest import FileRecord, Record
from schemas.service import NeighbourSettings, WithinCone

Phase = Literal["QUEUED", "EXECUTING", "COMPLETED", "ERROR", "ABORTED"]
"""UWS also has PENDING, for jobs that wait to be told to run; here a job runs when its turn comes."""
EndPhase = Literal["COMPLETED", "ERROR", "ABORTED"]
QueryKind = Literal["id", "position", "vector"]
UploadFormat = Literal["parquet", "csv", "fits", "votable"]
ResultFormat = Literal["parquet", "csv", "votable"]

MOST_WAIT_S = 20
"""For which a change of phase is waited for at most."""
MOST_LISTED = 1000

JobId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=256)]


class JobParameters(NeighbourSettings, WithinCone):
    """How the queries of a table are answered; columns are found by their names when none is given."""

    id_column: ColumnName | None = Field(None, description="ask about objects of the release, by their ids")
    ra_column: ColumnName | None = Field(None, description="ask about positions: right ascension, degrees")
    dec_column: ColumnName | None = Field(None, description="declination, degrees")
    vector_column: ColumnName | None = Field(None, description="ask about vectors of component space")

    @model_validator(mode="after")
    def _names_one_kind(self) -> Self:
        if (self.ra_column is None) != (self.dec_column is None):
            raise ValueError("expected both of ra_column and dec_column, or neither")
        if (self.id_column, self.ra_column, self.vector_column).count(None) < 2:
            raise ValueError("expected columns of one kind: id_column; ra_column and dec_column; or vector_column")
        return self


class WaitParameters(Section):
    """How long an answer may be put off."""

    wait: float = Field(
        0, ge=-1, description=f"seconds to wait for another phase, {MOST_WAIT_S} at most; -1 for as long as possible"
    )


class ListParameters(Section):
    """How many jobs are listed."""

    n: int = Field(100, ge=1, le=MOST_LISTED, description="the newest ones")


class ResultParameters(Section):
    """In which format a result is wanted."""

    format: ResultFormat = "parquet"


class QueryJob(Record):
    """A job as it was asked. Created once, after its table; its folder is no job without it."""

    format: Literal[1] = 1
    id: JobId
    owner: str
    """Name of the token."""
    output: str
    """Of the release that is asked."""
    release: str
    index: str
    parameters: JobParameters
    by: QueryKind
    n_queries: int
    upload: str
    """Names the file of the table's queries."""
    table_sha256: str
    """Of the table as it was sent."""
    created_utc: str


class JobStart(Record):
    """When a job was begun. Created once."""

    format: Literal[1] = 1
    started_utc: str


class JobUnits(Record):
    """Into which units of work a job was cut. Created once, after the queries of the units."""

    format: Literal[1] = 1
    n_asked: int
    """Queries that units answer; the others have their reason already."""
    per_unit: int


class JobEnd(Record):
    """How a job ended. Created once: what comes first counts."""

    format: Literal[1] = 1
    phase: EndPhase
    ended_utc: str
    n_done: int
    answered: int = 0
    unanswered: dict[str, int] = Field(default_factory=dict)
    """By reason."""
    n_rows: int = 0
    result: FileRecord | None = None
    error: str | None = None


class ResultAnswer(Record):
    """The result of a job that is completed."""

    n_rows: int
    size_bytes: int
    """As Parquet."""
    sha256: str
    """As Parquet."""
    links: dict[ResultFormat, str]


class JobAnswer(Record):
    """A job. All queries are answered or have a reason: n_queries is answered and all of unanswered together."""

    id: str
    owner: str
    phase: Phase
    release: str
    index: str
    parameters: JobParameters
    by: QueryKind
    n_queries: int
    n_done: int
    progress: float
    """From 0 to 1."""
    created_utc: str
    started_utc: str | None
    ended_utc: str | None
    destruction_utc: str | None
    """When the job and its result are deleted; null until it has ended."""
    answered: int
    unanswered: dict[str, int]
    """Queries without an answer, by reason."""
    error: str | None
    result: ResultAnswer | None


class JobsUsage(Record):
    """How much there is already."""

    n_open: int
    """Jobs of everybody that have not ended."""
    n_own_open: int
    own_bytes: int
    """Of the owner's tables, work and results."""


class JobsAnswer(Record):
    """Jobs, the newest first."""

    n_jobs: int
    """All of them, listed here or not."""
    jobs: tuple[JobAnswer, ...]
