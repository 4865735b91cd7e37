"""The application: every route behind the gate, every error a problem. It knows neither Ray nor files."""

import time
from collections.abc import Callable
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from engine.service import problems
from engine.service.audit import REQUEST_ID, Audit
from engine.service.job_protocol import Jobs
from engine.service.map_protocol import ReleaseMap
from engine.service.metrics import Registry
from engine.service.protocols import Campaigns, Searcher
from engine.service.routers import campaigns as campaign_routes
from engine.service.routers import cutouts, metrics, names, neighbours, objects, page, releases, scs
from engine.service.routers import jobs as job_routes
from engine.service.routers import map as map_routes
from engine.service.security import HEALTH, Gate
from engine.storage.name_resolver import NameResolver
from engine.storage.tokens import TokenStore
from schemas.metrics import Recorder
from schemas.service import Problem, ServeConfig

OPENAPI = "/v1/openapi.json"


def create_app(
    searcher: Searcher,
    campaigns: Campaigns,
    tokens: TokenStore,
    config: ServeConfig,
    clock: Callable[[], float] = time.monotonic,
    jobs: Jobs | None = None,
    release_map: ReleaseMap | None = None,
    registry: Registry | None = None,
    record: Recorder | None = None,
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
    jobs : Jobs, optional
        Of bulk queries; without, there are no routes about them.
    release_map : ReleaseMap, optional
        Of the release; without, its routes say that there is none.
    registry : Registry, optional
        Of metrics, which `/metrics` shows; a new one when not given.
    record : callable, optional
        Where metrics go instead; there is no `/metrics` then.
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
    app.include_router(page.routes())
    app.include_router(releases.routes(searcher))
    app.include_router(neighbours.routes(searcher, config))
    app.include_router(cutouts.routes(searcher, config))
    app.include_router(objects.routes(searcher, config))
    app.include_router(map_routes.routes(release_map, config))
    app.include_router(scs.routes(searcher, config))
    app.include_router(names.routes(NameResolver(config.name_resolver) if config.name_resolver else None))
    app.include_router(campaign_routes.routes(campaigns))
    if jobs:
        app.include_router(job_routes.routes(jobs, config))
    if record is None:
        registry = registry or Registry()
        record = registry.record
        app.include_router(metrics.routes(registry))
    # The last is met first.
    app.add_middleware(Gate, tokens=tokens, config=config, clock=clock, open_paths=page.PATHS | {HEALTH})
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.cors_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key"],
            expose_headers=["ETag", "Location", "Retry-After", REQUEST_ID],
        )
    app.add_middleware(Audit, clock=clock, record=record)
    return app
