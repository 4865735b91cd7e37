"""A finished release, opened for searching: nothing is read before it is needed, and nothing unchecked is used.

Starts no cluster: the terminal, workers and servers open releases alike.
"""

import threading
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from engine.compute import boxes
from engine.compute.boxes import Boxes
from engine.compute.search import Places
from engine.compute.sky import unit_vectors
from engine.storage.arrays import map_arrays
from engine.storage.artefacts import current_release, find_release, manifest_of, parent_of
from engine.storage.faiss_index import map_index
from engine.storage.local_copy import verified_path
from engine.storage.parquet import read_schema, read_sorted_groups, read_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import IntegrityError
from schemas.index import IndexDetail, IndexKind, ShardRecord
from schemas.manifest import FileRecord, Manifest
from schemas.tables import CUTOUT, DEC, OBJECT_ID, RA
from schemas.validation import describe

_FEW_IDS = 64
"""Up to so many ids are looked for in the row groups that can hold them, more in the whole column."""
_MADE_WHEN_ASKED = ("directions", "slots")
"""Properties that take memory in proportion to the objects."""


class OpenShard:
    """One shard. Rows are in order of object id."""

    def __init__(self, folder: Store, record: ShardRecord, kind: IndexKind, dimension: int) -> None:
        self.n_rows = record.n_rows
        self.kind: IndexKind = kind
        self.low = np.array(record.low or [np.inf] * dimension, np.float32)
        self.high = np.array(record.high or [-np.inf] * dimension, np.float32)
        self._folder, self._record = folder, record
        self._files = {file.path: file for file in record.files}
        self._columns: dict[str, pa.Array] = {}
        self._reading = threading.Lock()

    def emptied(self) -> "OpenShard":
        """A shard of the same files that holds nothing."""
        nothing = self._record.model_copy(update={"n_rows": 0, "low": [], "high": []})
        return OpenShard(self._folder, nothing, self.kind, len(self.low))

    @cached_property
    def boxes(self) -> Boxes:
        """Its vectors, mapped into memory after a check of their hash and of answers that are known.

        Raises
        ------
        IntegrityError
            The file is missing or changed, or searching it gives other answers than it did when it was built.
        """
        path = verified_path(self._folder, self._file(paths.boxes(self._record.number)))
        try:
            opened = boxes.of_arrays(map_arrays(path))
        except ValueError as error:
            raise IntegrityError(f"{path}: not the boxes of a shard: {error}") from error
        if (opened.n, opened.dimension) != (self.n_rows, len(self.low)):
            raise IntegrityError(
                f"{path}: expected {self.n_rows} vectors of {len(self.low)} components, "
                f"found {opened.n} of {opened.dimension}"
            )
        for known in self._record.known:
            vector = boxes.vectors_of(opened, np.array([known.row]))
            found = boxes.search(opened, vector, len(known.rows))
            if found.rows[0].tolist() != known.rows or found.distances[0].tolist() != known.distances:
                raise IntegrityError(
                    f"{path}: the objects nearest to row {known.row} should be {known.rows}, found {found.rows[0]}"
                )
        return opened

    def open(self) -> None:
        """Open and check what questions need, so that none waits for it; errors as of `boxes` and `column`."""
        if self.n_rows:
            _ = self.slots
            for name in (OBJECT_ID, RA, DEC, CUTOUT):
                if name in self.schema.names:
                    self.column(name)

    @cached_property
    def approximate(self) -> faiss.Index:
        """Its FAISS index, mapped into memory; errors as of `verified_path` and `map_index`."""
        path = verified_path(self._folder, self._file(paths.shard(self._record.number)))
        return map_index(path, self.kind, self.n_rows, len(self.low))

    @cached_property
    def slots(self) -> np.ndarray:
        """Where each row lies in the boxes, (n,) int32."""
        return boxes.slots_of(self.boxes)

    @cached_property
    def directions(self) -> np.ndarray:
        """Unit vectors to its objects, (n, 3) float64."""
        return unit_vectors(self.column(RA).to_numpy(), self.column(DEC).to_numpy())

    @cached_property
    def schema(self) -> pa.Schema:
        """Columns of its objects; a shard without objects has no such file."""
        return read_schema(*self._objects)

    def column(self, name: str) -> pa.Array:
        """Read a column of its objects, once; threads may read columns while others let go of them."""
        with self._reading:
            found = self._columns.get(name)
            if found is None:
                found = self._columns[name] = self.read([name])[name].combine_chunks()
            return found

    def read(self, names: Sequence[str]) -> pa.Table:
        """Read columns of its objects, without keeping them."""
        return read_table(*self._objects, names)

    def ids(self, rows: np.ndarray) -> list[int] | list[str]:
        """Ids of rows."""
        return self.column(OBJECT_ID).take(pa.array(rows)).to_pylist()

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Components of rows, (m, d) float32."""
        return boxes.vectors_of(self.boxes, rows, self.slots)

    def find(self, ids: pa.Array) -> np.ndarray:
        """Rows of ids, which are all different, (m,) int32; -1 where the shard does not hold one."""
        rows = np.full(len(ids), -1, np.int32)
        if self.n_rows == 0:
            return rows
        if OBJECT_ID in self._columns or len(ids) > _FEW_IDS:
            return _rows_of(self.column(OBJECT_ID), ids)
        for start, column in read_sorted_groups(*self._objects, OBJECT_ID, ids.to_pylist()):
            found = pc.index_in(ids, value_set=column)
            rows[found.is_valid().to_numpy(zero_copy_only=False)] = start + found.drop_null().to_numpy()
        return rows

    @property
    def columns_bytes(self) -> int:
        """What the columns that were read take in memory."""
        made = [self.__dict__.get(name) for name in _MADE_WHEN_ASKED]
        with self._reading:
            kept = list(self._columns.values())
        return sum(column.nbytes for column in (*kept, *made) if column is not None)

    def forget_columns(self) -> None:
        """Let go of the columns that were read."""
        with self._reading:
            self._columns.clear()
        for name in _MADE_WHEN_ASKED:
            self.__dict__.pop(name, None)

    @cached_property
    def _objects(self) -> tuple[Store, str]:
        """Folder and name of its objects' file, after a check of its hash."""
        path = verified_path(self._folder, self._file(paths.shard_objects(self._record.number)))
        return Store(str(path.parent)), path.name

    def _file(self, path: str) -> FileRecord:
        if path not in self._files:
            raise IntegrityError(f"{self._folder.uri(path)}: the index's manifest does not name it")
        return self._files[path]


