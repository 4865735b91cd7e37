"""The job of asking a service about a table."""

from pydantic import Field, field_validator

from schemas.manifest import Record
from schemas.service_jobs import JobId, JobParameters


class AskJob(JobParameters):
    """A table of queries, the service that answers them, and where the answer goes."""

    url: str = Field(description="of the service, for example https://galaxies.example.org")
    table: str = Field(description="Parquet, CSV, FITS table or VOTable of ids, positions or vectors")
    output: str = Field(description=".parquet, .csv or .vot file")
    token_file: str | None = Field(None, description="file that holds the token; VOORWERP_TOKEN when null")
    keep: bool = Field(False, description="leave the job and its result at the service")

    @field_validator("url")
    @classmethod
    def _is_http(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("expected http:// or https://")
        return value.rstrip("/")


class Asked(Record):
    """What a command keeps beside its output until it has the answer, so that the next one goes on with that job."""

    question: str
    """Hash of everything that decides the answer."""
    key: str
    """Under which the table is sent: again, it is the same job."""
    job: JobId | None = None
