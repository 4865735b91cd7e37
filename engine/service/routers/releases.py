"""Routes about the service itself: whether it answers, and what it serves."""

from fastapi import APIRouter

from engine.service.protocols import Searcher
from engine.service.security import HEALTH, READS
from schemas.service import Health, ReleaseAnswer


def routes(searcher: Searcher) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["release"])

    @router.get(HEALTH)
    async def health() -> Health:
        """Say that the service answers; needs no token."""
        return Health()

    @router.get("/v1/release", dependencies=[READS])
    def release() -> ReleaseAnswer:
        """Say which release and index are served."""
        return searcher.about()

    return router
