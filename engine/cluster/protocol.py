"""The commit protocol: how units of work are begun, and how each is done exactly once. Any table-writing job uses it.

    begin (a mark per attempt) ---> files under names of this attempt ---> commit (create-only, the first one counts)

What is done is what has a commit record; resuming is the plan minus commits. Pure but for the store: Ray carries the
units and knows nothing of this.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pyarrow as pa

from engine.compute.digest import id_digest
from engine.storage.artefacts import decode, encode
from engine.storage.store import Store
from schemas import paths
from schemas.errors import WorkersLostError
from schemas.manifest import Commit, FileRecord
from schemas.tables import OBJECT_ID, REASON

MOST_ATTEMPTS = 24
READS_IN_FLIGHT = 32
_READ_AHEAD = 1_000


def begin(store: Store, run_id: str, unit: str) -> int:
    """Mark the beginning of an attempt at a unit; return its number, from 1.

    Raises
    ------
    WorkersLostError
        There were `MOST_ATTEMPTS` already: Ray itself would try without end.
    """
    name = uuid4().hex.encode()  # Tells a mark of ours whose answer was lost from one of another attempt.
    for number in range(1, MOST_ATTEMPTS + 1):
        if store.create(paths.attempt(run_id, unit, number), name, durable=False):
            return number
    raise WorkersLostError(
        f"{MOST_ATTEMPTS} workers were lost at unit {unit}, and no deadly cutout is the cause; is there "
        f"enough memory? `voorwerp gc {store.uri()} --grace-hours 0` forgets the attempts; then run again"
    )


def describe(
    unit: str,
    attempt: int,
    ids: pa.ChunkedArray,
    rejects: pa.Table,
    files: Sequence[FileRecord],
    durations_s: dict[str, float],
    runtime: str = "",
) -> Commit:
    """Describe a unit that is done: the ids of its good rows, its rejects, and the files that hold them."""
    return Commit(
        unit=unit,
        attempt=attempt,
        n_planned=len(ids) + len(rejects),
        n_ok=len(ids),
        rejected=dict(Counter(rejects[REASON].to_pylist())),
        ok_digest=id_digest(ids.to_pylist()),
        rejected_digest=id_digest(rejects[OBJECT_ID].to_pylist()),
        files=list(files),
        durations_s=durations_s,
        runtime=runtime,
    )


def commit(store: Store, run_id: str, record: Commit) -> Commit:
    """Make a unit done. Return the record that counts: this one, or that of another attempt that was first."""
    if store.create(paths.commit(run_id, record.unit), encode(record)):
        return record
    return read_commit(store, run_id, record.unit)


def find_commit(store: Store, run_id: str, unit: str) -> Commit | None:
    """Return a unit's commit record, or None while it is not committed."""
    return read_commit(store, run_id, unit) if store.exists(paths.commit(run_id, unit)) else None


def read_commit(store: Store, run_id: str, unit: str) -> Commit:
    """Read a unit's commit record; errors as of `Store.read`."""
    return _read(store, paths.commit(run_id, unit))


def read_commits(store: Store, run_id: str) -> Iterator[Commit]:
    """Read the commit records of a run that are there already; one listing, and many requests in flight."""
    found = [path for path in store.list(paths.commits(run_id)) if path.endswith(".json")]
    with ThreadPoolExecutor(READS_IN_FLIGHT) as threads:
        for start in range(0, len(found), _READ_AHEAD):  # An executor alone would hold every record at once.
            yield from threads.map(lambda path: _read(store, path), found[start : start + _READ_AHEAD])


def _read(store: Store, path: str) -> Commit:
    return decode(Commit, store.read(path), store.uri(path))
