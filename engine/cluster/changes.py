"""What a release takes over from the one before: plans compared, and rows with their old vectors. Starts no cluster."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.unit import rows_table
from engine.compute.changes import Compared, carried_table, changes_table, outline
from engine.compute.plan import default_rows_per_unit, units
from engine.compute.sky import Slice
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import as_matrix, read_schema, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord, Manifest
from schemas.partition import Partition, PartitionFile
from schemas.tables import (
    CUTOUT,
    CUTOUT_SIZE,
    CUTOUT_VERSION,
    DEC,
    EMBEDDING,
    HEALPIX,
    OBJECT_ID,
    PREVIOUS_HEALPIX,
    RA,
    with_vectors,
)

_THREADS = 4
_COMPARED = [HEALPIX, OBJECT_ID, RA, DEC, CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION]


class Outline(NamedTuple):
    """A plan as a comparison needs it."""

    objects: pa.Table
    """Of `engine.compute.changes.outline`, in the order of the plan."""
    partitions: list[Partition]
    starts: list[int]
    """First row of each partition, and the number of rows."""


class Written(NamedTuple):
    """The files of a comparison."""

    files: list[FileRecord]
    n_units: int
    n_carried: int


class Before(NamedTuple):
    """Embeddings that vectors are taken from."""

    folder: Store
    partitions: list[PartitionFile]
    """In order of position."""


class Carried(NamedTuple):
    """What a run takes over."""

    changes: Store
    """Folder of the changes."""
    partitions: frozenset[Partition]
    """Of the plan, those with rows that are carried over."""
    before: Before


def read_outline(store: Store, plan: Manifest, advance: Callable[[int], None]) -> Outline:
    """Read the objects of a plan that has any, some partitions at a time; of each cutout only a key stays in memory."""
    folder = store.below(paths.artefact("plan", plan.id))
    listed = read_table(folder, paths.UNITS, ["order", "pixel"]).to_pylist()
    partitions = list(dict.fromkeys(Partition(unit["order"], unit["pixel"]) for unit in listed))

    def read(partition: Partition) -> pa.Table:
        return outline(read_table(folder, partition.path, _COMPARED))

    tables = []
    with ThreadPoolExecutor(_THREADS) as threads:
        for start in range(0, len(partitions), 4 * _THREADS):  # An executor alone would read everything ahead.
            for table in threads.map(read, partitions[start : start + 4 * _THREADS]):
                tables.append(table)
                advance(len(table))
    starts = [0, *np.cumsum([len(table) for table in tables]).tolist()]
    return Outline(pa.concat_tables(tables), partitions, starts)


def write_changes(
    store: Store,
    plan: Manifest,
    folder: Store,
    now: Outline,
    before: pa.Table,
    found: Compared,
    carried: np.ndarray,
    advance: Callable[[int], None],
) -> Written:
    """Write what differs, the rows to embed as units of work, and of each partition the rows that are carried over.

    Parameters
    ----------
    store : Store
        The output that holds the plan.
    plan : Manifest
    folder : Store
        Of the artefact that is made.
    now : Outline
        Of the plan.
    before : pa.Table
        The outline that it was compared with.
    found : Compared
    carried : (n,) bool array
        Objects whose vectors are taken over.
    """
    source = store.below(paths.artefact("plan", plan.id))
    rows_per_unit = default_rows_per_unit(int((~carried).sum()))
    files: list[FileRecord] = []
    new: list[Slice] = []
    for partition, start, stop in zip(now.partitions, now.starts, now.starts[1:], strict=False):
        here = slice(start, stop)
        if carried[here].any():
            taken = carried_table(now.objects[here], before, found.previous[here], carried[here])
            files.append(write_table(folder, paths.carried(*partition), taken))
        if not carried[here].all():
            rows = read_table(source, partition.path).filter(pa.array(~carried[here]))
            files.append(write_table(folder, partition.path, rows, rows_per_group=rows_per_unit))
            new.append(Slice(*partition, 0, len(rows)))
        advance(stop - start)
    files.append(write_table(folder, paths.CHANGES, changes_table(now.objects, before, found)))
    work = units(new, rows_per_unit)
    files.append(write_table(folder, paths.UNITS, pa.Table.from_pylist([unit._asdict() for unit in work])))
    if new:
        partitions = [Partition(part.order, part.pixel) for part in new]
        files += write_hats_metadata(folder, "changes", partitions, sum(part.stop for part in new))
    return Written(files, len(work), int(carried.sum()))


def carried_rows(objects: pa.Table, taken: pa.Table, before: Before) -> pa.Table:
    """Make rows of the embeddings catalogue of objects whose vectors are known, in the order of `taken`.

    Parameters
    ----------
    objects : pa.Table
        A partition of the plan.
    taken : pa.Table
        Of `carried_schema`: which of its objects, and where they were.
    before : Before

    Raises
    ------
    IntegrityError
        The embeddings do not have one of the objects.
    """
    vectors = np.empty((0, 0), np.float32)
    firsts = np.array([part.partition.first_healpix for part in before.partitions])
    owners = np.searchsorted(firsts, taken[PREVIOUS_HEALPIX].to_numpy(), side="right") - 1
    for owner in np.unique(owners):
        rows = np.flatnonzero(owners == owner)
        part = before.partitions[max(owner, 0)]
        table = read_table(before.folder, part.partition.path, [OBJECT_ID, EMBEDDING])
        ids = taken[OBJECT_ID].take(pa.array(rows))
        places = pc.index_in(ids, value_set=table[OBJECT_ID])
        if places.null_count:
            raise IntegrityError(
                f"{before.folder.uri(part.partition.path)}: expected the vector of object "
                f"{ids.filter(places.is_null())[0]}, which is to be carried over, found none"
            )
        found = as_matrix(table[EMBEDDING])
        if not len(vectors):
            vectors = np.empty((len(taken), found.shape[1]), found.dtype)
        vectors[rows] = found[places.to_numpy()]
    kept = objects.take(pc.index_in(taken[OBJECT_ID], value_set=objects[OBJECT_ID]))
    return rows_table(kept, vectors)


def same_file(objects: pa.Table, partition: Partition, before: Before) -> PartitionFile | None:
    """Find a partition of the embeddings before that holds exactly these objects; None if there is none.

    Where all of them are carried over, their vectors are the ones in there: these need not be read.
    """
    part = next((part for part in before.partitions if part.partition == partition), None)
    if part is None or part.n_rows != len(objects):
        return None
    columns = with_vectors(objects.schema, EMBEDDING, 1).names[:-1]
    if read_schema(before.folder, partition.path).names != [*columns, EMBEDDING]:
        return None
    return part if read_table(before.folder, partition.path, columns).equals(objects.select(columns)) else None
