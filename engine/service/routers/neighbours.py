"""Routes about neighbours: the objects most like objects, positions or vectors."""

from typing import Annotated

import pyarrow as pa
import pyarrow.compute as pc
from fastapi import APIRouter, Depends, Query, Request, Response

from engine.compute.rejects import Reject
from engine.service.answers import neighbours_answer, said_of
from engine.service.problems import ProblemError, wrong
from engine.service.protocols import Searcher
from engine.service.security import IMAGES, READS
from engine.service.tables import TABLES, wanted, written
from schemas.found import Found
from schemas.service import (
    ImageParameters,
    NeighboursAnswer,
    NeighboursParameters,
    NeighboursQuestion,
    ServeConfig,
    TableFormat,
)
from schemas.tables import CUTOUT, NO_MATCH, RANK, STATUS, UNKNOWN_ID

_BYTES = {"schema": {"type": "string", "format": "binary"}}
_IMAGE = {"image/jpeg": _BYTES, "image/png": _BYTES, "application/fits": _BYTES, "application/octet-stream": _BYTES}


async def _body(request: Request) -> bytes:
    return await request.body()


def routes(searcher: Searcher, config: ServeConfig) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["neighbours"], dependencies=[READS])

    @router.get("/v1/neighbours", response_model=NeighboursAnswer, responses=TABLES)
    def neighbours(request: Request, asked: Annotated[NeighboursParameters, Query()]) -> NeighboursAnswer | Response:
        """Find the neighbours of an object, or of the object at a position."""
        found = _answer(asked.question)
        status = found.table[STATUS][0].as_py()
        if status in (UNKNOWN_ID, NO_MATCH):
            raise ProblemError(404, "not-found", f"no such object: {status}")
        if asked.rank:
            wanted_ones = pc.is_in(found.table[RANK], pa.array(asked.rank, found.table.schema.field(RANK).type))
            found = found._replace(table=found.table.filter(wanted_ones))
        return _written(request, asked.format, found)

    @router.post("/v1/neighbours", response_model=NeighboursAnswer, responses=TABLES)
    def neighbours_of_many(
        request: Request, question: NeighboursQuestion, format: TableFormat | None = None
    ) -> NeighboursAnswer | Response:
        """Find the neighbours of objects, positions or vectors; of a query that has none, its status says why."""
        return _written(request, format, _answer(question))

    @router.post(
        IMAGES,
        response_model=NeighboursAnswer,
        responses=TABLES | {501: {"description": "The release's encoder is not here."}},
        openapi_extra={"requestBody": {"required": True, "content": _IMAGE}},
    )
    def neighbours_of_image(
        request: Request, image: Annotated[bytes, Depends(_body)], asked: Annotated[ImageParameters, Query()]
    ) -> NeighboursAnswer | Response:
        """Find the neighbours of an image, encoded as the release's own cutouts were; its bytes say what it is."""
        if asked.k > config.most_k:
            raise wrong("k", f"expected at most {config.most_k:,}")
        found = searcher.similar(image, asked.question)
        if isinstance(found, Reject):
            detail = f"the image cannot be used: {found.reason.meaning}: {found.detail}"
            raise ProblemError(422, found.reason.value, detail)
        return _written(request, asked.format, found)

    def _answer(question: NeighboursQuestion) -> Found:
        if question.k > config.most_k:
            raise wrong("k", f"expected at most {config.most_k:,}")
        if question.n * question.k > config.most_objects:
            raise wrong("k", f"expected at most {config.most_objects:,} neighbours of all queries together")
        return searcher.neighbours(question)

    def _written(request: Request, asked: TableFormat | None, found: Found) -> NeighboursAnswer | Response:
        about, kind = searcher.about(), wanted(request, asked)
        if kind == "json":
            return neighbours_answer(about, found)
        return written(found.table.drop_columns([CUTOUT]), kind, f"neighbours-{about.release}", said_of(about, found))

    return router
