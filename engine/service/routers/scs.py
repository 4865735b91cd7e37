"""Simple Cone Search 1.03 (IVOA), for TOPCAT, Aladin, pyvo and others."""

from collections.abc import Mapping

import pyarrow as pa
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from engine.service.answers import plain
from engine.service.protocols import Searcher
from engine.service.security import READS
from engine.service.votables import CONE_SEARCH, refusal, votable
from schemas.service import Cone, ServeConfig
from schemas.tables import DEC, OBJECT_ID, RA, SEPARATION

_LEAST_VERBOSITY, _VERBOSITY, _MOST_VERBOSITY = 1, 2, 3
_PARAMETERS = [
    {"name": name, "in": "query", "required": name != "VERB", "schema": {"type": kind}, "description": meaning}
    for name, kind, meaning in (
        ("RA", "number", "degrees (ICRS)"),
        ("DEC", "number", "degrees (ICRS)"),
        ("SR", "number", "radius in degrees; 0 for the columns alone"),
        ("VERB", "integer", "1: ids and positions, 2: and separations, 3: all columns"),
    )
]


class _RefusedError(Exception):
    """Parameters that cannot be answered."""


def routes(searcher: Searcher, config: ServeConfig) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["cone search"], dependencies=[READS])

    @router.get(
        "/v1/scs",
        response_class=Response,
        responses={200: {"content": {"text/xml": {}}}},
        openapi_extra={"parameters": _PARAMETERS},
    )
    def cone_search(request: Request) -> Response:
        """Answer a Simple Cone Search; parameters that it does not know are not looked at."""
        given = {name.upper(): value for name, value in request.query_params.items()}
        try:
            ra_deg, dec_deg, radius_deg = (_number(given, name) for name in ("RA", "DEC", "SR"))
            verbosity = _verbosity(given.get("VERB"))
            most_deg = config.most_radius_arcsec / 3600
            if not 0 <= radius_deg <= most_deg:
                raise _RefusedError(f"SR: expected a radius from 0 to {most_deg:g} degrees, found {radius_deg:g}")
            cone = _cone(ra_deg, dec_deg, radius_deg)
        except _RefusedError as error:
            return refusal(str(error))
        found = searcher.cone(cone, everything=verbosity == _MOST_VERBOSITY)
        rows = found.slice(0, config.most_objects if radius_deg else 0)
        complete = not radius_deg or len(rows) == len(found)
        return votable(_columns(rows, verbosity), {"release": searcher.about().release}, complete, CONE_SEARCH)

    return router


def _number(given: Mapping[str, str], name: str) -> float:
    if name not in given:
        raise _RefusedError(f"{name}: expected a number of degrees, found none")
    try:
        return float(given[name])
    except ValueError as error:
        raise _RefusedError(f"{name}: expected a number of degrees, found {given[name][:40]!r}") from error


def _verbosity(text: str | None) -> int:
    if text is None:
        return _VERBOSITY
    if text not in ("1", "2", "3"):
        raise _RefusedError(f"VERB: expected 1, 2 or 3, found {text[:40]!r}")
    return int(text)


def _cone(ra_deg: float, dec_deg: float, radius_deg: float) -> Cone:
    try:
        return Cone(ra_deg=ra_deg, dec_deg=dec_deg, radius_arcsec=radius_deg * 3600 or 1.0)
    except ValidationError as error:
        expected = "RA from 0 to below 360 and DEC from -90 to 90 degrees"
        raise _RefusedError(f"expected {expected}, found {ra_deg:g} and {dec_deg:g}") from error


def _columns(rows: pa.Table, verbosity: int) -> pa.Table:
    """Choose columns; ids are text there, whatever they are in the release."""
    rows = rows.set_column(rows.column_names.index(OBJECT_ID), OBJECT_ID, rows[OBJECT_ID].cast(pa.string()))
    if verbosity == _MOST_VERBOSITY:
        return plain(rows)
    return rows.select([OBJECT_ID, RA, DEC] + [SEPARATION] * (verbosity > _LEAST_VERBOSITY))
