"""Routes about the service itself: whether it answers, what it serves, and what that was made of."""

from fastapi import APIRouter, Response

from engine.service.problems import ProblemError
from engine.service.protocols import Searcher
from engine.service.release_answers import manifest_answer, manifests_answer, releases_answer
from engine.service.security import HEALTH, READS
from schemas.manifest import Kind
from schemas.service import Health, ReleaseAnswer
from schemas.service_releases import ManifestAnswer, ManifestsAnswer, RejectsAnswer, ReleasesAnswer

FITS = "application/fits"


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

    @router.get("/v1/releases", dependencies=[READS])
    def releases() -> ReleasesAnswer:
        """List the finished releases of the output that is served, the newest first."""
        return releases_answer(searcher.about().release, searcher.releases())

    @router.get("/v1/release/manifests", dependencies=[READS])
    def manifests() -> ManifestsAnswer:
        """Say what the release was made of: encoder, plan, embeddings, components and index."""
        return manifests_answer(searcher.about().release, searcher.manifests())

    @router.get("/v1/release/manifests/{kind}", dependencies=[READS])
    def manifest(kind: Kind) -> ManifestAnswer:
        """Read a manifest, but for where its files lie."""
        found = searcher.manifests().get(kind)
        if found is None:
            raise ProblemError(404, "not-found", f"the release has no {kind}")
        return manifest_answer(searcher.about().release, found)

    @router.get("/v1/release/rejects", dependencies=[READS])
    def rejects() -> RejectsAnswer:
        """Count what was planned and is not in the release, by reason, with some ids."""
        return searcher.rejects()

    @router.get(
        "/v1/release/footprint.fits",
        dependencies=[READS],
        response_class=Response,
        responses={200: {"content": {FITS: {}}}},
    )
    def footprint() -> Response:
        """Draw where the release has objects: a MOC (IVOA MOC 2.0) of cells of 7 arcmin that hold any."""
        name = f"footprint-{searcher.about().release}.fits"
        headers = {"Content-Disposition": f'attachment; filename="{name}"'}
        return Response(searcher.footprint(), headers=headers, media_type=FITS)

    return router
