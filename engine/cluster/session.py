"""A Ray session: a local cluster, or a connection to a running one."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from schemas.config import RayConfig
from schemas.errors import StoreError, VoorwerpError

SMALLEST_LOCAL_CPUS = 4
"""Logical CPUs of a local cluster on a small machine; with fewer, actors leave none for other tasks."""
NO_PROGRESS_TIMEOUT_S = 600


@dataclass(frozen=True)
class Resources:
    """What the session can use."""

    cores: int
    """CPU cores that do work: the machine's own on a local cluster, the cluster's logical CPUs otherwise."""
    gpus: int


@contextmanager
def session(config: RayConfig) -> Iterator[Resources]:
    """Use a Ray cluster for the length of a block; reuse the one this process is already connected to.

    Raises
    ------
    StoreError
        The cluster at the given address cannot be reached.
    """
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    started = not ray.is_initialized()
    address = config.address or os.environ.get("RAY_ADDRESS")
    if started:
        _connect(address, config.num_cpus)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
        resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
        cores = int(resources.get("CPU", 1)) if address else min(os.cpu_count() or 1, int(resources.get("CPU", 1)))
        yield Resources(cores=cores, gpus=int(resources.get("GPU", 0)))
    finally:
        if started:
            ray.shutdown()


@contextmanager
def causes() -> Iterator[None]:
    """Raise the voorwerp error that made a Ray task fail, instead of Ray's account of the failure."""
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            inner = getattr(cause, "cause", None)
            if isinstance(cause, VoorwerpError) and not isinstance(cause, ray.exceptions.RayError):
                raise cause from None
            cause = inner if isinstance(inner, BaseException) else cause.__cause__
        raise


def _connect(address: str | None, num_cpus: int | None) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address and address != "local":
            ray.init(address=address, **quiet)
        else:
            cpus = num_cpus or max(SMALLEST_LOCAL_CPUS, os.cpu_count() or 1)
            ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise StoreError(f"ray.address: cannot use the Ray cluster at {address or 'this machine'}: {error}") from error