@dataclass(frozen=True, eq=False)
class OpenRelease:
    """A release of an output."""

    id: str
    store: Store
    """Of the output."""
    index: Manifest
    components: Manifest
    detail: IndexDetail
    shards: Sequence[OpenShard]
    folder: Store
    """Of the index."""
    components_folder: Store

    @property
    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Centroids of all cells, (c, d) float32, and the shard of each, (c,) int32."""
        return self._cells["centroids"], self._cells["shards"]

    @property
    def held_out(self) -> np.ndarray:
        """Vectors of some objects, (q, d) float32, that took no part in placing the cells."""
        return self._cells["held_out"]

    @cached_property
    def _cells(self) -> dict[str, np.ndarray]:
        record = next(file for file in self.index.files if file.path == paths.CELLS)
        return map_arrays(verified_path(self.folder, record))

    def forget_columns(self, most_bytes: int) -> None:
        """Let go of the columns that were read, if they take more than this; they are read again when asked for."""
        if sum(shard.columns_bytes for shard in self.shards) > most_bytes:
            for shard in self.shards:
                shard.forget_columns()

    def only(self, numbers: Sequence[int]) -> "OpenRelease":
        """The same with some of its shards; the others are there under their numbers, without objects."""
        kept = set(numbers)
        shards = [shard if number in kept else shard.emptied() for number, shard in enumerate(self.shards)]
        return replace(self, shards=shards)

    @property
    def n_objects(self) -> int:
        """Objects in the index."""
        return self.index.counts["indexed"]

    @property
    def id_type(self) -> pa.DataType:
        """Type of its ids."""
        return self.schema.field(OBJECT_ID).type

    @property
    def schema(self) -> pa.Schema:
        """Columns of its objects."""
        return next(shard.schema for shard in self.shards if shard.n_rows)

    def find(self, ids: pa.Array) -> Places:
        """Find objects by id, (m,); -1 for those that are not here, and for null."""
        encoded = ids.dictionary_encode()
        wanted = encoded.dictionary
        places = Places(*np.full((2, len(wanted) + 1), -1, np.int32))
        for number, shard in enumerate(self.shards):
            rows = shard.find(wanted)
            at = np.flatnonzero(rows >= 0)
            places.shards[at], places.rows[at] = number, rows[at]
        order = pc.fill_null(encoded.indices, len(wanted)).to_numpy()
        return Places(places.shards[order], places.rows[order])

    def vectors(self, places: Places) -> np.ndarray:
        """Components of objects, (m, d) float32."""
        vectors = np.empty((len(places.rows), self.detail.dimension), np.float32)
        for number in np.unique(places.shards):
            at = places.shards == number
            vectors[at] = self.shards[number].vectors(places.rows[at])
        return vectors

    def take(self, places: Places, columns: Sequence[str]) -> pa.Table:
        """Read columns of objects, in the order of the places."""
        numbers = np.unique(places.shards)
        order = np.concatenate([np.flatnonzero(places.shards == number) for number in numbers] or [np.empty(0, int)])
        parts = []
        for number in numbers:
            rows = pa.array(places.rows[places.shards == number])
            shard = self.shards[number]
            parts.append(pa.table({name: shard.column(name).take(rows) for name in columns}))
        if not parts:
            return pa.schema([self.schema.field(name) for name in columns]).empty_table()
        if len(parts) == 1:
            return parts[0]
        return pa.concat_tables(parts).take(pa.array(np.argsort(order)))


def _rows_of(column: pa.Array, ids: pa.Array) -> np.ndarray:
    """Rows of ids, (m,) int32, in a column that is in order and without nulls; -1 for those that it does not hold."""
    if pa.types.is_integer(column.type):
        values, wanted = column.to_numpy(), ids.to_numpy(zero_copy_only=False)
        places = np.searchsorted(values, wanted)
        held = values[np.minimum(places, len(values) - 1)] == wanted
        return np.where(held, places, -1).astype(np.int32)
    if len(ids) <= _FEW_IDS:
        texts = ids.to_pylist()
        found = [bisect_left(range(len(column)), text, key=lambda row: column[row].as_py()) for text in texts]
        held = [row < len(column) and column[row].as_py() == text for row, text in zip(found, texts, strict=True)]
        return np.where(held, found, -1).astype(np.int32)
    places = pc.index_in(column, value_set=ids)
    rows = np.full(len(ids), -1, np.int32)
    rows[places.drop_null().to_numpy()] = np.flatnonzero(places.is_valid())
    return rows


def open_release(store: Store, release_id: str | None = None) -> OpenRelease:
    """Open the index of a release: the one that `current` points to when no id is given.

    Raises
    ------
    InputNotFoundError
        The output holds no finished release, or none of this id.
    IntegrityError
        A manifest is missing or changed, or the index was made from other components.
    """
    release = current_release(store) if release_id is None else find_release(store, release_id)
    index = manifest_of(store, release, "index")
    components = parent_of(store, index, "components")
    folder = store.below(paths.artefact("index", index.id))
    try:
        detail = IndexDetail.model_validate(index.detail)
    except ValidationError as error:
        raise IntegrityError(f"{folder.uri(paths.MANIFEST)}: {describe(error, IndexDetail)}") from error
    shards = [OpenShard(folder, record, detail.kind, detail.dimension) for record in detail.shards]
    source = store.below(paths.artefact("components", components.id))
    return OpenRelease(release.id, store, index, components, detail, shards, folder, source)
