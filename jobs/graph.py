"""Job: graph. The k nearest neighbours of every object, as a folder of Parquet parts."""

from time import perf_counter
from typing import Any

from engine.cluster import graph
from engine.cluster.counts import Counts, counted
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.parts import Made
from engine.storage.answers import is_folder
from engine.storage.store import Store
from jobs.report import note, warn
from jobs.units import Search, do_units, finished, publish, search_identity, working
from schemas.config import GraphJob
from schemas.errors import ConfigError
from schemas.tables import graph_schema


def run(job: GraphJob) -> None:
    """Make the graph, or go on where an earlier run of the same job stopped.

    Raises
    ------
    ConfigError
        The output is no folder.
    OutputError
        It holds the answer to another question.
    BusyError
        Another run works on it.
    """
    if not is_folder(job.output):
        raise ConfigError(f"output: expected a folder for a graph, found {job.output!r}; end its name in /")
    started = perf_counter()
    release = open_release(Store(job.release), job.as_of)
    search = Search("graph", search_identity(release, k=job.k), job.output, release, job.device, job.ray)
    if finished(search):
        return
    if job.k >= release.n_objects:
        warn(f"the release has {release.n_objects:,} objects, so none has more than {release.n_objects - 1:,} others")
    records = graph.runs(release, job.k)
    k, device = job.k, "cuda" if job.device == "cuda" else None

    def make(opened: OpenRelease, record: dict[str, Any]) -> Made:
        return graph.neighbours_of_run(opened, record, k, device)

    with working(search) as held:
        sizes = [graph.n_objects(release, record) for record in records]
        commits = do_units(search, records, sizes, "objects", make, held)
        counts: Counts = counted(commits, release.n_objects)
        n_rows = sum(commit.counts["rows"] for commit in commits)
        held.check()
        publish(search, commits, counts.record | {"rows": n_rows}, graph_schema(release.id_type), started)
    note("graph", f"{counts}; {n_rows:,} rows in {len(commits):,} parts in {job.output}")
