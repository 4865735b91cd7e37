"""The route that Prometheus reads: a token of scope metrics opens it, and nothing else."""

from fastapi import APIRouter, Depends, Request, Response

from engine.service.metrics import Registry
from engine.service.security import METRICS, caller_with


def routes(registry: Registry) -> APIRouter:
    """Make the route."""
    router = APIRouter(tags=["metrics"])

    @router.get(
        METRICS,
        dependencies=[Depends(caller_with("metrics"))],
        response_class=Response,
        responses={200: {"content": {"text/plain": {}, "application/openmetrics-text": {}}}},
    )
    def metrics(request: Request) -> Response:
        """Read the metrics of this process, in the text format of Prometheus or OpenMetrics; needs scope metrics."""
        content, media_type = registry.shown(request.headers.get("accept", ""))
        return Response(content, media_type=media_type)

    return router
