"""Packing over Ray: cutouts become a column of images in a HATS catalogue, one task per partition.

A partition is one file, read later by ranges: its row groups hold few images, uncompressed, with page checksums.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.cluster.metrics import counted
from engine.cluster.protocol import begin, commit, describe, find_commit
from engine.cluster.stream import stream
from engine.compute.rejects import Reject, rejects_table
from engine.storage.artefacts import decode, encode
from engine.storage.cutouts import CutoutReader, changed_containers
from engine.storage.images import CutoutError
from engine.storage.parquet import read_table, write_table
from engine.storage.pins import pin_of
from engine.storage.sink import Sink
from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig, Section
from schemas.errors import DataError
from schemas.manifest import Commit
from schemas.partition import Partition
from schemas.tables import CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION, OBJECT_ID, PACKED_FROM

READS_IN_FLIGHT = 32
TASK_CPUS = 0.5
"""Logical CPUs of a task, which mostly waits for the store."""


class PackTask(Section):
    """What every partition of a run shares."""

    output: str
    plan_id: str
    packed_id: str
    cutouts: CutoutConfig
    rows_per_group: int


def pack(partitions: Sequence[Partition], task: PackTask) -> Iterator[Commit]:
    """Pack partitions of a plan; yield a commit record as each is done, in any order.

    Raises
    ------
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
    WorkersLostError
        Attempt after attempt at a partition was lost.
    """

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return {"commit": encode(pack_partition(Partition(record["order"], record["pixel"]), task))}

    records = stream([partition._asdict() for partition in partitions], {"fn": run, "num_cpus": TASK_CPUS})
    done = (decode(Commit, record["commit"], "commit record") for record in records)
    yield from counted("pack", len(partitions), done)


def pack_partition(partition: Partition, task: PackTask) -> Commit:
    """Write one partition of the packed catalogue and commit it; if that was done before, return its record.

    Every object of the plan keeps its row. One whose cutout cannot be read has a null there, and is a reject.
    """
    started = perf_counter()
    store = Store(task.output)
    number = begin(store, task.packed_id, partition.name)
    if record := find_commit(store, task.packed_id, partition.name):
        return record
    objects = read_table(store.below(paths.artefact("plan", task.plan_id)), partition.path)
    folder = store.below(paths.artefact("packed", task.packed_id))
    while True:
        with folder.writing(partition.path) as sink:
            rejected = _write(sink, objects, CutoutReader(task.cutouts), task)
        bad = np.zeros(len(objects), bool)
        bad[list(rejected)] = True
        if not changed_containers(objects.filter(pa.array(~bad))):
            break  # Else a container was replaced while it was read; what it held is rejected next time.
    rejects = rejects_table(objects.filter(pa.array(bad)), [rejected[row] for row in sorted(rejected)])
    files = [sink.record]
    if len(rejects):
        work = store.below(paths.work(task.packed_id))
        files.append(write_table(work, paths.part_rejects(partition.name, uuid4().hex[:12]), rejects))
    good = objects[OBJECT_ID].filter(pa.array(~bad))
    durations_s = {"total": perf_counter() - started}
    return commit(store, task.packed_id, describe(partition.name, number, good, rejects, files, durations_s))


def packed_schema(planned: pa.Schema) -> pa.Schema:
    """Schema of a packed catalogue: the objects of its plan, the cutout's bytes in place of its reference."""
    kept = [field for field in planned if field.name not in (CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION, PACKED_FROM)]
    return pa.schema([*kept, pa.field(PACKED_FROM, pa.string()), pa.field(CUTOUT, pa.large_binary())])


def _write(sink: Sink, objects: pa.Table, reader: CutoutReader, task: PackTask) -> dict[int, Reject]:
    """Write one partition, row group by row group; return the rows that have no cutout, and why."""
    rejected: dict[int, Reject] = {}
    schema = packed_schema(objects.schema)
    with pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        schema,
        compression={name: "none" if name == CUTOUT else "zstd" for name in schema.names},
        use_dictionary=False,
        write_statistics=[name for name in schema.names if name != CUTOUT],
        write_page_checksum=True,
    ) as writer:
        for start, cutouts in _groups(objects, reader, task.rows_per_group):
            rows = objects.slice(start, len(cutouts))
            rejected |= {start + at: found for at, found in enumerate(cutouts) if isinstance(found, Reject)}
            writer.write_table(_packed_rows(rows, cutouts, schema), row_group_size=len(rows))
    return rejected


def _packed_rows(rows: pa.Table, cutouts: list[bytes | Reject], schema: pa.Schema) -> pa.Table:
    images = [None if isinstance(found, Reject) else found for found in cutouts]
    kept = [rows[name] for name in schema.names[:-2]]
    return pa.table([*kept, rows[CUTOUT], pa.array(images, pa.large_binary())], schema=schema)


def _groups(objects: pa.Table, reader: CutoutReader, rows_per_group: int) -> Iterator[tuple[int, list[bytes | Reject]]]:
    """Read the cutouts of each row group while the one before is written: (first row, cutouts)."""
    with ThreadPoolExecutor(READS_IN_FLIGHT) as threads:
        pending: deque[tuple[int, Iterator[bytes | Reject]]] = deque()
        for start in range(0, len(objects), rows_per_group):
            rows = objects.slice(start, rows_per_group)
            pending.append((start, threads.map(partial(_read, reader, rows), range(len(rows)))))
            if len(pending) > 1:
                first, cutouts = pending.popleft()
                yield first, list(cutouts)
        for first, cutouts in pending:
            yield first, list(cutouts)


def _read(reader: CutoutReader, objects: pa.Table, row: int) -> bytes | Reject:
    try:
        data = reader.read(objects[CUTOUT][row].as_py(), pin_of(objects, row))
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    if not isinstance(data, bytes):
        raise DataError("the catalogue names images in HDF5 stacks, which are packed already: embed them as they are")
    return data
