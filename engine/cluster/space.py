"""Components in memory, to be ranked again and again: those of a whole release, or of some of its partitions.

Starts no cluster: `engine.cluster.ranking` spreads one space over a cluster as many of these.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.compute.acquisition import Acquisition
from engine.compute.batches import Searched
from engine.compute.gp import Posterior
from engine.compute.ranking import Candidates
from engine.storage.parquet import as_matrix, parse_table
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from schemas.errors import IntegrityError
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, OBJECT_ID

_READS_AT_ONCE = 8


class Space(Protocol):
    """Vectors of n objects by their rows, wherever they are."""

    @property
    def n(self) -> int:
        """Objects."""

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of ids, (m,) int64; -1 for those that are not here."""

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of rows, as text."""

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows, (m, d) float64."""

    def candidates(
        self, posterior: Posterior, acquisition: Acquisition, best_rating: float, excluded: np.ndarray
    ) -> Searched:
        """Candidates by the bounds of a posterior, without some rows."""


class OpenSpace:
    """A space in this process.

    Parameters
    ----------
    ids : (n,) pa.Array
    vectors : (n, d) float32 array
    threads, device
        Where objects are scored.
    first_row : int
        Of the first object, where this is a part of a space: rows are counted over all of it.
    """

    def __init__(
        self, ids: pa.Array, vectors: np.ndarray, threads: int = 1, device: str = "cpu", first_row: int = 0
    ) -> None:
        self.n = len(vectors)
        self._ids, self._vectors = ids, vectors
        self._threads, self._device, self._first = threads, device, first_row

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of ids, (m,) int64; -1 for those that are not here."""
        rows = np.full(len(ids), -1, np.int64)
        wanted = as_ids(pa.array(ids, pa.string()), self._ids.type).dictionary_encode()
        places = pc.index_in(self._ids, value_set=wanted.dictionary)
        at = np.full(len(wanted.dictionary) + 1, -1, np.int64)
        found = places.is_valid().to_numpy(zero_copy_only=False)
        at[places.drop_null().to_numpy()] = np.flatnonzero(found) + self._first
        rows[:] = at[pc.fill_null(wanted.indices, len(wanted.dictionary)).to_numpy()]
        return rows

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of rows, as text."""
        return [str(value) for value in self._ids.take(pa.array(rows - self._first)).to_pylist()]

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows, (m, d) float64."""
        return self._vectors[rows - self._first].astype(float)

    def candidates(
        self, posterior: Posterior, acquisition: Acquisition, best_rating: float, excluded: np.ndarray
    ) -> Candidates:
        """Candidates by the bounds of a posterior, without some rows."""
        return Candidates(
            posterior, self._vectors, acquisition, best_rating, excluded, self._threads, self._device, self._first
        )


def open_space(
    folder: Store,
    partitions: Sequence[PartitionFile],
    threads: int = 1,
    device: str = "cpu",
    first_row: int = 0,
    advance: Callable[[int], None] | None = None,
) -> OpenSpace:
    """Read partitions of components into memory; rows are in their order.

    Parameters
    ----------
    folder : Store
        Of the components.
    partitions : sequence of PartitionFile
        At least one.
    advance : callable or None
        Told of objects as they are read.

    Raises
    ------
    IntegrityError
        A file is missing, or not the one that its record names.
    """
    starts = np.cumsum([0, *(part.n_rows for part in partitions)])
    first = read_part(folder, partitions[0])
    dimension = first[COMPONENTS].type.list_size
    vectors, ids = np.empty((starts[-1], dimension), np.float32), [pa.nulls(0)] * len(partitions)

    def read(number: int) -> int:
        table = read_part(folder, partitions[number]) if number else first
        vectors[starts[number] : starts[number + 1]] = as_matrix(table[COMPONENTS])
        ids[number] = table[OBJECT_ID].combine_chunks()
        return len(table)

    with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
        for n_rows in pool.map(read, range(len(partitions))):
            if advance:
                advance(n_rows)
    return OpenSpace(pa.concat_arrays(ids), vectors, threads, device, first_row)


def read_part(folder: Store, part: PartitionFile, columns: Sequence[str] = (OBJECT_ID, COMPONENTS)) -> pa.Table:
    """Read columns of a partition whose hash is checked.

    Raises
    ------
    IntegrityError
        The file is missing, or not the one that its record names.
    """
    path = part.file.path
    if not folder.exists(path):
        raise IntegrityError(f"{folder.uri(path)}: missing, although a manifest names it")
    data = folder.read(path)
    found = hashlib.sha256(data).hexdigest()
    if found != part.file.sha256:
        raise IntegrityError(f"{folder.uri(path)}: expected SHA-256 {part.file.sha256}, found {found}")
    return parse_table(data, folder.uri(path), columns)
