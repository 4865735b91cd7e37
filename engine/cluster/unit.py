"""One unit of embedding, start to commit: storage and compute joined. Ray carries it and is not needed to run it.

    begin ---> load views ---> encode ---> write rows and rejects ---> commit
    (mark)     (threads)                   (names of this attempt)     (create-only)

A worker that dies anywhere leaves a mark and perhaps files that no commit names. The third attempt at a unit takes its
rows one by one in a process of their own, so that a cutout that kills processes is found and rejected.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter, time
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa

from engine.cluster.loading import READS_IN_FLIGHT, Loaded, Loader, changed_rows
from engine.cluster.metrics import record
from engine.cluster.protocol import begin, commit, describe, find_commit
from engine.cluster.task import EmbedTask, Encode
from engine.compute.rejects import Reject, rejects_table
from engine.storage.parquet import as_vectors, read_row_group, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Commit
from schemas.metrics import BATCH_FILL
from schemas.partition import Unit
from schemas.reject import RejectReason
from schemas.tables import EMBEDDING, OBJECT_ID, with_vectors

ATTEMPTS_TOGETHER = 2
"""Attempts at a unit as a whole; later ones take its rows one by one."""


class Begun(NamedTuple):
    """A unit that an attempt has begun."""

    unit: Unit
    number: int
    """Of the attempt, from 1."""
    objects: pa.Table
    since: float
    """Seconds since 1970, by this machine's clock."""

    @property
    def is_suspect(self) -> bool:
        """Whether earlier attempts did not survive this unit, so that its rows are to be taken one by one."""
        return self.number > ATTEMPTS_TOGETHER


class Embedded(NamedTuple):
    """A unit's rows, each with a vector or a reject."""

    vectors: np.ndarray
    """(n, dimension) float32; of rejected rows, anything."""
    rejects: Mapping[int, Reject]
    encode_s: float
    runtime: str = ""
    """That encoded them (`engine.compute.encoder.Encoder`)."""
    decode_s: float = 0.0
    """That was waited for cutouts to be read and decoded."""


OneByOne = Callable[[pa.Table, EmbedTask], Embedded]
"""Embeds the objects of a unit that earlier attempts did not survive."""


def embed_unit(
    unit: Unit, task: EmbedTask, encode: Encode, loader: Loader, one_by_one: OneByOne, runtime: str = ""
) -> Commit:
    """Embed one unit and commit it; if another attempt was first, return that one's record.

    Parameters
    ----------
    unit : Unit
        One row group of the plan.
    task : EmbedTask
        Shared by all units of the run.
    encode : callable
    loader : Loader
        Of batches of the unit's objects, the next while the encoder works on this one.
    one_by_one : callable
    runtime : str
        That encodes: for the record.

    Raises
    ------
    StoreError
        A store failed. Nothing is committed; the unit can be tried again.
    StuckError
        A cutout took too long. Nothing is committed; the process has to end.
    """
    begun = begin_unit(unit, task)
    if isinstance(begun, Commit):
        return begun
    if begun.is_suspect:
        return commit_unit(begun, one_by_one(begun.objects, task), task)
    found = embed_objects(begun.objects, task, encode, loader)
    return commit_unit(begun, found._replace(runtime=runtime), task)


def begin_unit(unit: Unit, task: EmbedTask) -> Begun | Commit:
    """Begin an attempt and read the unit's objects; or return the record of one that is committed already."""
    since, store = time(), Store(task.output)
    number = begin(store, task.run_id, unit.name)
    if number > 1 and (done := find_commit(store, task.run_id, unit.name)):
        return done
    objects = read_row_group(store.below(task.objects), unit.partition.path, unit.row_group)
    return Begun(unit, number, objects, since)


