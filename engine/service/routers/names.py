"""Routes about names of objects elsewhere: where M 31 is, asked of a name resolver by the service itself."""

from typing import Annotated

from fastapi import APIRouter, Query

from engine.service.problems import ProblemError
from engine.service.security import READS
from engine.storage.name_resolver import NameResolver
from schemas.service_names import NameParameters, PlaceAnswer


def routes(resolver: NameResolver | None) -> APIRouter:
    """Make the route; without a resolver it says that there is none."""
    router = APIRouter(tags=["names"], dependencies=[READS])

    @router.get("/v1/resolve")
    def resolve(asked: Annotated[NameParameters, Query()]) -> PlaceAnswer:
        """Find where an object of this name is, whether the release has it or not."""
        if resolver is None:
            raise ProblemError(404, "no-resolver", "this service asks no name resolver (its setting name_resolver)")
        found = resolver.resolve(asked.name)
        if found is None:
            raise ProblemError(404, "unknown-name", "no object of this name is known to the name resolver")
        return PlaceAnswer(name=asked.name, ra_deg=found.ra_deg, dec_deg=found.dec_deg)

    return router
