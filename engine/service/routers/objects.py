"""Routes about objects: one by its id, or those around a position."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from engine.service.answers import cone_answer, object_answer
from engine.service.problems import ProblemError, wrong
from engine.service.protocols import Searcher
from engine.service.security import READS
from engine.service.tables import TABLES, wanted, written
from schemas.service import ConeAnswer, ConeParameters, ObjectAnswer, ObjectId, ServeConfig


def routes(searcher: Searcher, config: ServeConfig) -> APIRouter:
    """Make the routes; those of single objects match any id, whatever is in it."""
    router = APIRouter(tags=["objects"], dependencies=[READS])

    @router.get("/v1/cone", response_model=ConeAnswer, responses=TABLES)
    def cone(request: Request, asked: Annotated[ConeParameters, Query()]) -> ConeAnswer | Response:
        """List the objects around a position, the nearest first."""
        if asked.radius_arcsec > config.most_radius_arcsec:
            raise wrong("radius_arcsec", f"expected at most {config.most_radius_arcsec:g}")
        found, about = searcher.cone(asked.cone), searcher.about()
        objects = found.slice(0, config.most_objects)
        if (kind := wanted(request, asked.format)) != "json":
            said = {"release": about.release, "n_found": str(len(found))}
            return written(objects, kind, f"cone-{about.release}", said, complete=len(objects) == len(found))
        return cone_answer(about, objects, len(found))

    @router.get("/v1/objects/{object_id:path}")
    def one_object(object_id: Annotated[ObjectId, Path()]) -> ObjectAnswer:
        """Read an object: its position, its components, and its other columns of the catalogue."""
        row = searcher.object(object_id)
        if not len(row):
            raise ProblemError(404, "not-found", "the release has no such object")
        return object_answer(searcher.about(), row)

    return router
