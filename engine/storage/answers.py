"""Answers out: a table to Parquet, CSV or VOTable, by the name's ending."""

import io
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from engine.storage.parquet import write_table
from engine.storage.store import Store
from schemas.errors import ConfigError
from schemas.tables import UNITS

ANSWER_SUFFIXES = (".parquet", ".csv", ".vot", ".xml")


def check_answer_path(uri: str) -> None:
    """Check that an answer can be written under this name.

    Raises
    ------
    ConfigError
        The name ends in none of the known suffixes.
    """
    if PurePosixPath(uri).suffix not in ANSWER_SUFFIXES:
        raise ConfigError(f"output: expected a name ending in {', '.join(ANSWER_SUFFIXES)}, found {uri!r}")


def write_answer(uri: str, table: pa.Table) -> None:
    """Write a table as its name says, atomically; VOTable carries units."""
    check_answer_path(uri)
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
    store.write(name, _votable(table))


def _votable(table: pa.Table) -> bytes:
    from astropy.table import Table

    columns = {}
    for field in table.schema:
        column = table[field.name]
        text = pa.types.is_string(field.type)
        columns[field.name] = pc.fill_null(column, "").to_pylist() if text else column.to_numpy()
    converted = Table(columns)
    for column, unit in UNITS.items():
        if column in converted.colnames:
            converted[column].unit = unit
    text = io.BytesIO()
    converted.write(text, format="votable")
    return text.getvalue()
