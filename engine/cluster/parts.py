"""Units of a search, each of which makes one part of an answer: begun, written under a name of its attempt, committed.

work/<run>/attempts, commits     in the work folder, beside the answer
parts/<unit>-<attempt>.parquet   in the folder that the task names
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from time import perf_counter
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import uuid4

import pyarrow as pa

from engine.cluster.metrics import counted
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.protocol import begin, commit, describe, find_commit
from engine.storage.artefacts import decode, encode
from engine.storage.parquet import write_table
from engine.storage.store import Store
from schemas import paths
from schemas.config import Section
from schemas.manifest import Commit
from schemas.tables import OBJECT_ID, OK, REASON

ROWS_PER_GROUP = 8_192
"""Of a part: few, because some of every part are in memory when parts are merged."""
_MOST_COLUMN_BYTES = 1 << 30
"""Of columns that a worker keeps from one unit to the next."""


class PartsTask(Section):
    """What every unit of a search shares."""

    work: str
    """Folder of the commit records."""
    parts: str
    """Folder of the parts."""
    run_id: str
    release: str
    release_id: str


class Made(NamedTuple):
    """What a unit made."""

    table: pa.Table
    asked: pa.ChunkedArray
    """Ids or numbers of what the unit was to answer."""
    status: pa.ChunkedArray
    """Of each of them: `schemas.tables.OK`, or why it has no answer."""
    counts: Mapping[str, int] = MappingProxyType({})
    """For the commit record."""


Make = Callable[[OpenRelease, dict[str, Any]], Made]
"""From the release and the record of a unit, in which `unit` is its name."""


def run_units(
    records: Sequence[dict[str, Any]], task: PartsTask, make: Make, resources: dict[str, Any]
) -> Iterator[Commit]:
    """Do units over Ray; yield a commit record as each is done, in any order.

    Raises
    ------
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
    WorkersLostError
        Attempt after attempt at a unit was lost.
    """
    from engine.cluster.stream import stream  # Ray takes a second to load; small questions never need it.

    def run(record: dict[str, Any]) -> dict[str, Any]:
        release = _opened(task.release, task.release_id)
        done = do_unit(record["unit"], task, lambda: make(release, record))
        release.forget_columns(_MOST_COLUMN_BYTES)
        return {"commit": encode(done)}

    done = (decode(Commit, record["commit"], "commit record") for record in stream(records, {"fn": run, **resources}))
    yield from counted("search", len(records), done)


def run_units_here(
    records: Sequence[dict[str, Any]], task: PartsTask, make: Make, release: OpenRelease
) -> Iterator[Commit]:
    """Do units in this process, one after the other; yield as `run_units`, and raise as `do_unit`."""
    for record in records:
        yield do_unit(record["unit"], task, partial(make, release, record))


def do_unit(unit: str, task: PartsTask, make: Callable[[], Made]) -> Commit:
    """Do one unit and commit it; if another attempt was first, return that one's record."""
    started = perf_counter()
    work, parts = Store(task.work), Store(task.parts)
    number = begin(work, task.run_id, unit)
    if number > 1 and (record := find_commit(work, task.run_id, unit)):
        return record
    made = make()
    file = write_table(parts, paths.part(unit, uuid4().hex[:12]), made.table, ROWS_PER_GROUP)
    answered = made.status.to_numpy() == OK
    ok, failed = made.asked.filter(pa.array(answered)), pa.array(~answered)
    rejects = pa.table({OBJECT_ID: made.asked.filter(failed), REASON: made.status.filter(failed)})
    mine = describe(unit, number, ok, rejects, [file], {"total": perf_counter() - started})
    mine = mine.model_copy(update={"counts": {"rows": len(made.table)} | dict(made.counts)})
    counted = commit(work, task.run_id, mine)
    if counted != mine:
        parts.delete(file.path)
    return counted


@lru_cache(maxsize=1)
def _opened(uri: str, release_id: str) -> OpenRelease:
    """Open a release once per worker: its shards stay checked and mapped."""
    return open_release(Store(uri), release_id)
