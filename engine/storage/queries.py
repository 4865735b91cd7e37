"""A file of queries in: ids, positions or vectors. A row that cannot be asked keeps its place, with the reason."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.storage.store import Store
from engine.storage.table_file import SUFFIXES, integers_if_exact, kind_of, read_table_file
from schemas.config import QueryFileConfig
from schemas.errors import ConfigError, DataError, InputNotFoundError
from schemas.tables import COMPONENTS, OBJECT_ID

By = Literal["id", "position", "vector"]
NO_ID, NO_POSITION, NO_VECTOR = "no id", "no valid position", "no finite vector"
"""Reasons why a row cannot be asked."""
_POSITIONS = (("ra_deg", "dec_deg"), ("ra", "dec"), ("RA", "Dec"), ("RA", "DEC"), ("ra_deg", "de_deg"))


@dataclass(frozen=True)
class Queries:
    """n queries, all of one kind."""

    by: By
    n: int
    ids: pa.Array | None = None
    """(n,) int64 or string; null where there is none."""
    ra_deg: np.ndarray | None = None
    """(n,) float64."""
    dec_deg: np.ndarray | None = None
    vectors: np.ndarray | None = None
    """(n, dimension) float32."""
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that cannot be asked, and why."""

    @property
    def dimension(self) -> int | None:
        """Components of a vector; None without vectors."""
        return None if self.vectors is None else self.vectors.shape[1]


def read_queries(config: QueryFileConfig) -> Queries:
    """Read a file of queries.

    Raises
    ------
    InputNotFoundError
        Nothing is at the path.
    DataError
        The file cannot be read, is empty, or a column holds something else than its name promises.
    ConfigError
        It cannot be told which columns are the queries, or a named column is not there.
    """
    store = Store(config.path)
    if not store.exists(""):
        raise InputNotFoundError(f"queries.path: expected a file of queries, found nothing at {store.uri()}")
    table = _read(store, config)
    if len(table) == 0:
        raise DataError(f"{store.uri()}: expected at least one query, found an empty file")
    by, columns = _columns(table.column_names, config, store)
    if by == "id":
        return _by_id(table[columns[0]], store)
    if by == "position":
        return _by_position(*(_numbers(table[name], name, store) for name in columns))
    return _by_vector(table[columns[0]], columns[0], store)


def _read(store: Store, config: QueryFileConfig) -> pa.Table:
    kind = config.format or kind_of(store.root) or ("parquet" if not store.is_file() else None)
    if kind is None:
        raise DataError(f"{store.uri()}: cannot tell the format from the name; expected {', '.join(SUFFIXES)}")
    return read_table_file(
        store, kind, (config.id_column or OBJECT_ID,), lambda names: _columns(names, config, store)[1]
    )


def _columns(names: list[str], config: QueryFileConfig, store: Store) -> tuple[By, tuple[str, ...]]:
    """Decide what the queries are: as the config says, else by the names of columns."""
    told: list[tuple[By, tuple[str, ...]]] = []
    if config.id_column:
        told.append(("id", (config.id_column,)))
    if config.ra_column and config.dec_column:
        told.append(("position", (config.ra_column, config.dec_column)))
    if config.vector_column:
        told.append(("vector", (config.vector_column,)))
    found = told or _detected(names)
    where = f"{store.uri()}: columns {', '.join(names)}"
    if len(found) != 1:
        kinds = ", ".join(by for by, _ in found) or "none"
        raise ConfigError(
            f"{where}: expected queries of one kind ({OBJECT_ID}; ra_deg and dec_deg; or {COMPONENTS}), found {kinds}; "
            "name the columns: queries.id_column, ra_column and dec_column, or vector_column"
        )
    missing = [name for name in found[0][1] if name not in names]
    if missing:
        raise ConfigError(f"{where}: expected a column {missing[0]!r}, found none")
    return found[0]


def _detected(names: list[str]) -> list[tuple[By, tuple[str, ...]]]:
    if OBJECT_ID in names:  # A catalogue's rows have a position as well; the id says more.
        return [("id", (OBJECT_ID,))]
    if COMPONENTS in names:
        return [("vector", (COMPONENTS,))]
    for pair in _POSITIONS:
        if set(pair) <= set(names):
            return [("position", pair)]
    return []


def _by_id(column: pa.ChunkedArray, store: Store) -> Queries:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_integer(column.type):
        try:
            ids = column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(f"{store.uri()}: expected ids of 64 bits, signed: {error}") from error
    elif (
        pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    ):
        text = column.cast(pa.string())
        ids = integers_if_exact(pc.if_else(pc.equal(text, ""), None, text))
    else:
        raise DataError(f"{store.uri()}: expected ids as integers or text, found {column.type}")
    absent = np.flatnonzero(ids.is_null().to_numpy())
    return Queries("id", len(ids), ids=ids.combine_chunks(), bad=dict.fromkeys(absent.tolist(), NO_ID))


def _by_position(ra_deg: np.ndarray, dec_deg: np.ndarray) -> Queries:
    valid = (ra_deg >= 0) & (ra_deg < 360) & (dec_deg >= -90) & (dec_deg <= 90)
    bad = dict.fromkeys(np.flatnonzero(~valid).tolist(), NO_POSITION)
    return Queries("position", len(ra_deg), ra_deg=ra_deg, dec_deg=dec_deg, bad=bad)


def _by_vector(column: pa.ChunkedArray, name: str, store: Store) -> Queries:
    array = column.combine_chunks()
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if not (is_list or pa.types.is_fixed_size_list(array.type)) or not _is_number(array.type.value_type):
        raise DataError(f"{store.uri()}: column {name!r}: expected vectors of numbers, found {array.type}")
    lengths = pc.drop_null(pc.list_value_length(array)).unique().to_pylist()
    if len(lengths) != 1 or not lengths[0]:
        raise DataError(f"{store.uri()}: column {name!r}: expected vectors of one length, found {sorted(lengths)}")
    vectors = np.full((len(array), lengths[0]), np.nan, np.float32)
    present = array.is_valid().to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(array.drop_null()).cast(pa.float32(), safe=False)
    vectors[present] = flat.to_numpy(zero_copy_only=False).reshape(-1, lengths[0])
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    return Queries("vector", len(array), vectors=vectors, bad=dict.fromkeys(bad.tolist(), NO_VECTOR))


def _numbers(column: pa.ChunkedArray, name: str, store: Store) -> np.ndarray:
    if not _is_number(column.type) and not pa.types.is_null(column.type):
        raise DataError(f"{store.uri()}: column {name!r}: expected degrees as numbers, found {column.type}")
    return np.asarray(column.cast(pa.float64()).to_numpy())


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind)
