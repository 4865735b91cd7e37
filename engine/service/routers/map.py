"""Routes about the map: what it is, its points as plain numbers, and which objects they are."""

import hashlib
from typing import Annotated

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response

from engine.service.map_protocol import ReleaseMap
from engine.service.problems import ProblemError, wrong
from engine.service.security import READS
from engine.service.tables import TABLES, wanted, written
from schemas.service import ServeConfig
from schemas.service_map import (
    MapAnswer,
    PointAnswer,
    PointIdsParameters,
    PointsAnswer,
    PointsParameters,
    PointsQuestion,
    PointsTableParameters,
)
from schemas.tables import DEC, OBJECT_ID, RA

NUMBERS = "application/octet-stream"
KEPT_S = 86_400
"""For which points of a map that was named may be shown again without asking: it never changes."""


def routes(release_map: ReleaseMap | None, config: ServeConfig) -> APIRouter:
    """Make the routes; where there is no map they say so."""
    router = APIRouter(tags=["map"], dependencies=[READS])
    whose = "public" if config.anonymous_read else "private"

    def there() -> ReleaseMap:
        if release_map is None:
            raise ProblemError(404, "no-map", "the release that is served has no map: voorwerp map makes one")
        return release_map

    @router.get("/v1/map")
    def about() -> MapAnswer:
        """Say what the map is of, and what its points can be coloured by."""
        return there().about().model_copy(update={"most_rows": config.most_objects})

    @router.get(
        "/v1/map/points",
        response_class=Response,
        responses={200: {"content": {NUMBERS: {}}}, 304: {"description": "The points are as they were."}},
    )
    def points(request: Request, asked: Annotated[PointsParameters, Query()]) -> Response:
        """Read points as little-endian float32: x and y of one after the other, or one value of each, NaN for none."""
        found = there()
        known = found.about()
        if asked.column is not None and asked.column not in {column.name for column in known.columns}:
            raise wrong("query.column", "expected a column of numbers that the map names")
        if asked.map not in (None, known.map):
            raise ProblemError(404, "no-map", "another map is served now")
        keeping = f"{whose}, max-age={KEPT_S}, immutable" if asked.map else f"{whose}, no-cache"
        said = f"{known.map}/{asked.column or ''}/{asked.start}/{asked.n}"
        tag = f'"{hashlib.sha256(said.encode()).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": keeping}
        if tag in {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}:
            return Response(status_code=304, headers=headers)
        if asked.column is None:
            numbers = found.positions(asked.start, asked.n)
        else:
            numbers = found.values(asked.column, asked.start, asked.n)
        return Response(np.ascontiguousarray(numbers, "<f4").tobytes(), media_type=NUMBERS, headers=headers)

    @router.get("/v1/map/ids")
    def ids(asked: Annotated[PointIdsParameters, Query()]) -> PointsAnswer:
        """Say which objects a few points are."""
        return _answer(there(), asked.row)

    @router.post("/v1/map/objects", response_model=PointsAnswer, responses=TABLES)
    def objects(
        request: Request, question: PointsQuestion, asked: Annotated[PointsTableParameters, Query()]
    ) -> PointsAnswer | Response:
        """Say which objects many points are, as JSON or as a table."""
        if len(question.rows) > config.most_objects:
            raise wrong("rows", f"expected at most {config.most_objects:,}")
        found = there()
        if (kind := wanted(request, asked.format)) != "json":
            known = found.about()
            table = _objects(found, question.rows)
            return written(table, kind, f"map-{known.release}", {"release": known.release, "map": known.map})
        return _answer(found, question.rows)

    return router


def _objects(release_map: ReleaseMap, rows: list[int] | tuple[int, ...]) -> pa.Table:
    n_points = release_map.about().n_points
    if max(rows) >= n_points:
        raise wrong("rows", f"expected rows below {n_points:,}")
    table = release_map.objects(np.array(rows, np.int64))
    return table.set_column(0, OBJECT_ID, table[OBJECT_ID].cast(pa.string()))


def _answer(release_map: ReleaseMap, rows: list[int] | tuple[int, ...]) -> PointsAnswer:
    table = _objects(release_map, rows).to_pydict()
    columns = zip(rows, table[OBJECT_ID], table[RA], table[DEC], strict=True)
    known = release_map.about()
    objects = tuple(PointAnswer(row=row, object_id=name, ra_deg=ra, dec_deg=dec) for row, name, ra, dec in columns)
    return PointsAnswer(release=known.release, map=known.map, objects=objects)
