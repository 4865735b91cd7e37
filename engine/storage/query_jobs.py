"""Bulk queries that a service was sent, as folders: every step is a file that is created once, so that all agree.

A job is there from its `job.json` on, begun by `started.json`, over by `ended.json`, and not there any more from
`deleted` on, whatever else still lies in its folder. Services and processes may share a place of jobs.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from engine.storage.artefacts import decode, encode
from engine.storage.parquet import read_row_group
from engine.storage.store import Entry, Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError
from schemas.manifest import FileRecord, Record
from schemas.service_jobs import JobEnd, JobStart, JobUnits, QueryJob

ROWS_PER_GROUP = 65_536
"""Of a result: what is in memory when it is turned into another format."""
UPLOAD_GRACE_S = 3600.0
"""After which what was sent and became no job is left over."""
_BLOCK_BYTES = 1 << 20
_LISTINGS = 5

_log = logging.getLogger("voorwerp.service")

AnyRecord = TypeVar("AnyRecord", bound=Record)


class KeptJob(NamedTuple):
    """A job, and how far it has come."""

    job: QueryJob
    start: JobStart | None
    units: JobUnits | None
    end: JobEnd | None
    n_committed: tuple[int, ...]
    """Numbers of the units that are done, until the job has ended."""
    size_bytes: int
    """Of everything in its folder."""
    has_work: bool
    """Whether there is anything in its folder that is of no use when it has ended."""


class JobStore:
    """Jobs of a place; every method raises StoreError where the store fails."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._records: dict[str, tuple[Entry, Record]] = {}
        self._changing = threading.Lock()
        self._damaged: set[str] = set()

    def folder(self, job_id: str) -> Store:
        """Folder of a job."""
        return self.store.below(paths.query_job(job_id))

    def create(self, job: QueryJob) -> QueryJob | None:
        """Create a job whose files are there; return the one that counts, which another request may have created.

        None while one of this id is being deleted.
        """
        with self._changing:
            folder = self.folder(job.id)
            if folder.exists(paths.JOB_DELETED):
                return None
            if folder.create(paths.JOB, encode(job)):
                return job
            return decode(QueryJob, folder.read(paths.JOB), folder.uri(paths.JOB))

    def drop(self, job_id: str, names: Iterable[str]) -> None:
        """Take files of a job away, and its folder with the last one."""
        folder = self.folder(job_id)
        for name in names:
            folder.delete(name)
        with self._changing:
            if not folder.list():
                folder.delete_folder("")

    def find(self, job_id: str) -> KeptJob | None:
        """Read a job; None where there is none."""
        return self._kept(job_id, self._entries(paths.query_job(job_id)))

    def all(self) -> list[KeptJob]:
        """Read all jobs, the oldest first."""
        kept = (self._kept(job_id, entries) for job_id, entries in self._folders().items())
        return sorted((one for one in kept if one), key=lambda one: (one.job.created_utc, one.job.id))

    def begin(self, job_id: str, start: JobStart) -> None:
        """Say that a job is begun; what was said first counts."""
        self.folder(job_id).create(paths.JOB_STARTED, encode(start))

    def cut(self, job_id: str, units: JobUnits) -> None:
        """Say into which units a job is cut, which is always the same."""
        self.folder(job_id).create(paths.JOB_UNITS, encode(units))

    def end(self, job_id: str, end: JobEnd) -> None:
        """Say how a job ended; what was said first counts."""
        self.folder(job_id).create(paths.JOB_ENDED, encode(end))

    def is_open(self, job_id: str) -> bool:
        """Whether a job is neither over nor deleted."""
        folder = self.folder(job_id)
        return not folder.exists(paths.JOB_ENDED) and not folder.exists(paths.JOB_DELETED)

    def delete(self, job_id: str) -> None:
        """Let a job be there no more; `sweep` takes its files away."""
        self.folder(job_id).create(paths.JOB_DELETED, b"deleted")

    def sweep(self) -> None:
        """Take away files that nobody needs: those of deleted jobs, work of ended ones, and what became no job.

        Only for whoever works on the jobs: nothing may be written meanwhile but by those who send new ones.
        """
        now_s: float | None = None
        for job_id, entries in self._folders().items():
            names, folder = _by_name(entries, job_id), self.folder(job_id)
            if paths.JOB_DELETED in names:
                self._forget(job_id)
                with self._changing:
                    folder.delete(paths.JOB)  # First: half a folder is then no job.
                    folder.delete_folder("")
            elif paths.JOB not in names:
                now_s = self.store.now() if now_s is None else now_s
                if max(entry.modified_s for entry in entries) < now_s - UPLOAD_GRACE_S:
                    with self._changing:
                        if not folder.exists(paths.JOB):
                            folder.delete_folder("")
            elif paths.JOB_ENDED in names and any(map(_is_work, names)):
                self.clean(job_id)

    def clean(self, job_id: str) -> None:
        """Take away what a job that has ended needed for its work."""
        folder = self.folder(job_id)
        for name in (paths.WORK, paths.PARTS):
            folder.delete_folder(name)
        kept = folder.read(paths.JOB_ENDED)
        has_result = decode(JobEnd, kept, folder.uri(paths.JOB_ENDED)).result is not None
        for name in folder.list():
            if _is_work(name) or (name == paths.RESULT and not has_result):
                folder.delete(name)

    def _folders(self) -> dict[str, list[Entry]]:
        found: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._entries(paths.QUERY_JOBS):
            found[PurePosixPath(entry.path).parts[1]].append(entry)
        return found

    def _entries(self, path: str) -> Sequence[Entry]:
        for _ in range(_LISTINGS - 1):
            with suppress(InputNotFoundError):  # A folder that was being listed was deleted.
                return self.store.entries(path)
        return self.store.entries(path)

    def _kept(self, job_id: str, entries: Sequence[Entry]) -> KeptJob | None:
        names = _by_name(entries, job_id)
        if paths.JOB not in names or paths.JOB_DELETED in names:
            return None
        try:
            job = self._read(QueryJob, names[paths.JOB])
            start = self._read(JobStart, names[paths.JOB_STARTED]) if paths.JOB_STARTED in names else None
            units = self._read(JobUnits, names[paths.JOB_UNITS]) if paths.JOB_UNITS in names else None
            end = self._read(JobEnd, names[paths.JOB_ENDED]) if paths.JOB_ENDED in names else None
        except InputNotFoundError:  # Deleted meanwhile.
            return None
        except IntegrityError as error:  # One damaged record is not to keep everybody from their jobs.
            if job_id not in self._damaged:
                _log.error("%s; the job is left alone", error)
            self._damaged.add(job_id)
            return None
        committed = paths.commits(job_id) + "/"
        committed_units = (PurePosixPath(name).stem for name in names if name.startswith(committed))
        done = tuple(int(unit) for unit in committed_units if unit.isdecimal())  # Not what is being written.
        size_bytes = sum(entry.size_bytes for entry in entries)
        return KeptJob(job, start, units, end, done, size_bytes, any(map(_is_work, names)))

    def _read(self, kind: type[AnyRecord], entry: Entry) -> AnyRecord:
        """Read what is created once, once."""
        known, record = self._records.get(entry.path, (None, None))
        if known == entry and isinstance(record, kind):
            return record
        found = decode(kind, self.store.read(entry.path), self.store.uri(entry.path))
        self._records[entry.path] = entry, found
        return found

    def _forget(self, job_id: str) -> None:
        for name in (paths.JOB, paths.JOB_STARTED, paths.JOB_UNITS, paths.JOB_ENDED):
            self._records.pop(f"{paths.query_job(job_id)}/{name}", None)


