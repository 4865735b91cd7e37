"""A map over Ray: a sample of the components is fitted, and every partition placed by it, a unit of work each.

OUTPUT/map/<id>/    layout.safetensors, then a HATS partition per unit
OUTPUT/work/<id>/   commits of both, and of each unit the points that a page may show
"""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from engine.cluster.protocol import begin, commit, describe, find_commit
from engine.cluster.space import read_part
from engine.cluster.stream import stream
from engine.compute import layout as layouts
from engine.compute.layout import Layout
from engine.storage.arrays import parse_arrays, write_arrays
from engine.storage.artefacts import decode, encode
from engine.storage.parquet import as_matrix, parse_table, read_schema, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.config import Section
from schemas.errors import DataError
from schemas.manifest import Commit, FileRecord
from schemas.map import MapColumn
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, DEC, MAP_X, MAP_Y, OBJECT_ID, POSITION, RA, REASON, RESERVED, map_schema

FIT = "fit"
"""Unit of work that fits the layout; the others have the names of partitions."""
N_PLACED_BY = 10
"""Fitted neighbours that place an object: of 3 fewer neighbours are kept, of 15 no more than of 10."""
_ENDS = (0, 0.02, 0.98, 1)
"""Quantiles of a column: outliers are not to take up a scale of colours."""


class MapTask(Section):
    """What every unit of a map shares."""

    output: str
    components_id: str
    map_id: str

    @property
    def store(self) -> Store:
        """The output."""
        return Store(self.output)

    @property
    def components(self) -> Store:
        """Folder of the components."""
        return self.store.below(paths.artefact("components", self.components_id))

    @property
    def target(self) -> Store:
        """Folder of the map."""
        return self.store.below(paths.artefact("map", self.map_id))

    @property
    def work(self) -> Store:
        """Folder of what is done so far."""
        return self.store.below(paths.work(self.map_id))


def sample_vectors(
    components: Store, partitions: Sequence[PartitionFile], rows: np.ndarray, advance: Callable[[int], None]
) -> np.ndarray:
    """Read the components of some objects.

    Parameters
    ----------
    components : Store
    partitions : sequence of PartitionFile
    rows : (m,) int64 array
        Ascending; counted over all partitions in their order.
    advance : callable
        Told of objects that were passed.

    Returns
    -------
    (m, d) float32 array
        In the order of the rows.
    """

    def run(record: dict[str, Any]) -> dict[str, Any]:
        part = decode(PartitionFile, record["part"], "partition record")
        vectors = as_matrix(read_part(components, part, [COMPONENTS])[COMPONENTS])
        return {"vectors": vectors[record["rows"]], "n": part.n_rows}

    wanted = [record for record in _records(partitions, rows) if len(record["rows"])]
    found = []
    for record in stream(wanted, {"fn": run}, in_order=True):
        found.append(record["vectors"])
        advance(record["n"])
    return np.concatenate(found).astype(np.float32)


def fit_layout(task: MapTask, fit: Callable[[], Layout]) -> tuple[Layout, FileRecord]:
    """Fit the layout and commit it, or read the one that was committed before."""
    started = perf_counter()
    number = begin(task.store, task.map_id, FIT)
    done = find_commit(task.store, task.map_id, FIT)
    if done is None:
        record = write_arrays(task.target, paths.LAYOUT, fit()._asdict())
        nobody = pa.chunked_array([], pa.string())
        mine = describe(FIT, number, nobody, _no_rejects(), [record], {"total": perf_counter() - started})
        done = commit(task.store, task.map_id, mine)
    (record,) = done.files
    data = task.target.read_verified(record)
    return Layout(**parse_arrays(data, task.target.uri(record.path))), record


