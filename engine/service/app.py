"""The application: every route behind the gate, every error a problem. It knows neither Ray nor files."""

import time
from collections.abc import Callable
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from engine.service import problems
from engine.service.audit import REQUEST_ID, Audit
from engine.service.protocols import Campaigns, Searcher
from engine.service.routers import campaigns as campaign_routes
from engine.service.routers import cutouts, neighbours, objects, releases, scs
from engine.service.security import Gate
from engine.storage.tokens import TokenStore
from schemas.service import Problem, ServeConfig

OPENAPI = "/v1/openapi.json"


def create_app(
    searcher: Searcher,
    campaigns: Campaigns,
    tokens: TokenStore,
    config: ServeConfig,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """Make the application.

    Parameters
    ----------
    searcher : Searcher
        The release.
    campaigns : Campaigns
        On it.
    tokens : TokenStore
    config : ServeConfig
        Its limits; where it listens and what it serves is not looked at.
    clock : callable
        Seconds that never go back.
    """
    app = FastAPI(
        title="voorwerp",
        version=version("voorwerp"),
        description="A release of galaxies: neighbours, objects, cutouts, and campaigns of ratings.",
        openapi_url=OPENAPI,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses={"default": {"model": Problem, "description": "A problem (RFC 9457)."}},
        # It would copy what is asked to whoever collects it; the audit log says what is kept.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    problems.install(app)
    app.include_router(releases.routes(searcher))
    app.include_router(neighbours.routes(searcher, config))
    app.include_router(cutouts.routes(searcher, config))
    app.include_router(objects.routes(searcher, config))
    app.include_router(scs.routes(searcher, config))
    app.include_router(campaign_routes.routes(campaigns))
    # The last is met first.
    app.add_middleware(Gate, tokens=tokens, config=config, clock=clock)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=["ETag", "Retry-After", REQUEST_ID],
        )
    app.add_middleware(Audit, clock=clock)
    return app