def write_result(folder: Store, schema: pa.Schema, tables: Iterable[pa.Table]) -> tuple[FileRecord, int]:
    """Write the rows of a result, a table at a time; return the record of the file, and how many rows it has."""
    n_rows = 0
    with folder.writing(paths.RESULT) as sink:
        options = {"compression": "zstd", "write_page_checksum": True}
        with pq.ParquetWriter(pa.PythonFile(sink, mode="w"), schema, **options) as writer:
            for table in tables:
                n_rows += len(table)
                writer.write_table(table, ROWS_PER_GROUP)
    return sink.record, n_rows


def result_tables(folder: Store) -> Iterator[pa.Table]:
    """Read the rows of a result, a little at a time."""
    for group in range(folder.reading(paths.RESULT, lambda file: pq.ParquetFile(file).num_row_groups)):
        yield read_row_group(folder, paths.RESULT, group)


def result_bytes(folder: Store, start: int, stop: int) -> Iterator[bytes]:
    """Read the bytes of a result from one place to another, a little at a time."""
    with folder.open(paths.RESULT) as file:
        file.seek(start)
        while start < stop and (block := file.read(min(_BLOCK_BYTES, stop - start))):
            start += len(block)
            yield block


def _by_name(entries: Sequence[Entry], job_id: str) -> dict[str, Entry]:
    """Files by their names, relative to their job."""
    return {entry.path.removeprefix(f"{paths.query_job(job_id)}/"): entry for entry in entries}


def _is_work(name: str) -> bool:
    first = PurePosixPath(name).parts[0]
    return first in (paths.WORK, paths.PARTS) or first.startswith(("table-", "asked-", "."))
