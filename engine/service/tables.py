"""Tables as VOTable, CSV or Parquet, and which of these, or JSON, is wanted. Ids and numbers are exact in all of them.

A CSV holds values as they are, also text that a spreadsheet would take for a formula: what is changed to be safe there
is no longer the id of an object. All text is in quotes, and browsers are told to save the file, not to open it.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from fastapi import Request
from starlette.responses import Response

from engine.service.votables import VOTABLE, votable
from schemas.service import TableFormat

CSV, PARQUET = "text/csv", "application/vnd.apache.parquet"
_KINDS: dict[TableFormat, tuple[str, ...]] = {
    "json": ("application/json", "application/*", "*/*"),
    "votable": (VOTABLE,),  # Not any XML, which browsers prefer to anything else.
    "csv": (CSV, "text/*"),
    "parquet": (PARQUET,),
}
"""What Accept calls a format; of formats that it likes as much, the first."""
_SUFFIXES: dict[TableFormat, str] = {"votable": "vot", "csv": "csv", "parquet": "parquet"}
TABLES: dict[int | str, dict[str, Any]] = {200: {"content": {VOTABLE: {}, CSV: {}, PARQUET: {}}}}
"""What a route answers, beside JSON where it has that."""


def wanted(request: Request, asked: TableFormat | None) -> TableFormat:
    """Say in which format a table is wanted: what is asked for, or what Accept prefers; JSON where it does not care."""
    if asked:
        return asked
    liked = dict.fromkeys(get_args(TableFormat), 0.0)
    for part in request.headers.get("accept", "*/*").split(","):
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((_quality(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
        for name, kinds in _KINDS.items():
            if kind in kinds:
                liked[name] = max(liked[name], quality)
    return max(liked, key=lambda name: liked[name])


def written(table: pa.Table, kind: TableFormat, name: str, about: Mapping[str, str], complete: bool = True) -> Response:
    """Write a table.

    Parameters
    ----------
    table : pa.Table
        Of numbers, booleans and text.
    kind : str
        Not json.
    name : str
        Of the file, without its suffix.
    about : mapping of str to str
        What is to be said of the table: INFO of a VOTable, metadata of the schema of Parquet, and of any format headers
        `Voorwerp-...`.
    complete : bool
        Whether this is everything that was asked for.
    """
    said = {**about, "complete": str(complete).lower()}
    headers = {f"Voorwerp-{key.replace('_', '-').title()}": value for key, value in said.items()}
    headers |= {"Content-Disposition": f'attachment; filename="{name}.{_SUFFIXES[kind]}"', "Vary": "Accept"}
    if kind == "votable":
        response = votable(table, about, complete)
        response.headers.update(headers)
        return response
    sink = pa.BufferOutputStream()
    if kind == "csv":
        pacsv.write_csv(table, sink)  # Text in quotes, so that the empty one differs from none.
        headers["Content-Type"] = f"{CSV}; charset=utf-8; header=present"
        return Response(sink.getvalue().to_pybytes(), headers=headers)
    pq.write_table(table.replace_schema_metadata(said), sink, compression="zstd", write_page_checksum=True)
    return Response(sink.getvalue().to_pybytes(), headers=headers, media_type=PARQUET)


def _quality(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        return 0.0
    return found if math.isfinite(found) else 0.0