def embed_objects(objects: pa.Table, task: EmbedTask, encode: Encode, loader: Loader) -> Embedded:
    """Embed objects batch by batch; no bad cutout stops the others."""
    vectors = np.zeros((len(objects), task.dimension), np.float32)
    rejects: dict[int, Reject] = {}
    encode_s, decode_s, waiting_since = 0.0, 0.0, perf_counter()
    for rows, loaded in _batches(objects, task, loader):
        decode_s += perf_counter() - waiting_since
        rejects |= {rows[at]: reject for at, reject in loaded.rejects.items()}
        views = loaded.flat()
        if len(views):
            good = [rows[at] for at in loaded.good]
            started = perf_counter()
            vectors[good] = pooled(encode(views), task.views)
            encode_s += perf_counter() - started
            record(BATCH_FILL, len(good) / task.objects_at_once, of="encoder")
        waiting_since = perf_counter()
    return Embedded(vectors, rejects | broken(vectors) | changed_rows(objects), encode_s, decode_s=decode_s)


def pooled(vectors: np.ndarray, n_views: int) -> np.ndarray:
    """Average the vectors of each object's views: (n * n_views, d) to (n, d)."""
    return vectors.reshape(-1, n_views, vectors.shape[1]).mean(axis=1, dtype=np.float64).astype(np.float32)


def broken(vectors: np.ndarray) -> dict[int, Reject]:
    """Reject rows that are not finite."""
    rows = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    return {int(row): Reject(RejectReason.NAN_EMBEDDING, "the encoder returned NaN or infinity") for row in rows}


def commit_unit(begun: Begun, found: Embedded, task: EmbedTask) -> Commit:
    """Write a unit's rows and rejects under names of this attempt and commit it; return the record that counts."""
    store = Store(task.output)
    rows, rejects = _unit_tables(begun.objects, found, task)
    work, attempt = store.below(paths.work(task.run_id)), uuid4().hex[:12]
    files = [write_table(work, paths.part(begun.unit.name, attempt), rows)]
    if len(rejects):
        files.append(write_table(work, paths.part_rejects(begun.unit.name, attempt), rejects))
    durations_s = {"total": time() - begun.since, "encode": found.encode_s, "decode": found.decode_s}
    mine = describe(begun.unit.name, begun.number, rows[OBJECT_ID], rejects, files, durations_s, found.runtime)
    counted = commit(store, task.run_id, mine)
    if counted != mine:
        for file in files:
            work.delete(file.path)
    return counted


def _batches(objects: pa.Table, task: EmbedTask, loader: Loader) -> Iterator[tuple[range, Loaded]]:
    """Load batches, the next ones while the caller works on this one."""
    size = task.objects_at_once
    pending: deque[tuple[range, Callable[[], Loaded]]] = deque()
    for start in range(0, len(objects), size):
        rows = range(start, min(start + size, len(objects)))
        pending.append((rows, loader(objects.slice(rows.start, len(rows)))))
        if len(pending) > 1 and len(pending) * size > READS_IN_FLIGHT:
            ready, wait = pending.popleft()
            yield ready, wait()
    for ready, wait in pending:
        yield ready, wait()


def rows_table(objects: pa.Table, vectors: np.ndarray) -> pa.Table:
    """Make rows of the embeddings catalogue of planned objects and their vectors, (n, dimension) float32."""
    schema = with_vectors(objects.schema, EMBEDDING, vectors.shape[1])
    kept = objects.select(schema.names[:-1]).combine_chunks()
    return pa.table([*kept.columns, as_vectors(vectors)], schema=schema)


def _unit_tables(objects: pa.Table, found: Embedded, task: EmbedTask) -> tuple[pa.Table, pa.Table]:
    bad = sorted(found.rejects)
    good = [row for row in range(len(objects)) if row not in found.rejects]
    rows = rows_table(objects.take(pa.array(good, pa.int64())), found.vectors[good])
    rejected = objects.take(pa.array(bad, pa.int64()))
    return rows, rejects_table(rejected, [found.rejects[row] for row in bad])
