"""Where a service keeps bulk queries, and how much of them it takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine.cluster.opened import OpenRelease
from engine.cluster.query_jobs import JobLimits, QueryJobs, open_jobs
from engine.cluster.query_worker import Serving
from engine.storage.store import Store
from jobs.campaign import place_of
from schemas.manifest import content_id
from schemas.service import ServeConfig

FOLDER = "voorwerp-queries"
"""Beside the database: the release may be on a disk that nobody writes to."""


@contextmanager
def serving_jobs(config: ServeConfig, release: OpenRelease, database: str) -> Iterator[QueryJobs]:
    """Keep jobs, and work on them, for the length of a block.

    Parameters
    ----------
    config : ServeConfig
    release : OpenRelease
        What it serves.
    database : str
        Path or URL of tokens and campaigns.
    """
    output = place_of(config.release)
    place = config.jobs_folder or str(_beside(database) / FOLDER / content_id(output))
    serving = Serving(release, output, config.jobs_kept_days)
    with open_jobs(Store(place), serving, JobLimits(config.most_job_queries, config.most_job_rows)) as jobs:
        yield jobs


def _beside(database: str) -> Path:
    """Folder of a database that is a file; of others the one where the command runs."""
    scheme, separator, path = database.partition(":///")
    if separator:
        return Path(path).parent if scheme.startswith("sqlite") else Path()
    return Path() if "://" in database else Path(database).parent
