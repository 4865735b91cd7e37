"""Routes about pictures."""

import hashlib
from typing import Annotated

import numpy as np
import simplejpeg
from fastapi import APIRouter, Path, Query, Request, Response

from engine.compute.rejects import Reject
from engine.service.problems import ProblemError
from engine.service.protocols import Searcher
from engine.service.security import READS
from schemas.service import CutoutParameters, ObjectId, ServeConfig

JPEG = "image/jpeg"
QUALITY = 90
KEPT_S = 3600
"""For which a picture may be shown again without asking: it is of what was planned, and only ceases to be."""


def routes(searcher: Searcher, config: ServeConfig) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["cutouts"], dependencies=[READS])
    keeping = f"{'public' if config.anonymous_read else 'private'}, max-age={KEPT_S}"

    @router.get(
        "/v1/objects/{object_id:path}/cutout.jpg",
        response_class=Response,
        responses={200: {"content": {JPEG: {}}}, 304: {"description": "The picture is as it was."}},
    )
    def cutout(
        request: Request, object_id: Annotated[ObjectId, Path()], asked: Annotated[CutoutParameters, Query()]
    ) -> Response:
        """Show an object's cutout; 404 with the reason where there is none."""
        found = searcher.picture(object_id, asked.side)
        if isinstance(found, Reject):
            raise ProblemError(404, found.reason.value, f"no picture: {found.reason.meaning}")
        picture = simplejpeg.encode_jpeg(np.ascontiguousarray(found), QUALITY, "RGB")
        tag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
        headers = {"ETag": tag, "Cache-Control": keeping}
        known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers=headers)
        return Response(picture, media_type=JPEG, headers=headers)

    return router
