"""Tables that may be larger than memory, as CSV or VOTable, a piece at a time."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from engine.service.votables import votable

_BEGIN, _END = b"<TABLEDATA>", b"</TABLEDATA>"
_NOT_ASCII = "é"
"""A text column that holds it is one of any characters."""
_ESCAPED = (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"))
_NOT_XML = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"


def csv_parts(schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[bytes]:
    """Write tables as one CSV; all text is in quotes, so that the empty one differs from none."""
    yield _csv(schema.empty_table(), True)
    for table in tables:
        yield _csv(table, False)


def votable_parts(schema: pa.Schema, tables: Iterable[pa.Table], about: Mapping[str, str]) -> Iterator[bytes]:
    """Write tables as one VOTable, like `engine.service.votables.votable`; missing values are empty, floats NaN.

    Parameters
    ----------
    schema : pa.Schema
        Of numbers and text.
    tables : iterable of pa.Table
    about : mapping
        INFO elements of the resource.
    """
    begin, _, rest = bytes(votable(_sample(schema), about).body).partition(_BEGIN)
    yield begin + _BEGIN + b"\n"
    for table in tables:
        yield _rows(table)
    yield _END + rest.partition(_END)[2]


def _csv(table: pa.Table, include_header: bool) -> bytes:
    sink = pa.BufferOutputStream()
    pacsv.write_csv(table, sink, pacsv.WriteOptions(include_header=include_header))
    return bytes(sink.getvalue().to_pybytes())


def _sample(schema: pa.Schema) -> pa.Table:
    """One row, of which only what is said around it is kept."""
    values: dict[str, Any] = {
        field.name: pa.array([_NOT_ASCII if pa.types.is_string(field.type) else 0], field.type) for field in schema
    }
    return pa.table(values)


def _rows(table: pa.Table) -> bytes:
    cells = [_text(table[name]) for name in table.column_names]
    between = [pa.scalar("</TD><TD>")] * (len(cells) - 1)
    pieces = [piece for pair in zip(cells, [*between, pa.scalar("</TD></TR>")], strict=True) for piece in pair]
    rows = pc.binary_join_element_wise(pa.scalar("<TR><TD>"), *pieces, "")
    return ("\n".join(rows.to_pylist()) + "\n").encode() if len(rows) else b""


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        text = pc.replace_substring_regex(column, _NOT_XML, "?")
        for character, escaped in _ESCAPED:
            text = pc.replace_substring(text, character, escaped)
        return pc.fill_null(text, "")
    missing = "NaN" if pa.types.is_floating(column.type) else ""
    text = pc.fill_null(column.cast(pa.string()), missing)
    return text if missing == "" else pc.if_else(pc.equal(text, "nan"), "NaN", text)
