"""Answers out: a table to Parquet, CSV, FITS, VOTable or a HATS catalogue, by the name's ending."""

import io
from collections.abc import Iterable
from pathlib import PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from engine.storage.hats_catalogue import write_hats_table
from engine.storage.parquet import write_table
from engine.storage.store import Store
from schemas.errors import ConfigError, DataError, OutputError
from schemas.tables import UNITS

ANSWER_SUFFIXES = (".parquet", ".csv", ".fits", ".vot", ".xml", ".hats")
_HATS = ".hats"
MOST_ROWS_IN_MEMORY = 5_000_000
"""Of formats that are written from a table in memory."""


def check_answer_path(uri: str) -> None:
    """Check that an answer can be written under this name.

    Raises
    ------
    ConfigError
        The name ends in none of the known suffixes.
    OutputError
        A HATS catalogue is to be written where something is already.
    """
    suffix = PurePosixPath(uri).suffix
    if suffix not in ANSWER_SUFFIXES:
        raise ConfigError(f"output: expected a name ending in {', '.join(ANSWER_SUFFIXES)}, found {uri!r}")
    if suffix == _HATS and Store(uri).exists(""):
        raise OutputError(f"output: expected a new folder for a HATS catalogue, found that {uri} is there already")


def is_folder(uri: str) -> bool:
    """Whether an answer of this name is a folder of Parquet parts: it ends in a slash, or has no suffix."""
    return uri.endswith("/") or not PurePosixPath(uri).suffix


def check_answer_size(uri: str, n_rows: int) -> None:
    """Check that an answer of so many rows can be written in one piece where its format asks for that.

    Raises
    ------
    ConfigError
        It is no Parquet and no CSV, which are written a little at a time, and has more rows than memory may hold.
    """
    if PurePosixPath(uri).suffix not in (".parquet", ".csv") and n_rows > MOST_ROWS_IN_MEMORY:
        raise ConfigError(
            f"output: {PurePosixPath(uri).suffix} is written in one piece of at most {MOST_ROWS_IN_MEMORY:,} rows, and "
            f"this answer may have {n_rows:,}; name a .parquet or .csv file, or a folder (ending in /) for parts"
        )


def write_answer_parts(uri: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> int:
    """Write tables one after the other as one answer, as its name says, atomically; return how many rows they have."""
    check_answer_path(uri)
    suffix, n_rows = PurePosixPath(uri).suffix, 0
    if suffix not in (".parquet", ".csv"):
        table = pa.concat_tables([schema.empty_table(), *tables])
        write_answer(uri, table)
        return len(table)
    folder, _, name = Store(uri).uri().rpartition("/")
    with Store(folder or "/").writing(name) as sink:
        file = pa.PythonFile(sink, mode="w")
        if suffix == ".csv":
            writer = pacsv.CSVWriter(file, schema)
        else:
            writer = pq.ParquetWriter(file, schema, compression="zstd", write_page_checksum=True)
        with writer:
            for table in tables:
                n_rows += len(table)
                writer.write_table(table)
    return n_rows


def write_answer(uri: str, table: pa.Table) -> None:
    """Write a table as its name says, atomically; FITS and VOTable carry units.

    In these, missing text becomes empty, and missing floats NaN; missing integers are masked. A HATS catalogue is a
    folder, and not written in one step.

    Raises
    ------
    ConfigError
        The name ends in none of the known suffixes.
    DataError
        FITS is to hold text that is not ASCII, or a HATS catalogue rows of which none has a position.
    OutputError
        A HATS catalogue is to be written where something is already.
    """
    check_answer_path(uri)
    if PurePosixPath(uri).suffix == _HATS:
        write_hats_table(Store(uri), PurePosixPath(uri).stem, table)
        return
    folder, _, name = Store(uri).uri().rpartition("/")
    store, suffix = Store(folder or "/"), PurePosixPath(uri).suffix
    if suffix == ".parquet":
        write_table(store, name, table)
        return
    if suffix == ".csv":
        sink = pa.BufferOutputStream()
        pacsv.write_csv(table, sink)
        store.write(name, sink.getvalue())
        return
    store.write(name, _encoded(table, "fits" if suffix == ".fits" else "votable"))


def _encoded(table: pa.Table, kind: str) -> bytes:
    from astropy.table import Table

    converted = Table({field.name: _column(table[field.name]) for field in table.schema}, masked=False)
    for column, unit in UNITS.items():
        if column in converted.colnames:
            converted[column].unit = unit
    data = io.BytesIO()
    try:
        converted.write(data, format=kind)
    except UnicodeEncodeError as error:
        raise DataError(f"FITS holds ASCII text only, found {error.object!r}; write .parquet, .csv or .vot") from error
    return data.getvalue()


def _column(column: pa.ChunkedArray) -> np.ndarray:
    """A column as astropy takes it: missing integers and booleans are masked."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        filled = pc.fill_null(column, "")
        longest = pc.max(pc.binary_length(filled)).as_py() or 1
        return np.asarray(
            filled.to_pylist(), dtype=f"S{longest}" if pc.all(pc.string_is_ascii(filled)).as_py() else str
        )
    if not column.null_count or pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy())
    zero = pa.scalar(0).cast(column.type) if not pa.types.is_boolean(column.type) else pa.scalar(False)
    missing = column.is_null().to_numpy()
    return np.ma.MaskedArray(pc.fill_null(column, zero).to_numpy(), missing)
