"""Routes about neighbours: the objects most like objects, positions or vectors."""

from typing import Annotated, Any

import pyarrow as pa
from fastapi import APIRouter, Query, Request, Response

from engine.service.answers import neighbours_answer
from engine.service.problems import ProblemError, wrong
from engine.service.protocols import Searcher
from engine.service.security import READS
from engine.service.votables import VOTABLE, votable, wanted
from schemas.service import NeighboursAnswer, NeighboursParameters, NeighboursQuestion, ServeConfig, TableFormat
from schemas.tables import CUTOUT, NO_MATCH, STATUS, UNKNOWN_ID

_AS_VOTABLE: dict[int | str, dict[str, Any]] = {200: {"content": {VOTABLE: {}}}}


def routes(searcher: Searcher, config: ServeConfig) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["neighbours"], dependencies=[READS])

    @router.get("/v1/neighbours", response_model=NeighboursAnswer, responses=_AS_VOTABLE)
    def neighbours(request: Request, asked: Annotated[NeighboursParameters, Query()]) -> NeighboursAnswer | Response:
        """Find the neighbours of an object, or of the object at a position."""
        question = asked.question
        table = _answer(question)
        if table[STATUS][0].as_py() in (UNKNOWN_ID, NO_MATCH):
            raise ProblemError(404, "not-found", f"no such object: {table[STATUS][0]}")
        return _written(request, asked.format, table)

    @router.post("/v1/neighbours", response_model=NeighboursAnswer, responses=_AS_VOTABLE)
    def neighbours_of_many(
        request: Request, question: NeighboursQuestion, format: TableFormat | None = None
    ) -> NeighboursAnswer | Response:
        """Find the neighbours of objects, positions or vectors; of a query that has none, its status says why."""
        return _written(request, format, _answer(question))

    def _answer(question: NeighboursQuestion) -> pa.Table:
        if question.k > config.most_k:
            raise wrong("k", f"expected at most {config.most_k:,}")
        if question.n * question.k > config.most_objects:
            raise wrong("k", f"expected at most {config.most_objects:,} neighbours of all queries together")
        return searcher.neighbours(question)

    def _written(request: Request, asked: TableFormat | None, table: pa.Table) -> NeighboursAnswer | Response:
        about = searcher.about()
        if wanted(request, asked) == "votable":
            return votable(table.drop_columns([CUTOUT]), {"release": about.release, "index": about.index})
        return neighbours_answer(about, table)

    return router
