"""Routes about the service itself: whether it answers, what it serves, and what that was made of."""

from typing import Annotated

from fastapi import APIRouter, Path, Response

from engine.service.problems import ProblemError
from engine.service.protocols import Searcher
from engine.service.release_answers import manifest_answer, manifests_answer, releases_answer
from engine.service.report_policy import policy_of
from engine.service.security import HEALTH, READS
from engine.storage.reports import ReportFiles
from schemas.manifest import Kind
from schemas.report import Report
from schemas.service import Health, ReleaseAnswer
from schemas.service_releases import ManifestAnswer, ManifestsAnswer, RejectsAnswer, ReleasesAnswer

FITS = "application/fits"
HTML = "text/html"
SIGNED_BY = "Voorwerp-Signed-By"
"""Ids of keys whose signatures lie beside a report. Whoever wants to know checks them (`voorwerp verify`)."""
ReleaseId = Annotated[str, Path(pattern="^[0-9a-f]{16}$")]


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

    def report_of(release: str) -> ReportFiles:
        found = searcher.report(release)
        if found is None:
            raise ProblemError(404, "no-report", "the release has no report card: voorwerp report makes one")
        return found

    @router.get("/v1/releases/{release}/report", dependencies=[READS], response_model=Report)
    def report(release: ReleaseId) -> Response:
        """Read the report card of a release: the bytes that are signed, where they are."""
        found = report_of(release)
        return Response(found.data, media_type="application/json", headers=_signed(found))

    @router.get(
        "/v1/releases/{release}/report.html",
        dependencies=[READS],
        response_class=Response,
        responses={200: {"content": {HTML: {}}}},
    )
    def report_page(release: ReleaseId) -> Response:
        """Read the report card of a release as a page, which loads nothing and runs nothing."""
        found = report_of(release)
        headers = _signed(found) | {"Content-Security-Policy": policy_of(found.page)}
        return Response(found.page, headers=headers, media_type=f"{HTML}; charset=utf-8")

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


def _signed(found: ReportFiles) -> dict[str, str]:
    return {SIGNED_BY: ", ".join(found.signed_by)} if found.signed_by else {}
