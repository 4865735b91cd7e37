"""Job: serve, over Ray. `build` is also what `serve run jobs.serve_ray:build` and a RayService import."""

import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from fastapi import FastAPI

from engine.cluster import deployment
from engine.cluster.campaign import open_campaign_space
from engine.cluster.groups import Groups
from engine.cluster.machine import cpus_of_machine
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.ranking import share_campaign_space
from engine.cluster.ray_metrics import to_ray
from engine.cluster.serving import GroupedSearcher
from engine.cluster.serving_campaigns import ServedCampaigns
from engine.cluster.space import Space
from engine.service.protocols import Campaigns
from engine.storage.campaigns import open_campaigns
from engine.storage.store import Store
from jobs.campaign import place_of
from jobs.report import note
from jobs.serve import application, database_of, listening, log_to_the_terminal
from schemas.campaign import Campaign
from schemas.service import ServeConfig

NAME = "voorwerp"


def run(config: ServeConfig) -> None:
    """Serve until a signal says to end; errors as of `jobs.serve.run` and `engine.cluster.deployment.run`."""
    with listening(config) as taken:
        host, port = taken.getsockname()[:2]

    def until() -> None:
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        note("serving", f"http://{host}:{port}/v1/release; tokens: voorwerp token create --help")
        ended.wait()

    app = build(config.model_dump(mode="json"))
    deployment.run(app, NAME, host, port, config.ray, until)


def build(settings: dict[str, Any]) -> Any:
    """Make the application for Ray Serve of a `ServeConfig`, given as a mapping.

    Raises
    ------
    InputNotFoundError
        There is no finished release, or none of this id.
    """
    config = ServeConfig.model_validate(settings)
    release = open_release(Store(config.release), config.as_of)
    threads = max(1, cpus_of_machine() // config.replicas)
    return deployment.application(
        release,
        config.release,
        config.groups or 1,
        config.replicas,
        threads,
        partial(_make_app, config),
        partial(_make_campaigns, config, release.id, threads),
    )


def _make_app(config: ServeConfig, release: OpenRelease, groups: Groups, campaigns: Campaigns) -> FastAPI:
    log_to_the_terminal()
    # Open until its process ends.
    searcher = GroupedSearcher(release, groups)
    return ExitStack().enter_context(application(config, release, searcher, campaigns, to_ray))


def _make_campaigns(config: ServeConfig, release_id: str, threads: int) -> ServedCampaigns:
    release = open_release(Store(config.release), release_id)
    open_space: Callable[[Campaign], Space] = partial(open_campaign_space, threads=threads)
    if config.rankers > 1:
        open_space = partial(share_campaign_space, workers=config.rankers, threads=threads)
    return ServedCampaigns(open_campaigns(database_of(config)), place_of(config.release), release, open_space)
