"""Tables as VOTables, with units and UCDs, for the clients of the Virtual Observatory."""

import io
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy.io.votable import from_table
from astropy.io.votable.tree import Info, Resource, VOTableFile
from astropy.table import Table
from starlette.responses import Response

from schemas.tables import DEC, OBJECT_ID, RA, SEPARATION, UNITS

VOTABLE = "application/x-votable+xml"
CONE_SEARCH = "text/xml;content=x-votable"
"""As Simple Cone Search 1.03 has it."""
_UCDS = {
    OBJECT_ID: "meta.id;meta.main",
    RA: "pos.eq.ra;meta.main",
    DEC: "pos.eq.dec;meta.main",
    SEPARATION: "pos.angDistance",
}
_CONE_SEARCH_UCDS = {OBJECT_ID: "ID_MAIN", RA: "POS_EQ_RA_MAIN", DEC: "POS_EQ_DEC_MAIN"}
"""Simple Cone Search 1.03 asks for these old words (section 2), and VOTables elsewhere for the newer ones."""
_WIDER = {
    pa.bool_(): pa.int16(),
    pa.int8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.string(),
    pa.float16(): pa.float32(),
}
"""Types that VOTable has not, or, of booleans, not with missing values."""
_NOT_XML = "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x{fffe}\\x{ffff}]"
"""Characters that XML 1.0 cannot hold."""


def votable(table: pa.Table, about: Mapping[str, str], complete: bool = True, media_type: str = VOTABLE) -> Response:
    """Write a table.

    Parameters
    ----------
    table : pa.Table
        Of numbers, booleans and text. Missing text becomes empty, missing floats NaN, other missing values are null.
    about : mapping
        INFO elements of the resource.
    complete : bool
        Whether this is everything that was asked for; else QUERY_STATUS says OVERFLOW (DALI 1.1, section 4.4).
    media_type : str
    """
    made = Table({field.name: _column(table[field.name]) for field in table.schema}, masked=False)
    for name, unit in UNITS.items():
        if name in made.colnames:
            made[name].unit = unit
    document, ucds = from_table(made), _CONE_SEARCH_UCDS if media_type == CONE_SEARCH else _UCDS
    for field in document.get_first_table().fields:
        field.ucd = ucds.get(field.name)
        if field.datatype in ("char", "unicodeChar"):
            field.arraysize = "*"
    resource = document.resources[0]
    resource.type = "results"
    said = {"QUERY_STATUS": "OK" if complete else "OVERFLOW", **about}
    resource.infos.extend(Info(name=name, value=_clean(value)) for name, value in said.items())
    return _response(document, media_type)


def refusal(message: str) -> Response:
    """Write why a cone search is not answered, as SCS 1.03 has it with its errata 1 and 3; its status is 200."""
    document = VOTableFile(version="1.4")
    document.infos.append(Info(ID="Error", name="Error", value=_clean(message)))
    document.resources.append(Resource())
    return _response(document, CONE_SEARCH)


def _response(document: VOTableFile, media_type: str) -> Response:
    buffer = io.BytesIO()
    document.to_xml(buffer)
    # A header, because a media type of text would get a character set, which XML names itself.
    return Response(buffer.getvalue(), headers={"Content-Type": media_type, "Vary": "Accept"})


def _column(column: pa.ChunkedArray) -> np.ndarray:
    column = column.cast(_WIDER.get(column.type, column.type))
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        clean = pc.replace_substring_regex(pc.fill_null(column, ""), _NOT_XML, "?")
        is_ascii = pc.all(pc.string_is_ascii(clean)).as_py() is not False
        return np.array(clean.to_pylist() or [""], dtype=np.bytes_ if is_ascii else np.str_)[: len(column)]
    if not column.null_count or pa.types.is_floating(kind):
        return np.asarray(column.to_numpy())
    zero = pa.scalar(0).cast(kind)
    return np.ma.MaskedArray(pc.fill_null(column, zero).to_numpy(), column.is_null().to_numpy())


def _clean(text: str) -> str:
    return pc.replace_substring_regex(pa.scalar(text), _NOT_XML, "?").as_py()
