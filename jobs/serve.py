"""Job: serve. A release over HTTP, in this process or over Ray, until it is told to end."""

import gc
import logging
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial

import uvicorn
from fastapi import FastAPI

from engine.cluster.campaign import open_campaign_space
from engine.cluster.machine import cpus_of_machine
from engine.cluster.metrics import collecting, record_store_requests
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.serving import ReleaseSearcher
from engine.cluster.serving_campaigns import ServedCampaigns
from engine.cluster.serving_map import ServedMap, find_map
from engine.service.app import create_app
from engine.service.metrics import Registry
from engine.service.protocols import Campaigns, Searcher
from engine.storage.campaigns import open_campaigns
from engine.storage.store import Store
from engine.storage.tokens import open_tokens
from jobs.campaign import DATABASE, DATABASE_VARIABLE, place_of
from jobs.query_jobs import serving_jobs
from jobs.report import note, progress
from schemas.errors import ConfigError
from schemas.log import LogFormatter
from schemas.metrics import Recorder
from schemas.service import ServeConfig

GRACE_S = 30
"""For which requests that are being answered are waited for at the end."""
_MOST_CONNECTIONS = 1024
"""Open at once; those that only wait are cheap."""
KEEP_ALIVE_S = 75
"""For which a connection that asks nothing stays open: longer than proxies keep theirs, usually 60 s, so that it is not
closed in the moment that one sends a question.
"""


def run(config: ServeConfig) -> None:
    """Serve until a signal says to end; what is being answered then is finished first.

    The release is opened and checked, and the port taken, before anything is answered.

    Raises
    ------
    InputNotFoundError
        There is no finished release, or none of this id.
    IntegrityError
        A file of the release is missing or changed.
    ConfigError
        The address cannot be listened at.
    StoreError
        The database cannot be reached or written.
    """
    if config.groups:
        from jobs import serve_ray  # Ray takes seconds to load.

        serve_ray.run(config)
        return
    with listening(config) as taken, serving(config) as app:
        host, port = taken.getsockname()[:2]
        note("serving", f"http://{host}:{port}/v1/release; tokens: voorwerp token create --help")
        log_to_the_terminal()
        settings = uvicorn.Config(
            app,
            access_log=False,
            server_header=False,
            log_config=None,
            ws="none",
            limit_concurrency=_MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        uvicorn.Server(settings).run(sockets=[taken])


@contextmanager
def serving(config: ServeConfig) -> Iterator[FastAPI]:
    """Open a release and a database for the length of a block, and give the application; errors as of `run`."""
    threads = cpus_of_machine()
    release = open_release(Store(config.release), config.as_of)
    searcher = ReleaseSearcher(release, threads)
    with closing(open_campaigns(database_of(config))) as store:
        with progress("release", release.n_objects, "objects") as advance:
            searcher.open(advance)
        campaigns = ServedCampaigns(
            store, place_of(config.release), release, partial(open_campaign_space, threads=threads)
        )
        with application(config, release, searcher, campaigns) as app:
            yield app


@contextmanager
def application(
    config: ServeConfig,
    release: OpenRelease,
    searcher: Searcher,
    campaigns: Campaigns,
    record: Recorder | None = None,
) -> Iterator[FastAPI]:
    """Give the application over a release and campaigns, wherever they are, for the length of a block.

    Metrics go to `record`, or else are kept in this process and shown at `/metrics`.

    Raises
    ------
    StoreError
        The database cannot be reached or written.
    """
    url = database_of(config)
    registry = Registry(before=record_store_requests)
    with (
        collecting(record or registry.record),
        closing(open_tokens(url)) as tokens,
        serving_jobs(config, release, url) as jobs,
    ):
        if not tokens.all() and not config.anonymous_read:
            note("tokens", f"none yet in {tokens.where}: nobody can ask; voorwerp token create NAME")
        release_map = _map_of(release)
        # What is there by now stays: to look through all of it again and again would hold up whoever asks meanwhile.
        gc.collect()
        gc.freeze()
        try:
            yield create_app(searcher, campaigns, tokens, config, time.monotonic, jobs, release_map, registry, record)
        finally:
            gc.unfreeze()


def database_of(config: ServeConfig) -> str:
    """Path or URL of tokens and campaigns."""
    return config.database or os.environ.get(DATABASE_VARIABLE) or DATABASE


def _map_of(release: OpenRelease) -> ServedMap | None:
    if found := find_map(release):
        found.open()
        note("map", found.about().map)
    return found


@contextmanager
def listening(config: ServeConfig) -> Iterator[socket.socket]:
    """Take the port for the length of a block; nothing is answered yet.

    Raises
    ------
    ConfigError
        It is taken, or not to be had.
    """
    try:
        family = socket.getaddrinfo(config.host, config.port, type=socket.SOCK_STREAM)[0][0]
        taken = socket.create_server((config.host, config.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"host, port: expected an address that can be listened at, found {config.host}:{config.port}: "
            f"{error.strerror or error}"
        ) from error
    with taken:
        yield taken


def log_to_the_terminal() -> None:
    """One JSON line for each request to standard output, and what fails to standard error."""
    lines = logging.StreamHandler(sys.stdout)
    lines.setFormatter(logging.Formatter("%(message)s"))
    audit = logging.getLogger("voorwerp.audit")
    audit.setLevel(logging.INFO)
    audit.propagate = False
    audit.handlers = [lines]
    others = logging.StreamHandler()
    others.setFormatter(LogFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[others])
