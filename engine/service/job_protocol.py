"""What the service needs of jobs of bulk queries, whoever keeps and does them.

Methods block, may be called from several threads at once, and raise errors of `schemas.errors`. An owner is the name of
a token; None stands for whoever may see everybody's jobs.
"""

from collections.abc import Iterator
from typing import Protocol

import pyarrow as pa

from schemas.manifest import FileRecord
from schemas.service_jobs import JobAnswer, JobParameters, JobsUsage, UploadFormat


class Result(Protocol):
    """The rows of a job that is completed, by query, then by rank; a query without an answer has one row."""

    @property
    def file(self) -> FileRecord:
        """As Parquet."""

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Read bytes of the Parquet file, a little at a time."""

    def tables(self) -> Iterator[pa.Table]:
        """Read rows, a little at a time."""


class Jobs(Protocol):
    """Jobs on a release."""

    def usage(self, owner: str) -> JobsUsage:
        """Say how much there is already."""

    def create(
        self,
        owner: str,
        key: str | None,
        parameters: JobParameters,
        format_: UploadFormat | None,
        parts: Iterator[bytes],
    ) -> JobAnswer:
        """Take a table, part by part, and queue a job; the same key and content again is answered with the same job.

        Its format is found from its first bytes when none is given.

        Raises
        ------
        DataError, ConfigError
            The table or the parameters are of no use; or the key was sent with other content.
        BusyError
            Too many tables are taken at once.
        """

    def all(self, owner: str | None) -> list[JobAnswer]:
        """Describe the jobs of an owner, or of everybody, the newest first."""

    def one(self, job_id: str, owner: str | None) -> JobAnswer:
        """Describe a job.

        Raises
        ------
        InputNotFoundError
            The owner has no such job.
        """

    def abort(self, job_id: str, owner: str | None) -> JobAnswer:
        """End a job without a result; what has ended stays as it is. Errors as of `one`."""

    def delete(self, job_id: str, owner: str | None) -> None:
        """End a job and forget it and its result. Errors as of `one`."""

    def result(self, job_id: str, owner: str | None) -> Result | None:
        """Open the result of a job; None where there is none, or none yet. Errors as of `one`."""