def place_partitions(
    partitions: Sequence[PartitionFile], points: np.ndarray, done: set[str], layout: Layout, task: MapTask
) -> Iterator[Commit]:
    """Write where every object lies, and of each partition the points for a page; yield commit records in any order.

    Parameters
    ----------
    partitions : sequence of PartitionFile
        All of the components'.
    points : (m,) int64 array
        Rows for a page, ascending; counted over all partitions.
    done : set of str
        Names of partitions that are committed.
    layout : Layout
    task : MapTask

    Raises
    ------
    DataError
        A component is not finite.
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
    """
    shared = ray.put(layout)

    def run(record: dict[str, Any]) -> dict[str, Any]:
        part = decode(PartitionFile, record["part"], "partition record")
        return {"commit": encode(place_partition(part, record["rows"], ray.get(shared), task))}

    records = zip(partitions, _records(partitions, points), strict=True)
    missing = [record for part, record in records if part.partition.name not in done]
    for record in stream(missing, {"fn": run, "num_cpus": 1}):
        yield decode(Commit, record["commit"], "commit record")


def place_partition(part: PartitionFile, points: np.ndarray, layout: Layout, task: MapTask) -> Commit:
    """Place one partition and commit it; if that was done before, return its record."""
    started = perf_counter()
    unit = part.partition.name
    number = begin(task.store, task.map_id, unit)
    if record := find_commit(task.store, task.map_id, unit):
        return record
    names = read_schema(task.components, part.file.path)
    columns = [*POSITION, COMPONENTS, *colours(names)]
    table = read_part(task.components, part, list(dict.fromkeys(columns)))
    vectors = as_matrix(table[COMPONENTS])
    if not np.isfinite(vectors).all():
        row = int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])
        raise DataError(
            f"{task.components.uri(part.file.path)}: expected finite components, found {vectors[row].tolist()} "
            f"of object {table[OBJECT_ID][row]}"
        )
    placed = layouts.place(vectors, layout, min(N_PLACED_BY, len(layout.vectors)))
    where = {MAP_X: pa.array(placed[:, 0]), MAP_Y: pa.array(placed[:, 1])}
    schema = map_schema(table.schema.field(OBJECT_ID).type)
    rows = pa.table({**{name: table[name] for name in POSITION}, **where}, schema=schema)
    shown = pa.table({**{name: table[name] for name in (OBJECT_ID, *colours(names))}, **where})
    files = [
        write_table(task.target, part.partition.path, rows),
        write_table(task.work, paths.part(unit, uuid4().hex[:12]), shown.take(pa.array(points))),
    ]
    mine = describe(unit, number, table[OBJECT_ID], _no_rejects(), files, {"total": perf_counter() - started})
    counted = commit(task.store, task.map_id, mine)
    if counted != mine:
        task.work.delete(files[1].path)
    return counted


def read_points(commits: Sequence[Commit], task: MapTask) -> pa.Table:
    """Read the points of all partitions, in their order."""
    records = [record.files[1] for record in commits]
    return pa.concat_tables(parse_table(task.work.read_verified(file), task.work.uri(file.path)) for file in records)


def colours(schema: pa.Schema) -> list[str]:
    """Choose the columns of a catalogue that points can be coloured by: numbers and truths, position first."""
    others = [
        field.name
        for field in schema
        if field.name not in RESERVED | {MAP_X, MAP_Y} and field.name[0] != "_" and _is_number(field.type)
    ]
    return [RA, DEC, *others]


def column_of(name: str, values: pa.ChunkedArray) -> MapColumn:
    """Summarise a column of numbers."""
    numbers = pc.fill_null(values.cast(pa.float64()), float("nan")).to_numpy()
    finite = numbers[np.isfinite(numbers)]
    ends = np.quantile(finite, _ENDS).tolist() if len(finite) else [None] * len(_ENDS)
    minimum, low, high, maximum = ends
    missing = len(numbers) - len(finite)
    return MapColumn(name=name, minimum=minimum, maximum=maximum, low=low, high=high, n_missing=missing)


def _records(partitions: Sequence[PartitionFile], rows: np.ndarray) -> list[dict[str, Any]]:
    """Give each partition those of ascending rows that it holds, counted from its own first."""
    ends = np.cumsum([part.n_rows for part in partitions])
    cuts = np.searchsorted(rows, ends)
    starts = np.concatenate([[0], cuts[:-1]])
    return [
        {"part": encode(part), "rows": rows[start:stop] - (end - part.n_rows)}
        for part, start, stop, end in zip(partitions, starts, cuts, ends, strict=True)
    ]


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _no_rejects() -> pa.Table:
    return pa.table({OBJECT_ID: pa.array([], pa.string()), REASON: pa.array([], pa.string())})
