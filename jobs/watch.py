"""Job: watch. Catalogues that appear in an inbox become releases, one onto another, in the order of their names."""

import re
import time

from engine.storage.artefacts import all_releases
from engine.storage.store import Store
from engine.storage.table_file import kind_of
from jobs import release
from jobs.report import note
from schemas.config import OntoConfig, ReleaseJob

_SAYS_IT_IS_WHOLE = ("hats.properties", "properties", "collection.properties", "_SUCCESS")
"""One of these in a folder, written last, tells that the catalogue in it is complete."""


def run(job: ReleaseJob, inbox: str, every_s: float | None) -> None:
    """Release every catalogue of an inbox that was not released yet; wait for more, or end.

    Parameters
    ----------
    job : ReleaseJob
        Its catalogue's path is replaced by each one found; the first stands alone unless the job says otherwise.
    inbox : str
        Folder or s3:// prefix.
    every_s : float, optional
        Seconds between two looks; one look and no more when None.

    Raises
    ------
    VoorwerpError
        A release failed: what was done stays, and the same command goes on with it. Later ones wait for it, because
        each follows the one before.
    """
    while True:
        waiting = arrived(job, inbox)
        if waiting:
            note("inbox", f"{len(waiting)} to release: {', '.join(waiting)}")
        for uri in waiting:
            release.run(job_for(job, uri))
        if every_s is None:
            if not waiting:
                note("inbox", f"nothing new in {Store(inbox).uri()}")
            return
        time.sleep(every_s)


def arrived(job: ReleaseJob, inbox: str) -> list[str]:
    """List catalogues of an inbox that no release of the output was made of, in natural order of their names."""
    place = Store(inbox)
    released = {found.catalogue for found in all_releases(Store(job.output))}
    names = [name for name in place.children() if _is_whole(place, name)]
    return [uri for name in sorted(names, key=_natural) if (uri := place.uri(name)) not in released]


def job_for(job: ReleaseJob, uri: str) -> ReleaseJob:
    """Compose the release of one catalogue: onto what is current in the output, where anything is."""
    catalogue = job.catalogue.model_copy(update={"path": uri})
    onto = job.onto
    if all_releases(Store(job.output)):
        settings = {"release": job.output, "as_of": None}
        onto = onto.model_copy(update=settings) if onto else OntoConfig(release=job.output)
    return job.model_copy(update={"catalogue": catalogue, "onto": onto})


def _is_whole(place: Store, name: str) -> bool:
    if place.is_file(name):
        return kind_of(name.lower()) is not None and not name.startswith((".", "_"))
    return any(place.is_file(f"{name}/{mark}") for mark in _SAYS_IT_IS_WHOLE)


def _natural(name: str) -> list[tuple[int, int, str]]:
    """Sort dr9 before dr10."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts if part]
