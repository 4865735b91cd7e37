"""The connection of a process to Ray: a local cluster, or a running one."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from engine.cluster.machine import cpus_of_machine
from engine.cluster.metrics import collect
from engine.cluster.ray_metrics import to_ray
from schemas.config import RayConfig
from schemas.errors import StoreError, VoorwerpError

SMALLEST_LOCAL_CPUS = 4
"""Logical CPUs of a local cluster on a small machine; with fewer, actors leave none for other tasks."""
NO_PROGRESS_TIMEOUT_S = 600
CONNECT_TIMEOUT_S = 10
LOST = (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError, ray.exceptions.ObjectLostError)
"""What Ray raises where a process is lost, or what it held."""
_ADVICE = "\nFailed to apply UDF transform"
"""Begins what Ray Data appends to the message of an exception."""


_SLOW = "timed out during startup"
"""In what Ray says of a node that does not come up."""


@dataclass(frozen=True)
class Resources:
    """What the session can use."""

    cores: int
    """CPU cores that do work: the machine's own on a local cluster, the cluster's logical CPUs otherwise."""
    gpus: int
    logical_cpus: int
    """What Ray counts with: more than the cores on a small machine."""
    is_local: bool
    """Whether it is this machine."""


def connect(config: RayConfig) -> Resources:
    """Connect this process to Ray, once: to the given cluster, else to a local one that ends with the process.

    Later calls find the connection there, whatever their config.

    Raises
    ------
    StoreError
        The cluster at the given address cannot be reached.
    """
    address = cluster_address(config)
    if not ray.is_initialized():
        _start(address, config.num_cpus)
    configure_data()
    collect(to_ray)
    resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus = int(resources.get("CPU", 1))
    cores = cpus if address else min(cpus_of_machine(), cpus)
    return Resources(cores=cores, gpus=int(resources.get("GPU", 0)), logical_cpus=cpus, is_local=is_local(address))


def configure_data() -> None:
    """Set Ray Data up in this process: quiet, and errors as they were raised."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True  # Otherwise its cause is lost on the way from the worker.
    context.execution_no_progress_timeout_s = NO_PROGRESS_TIMEOUT_S
    # After ray.data is imported, which sets its own level. What it calls an error is raised as well.
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def cluster_address(config: RayConfig) -> str | None:
    """Address of the cluster that the config or the environment names; None for neither."""
    return config.address or os.environ.get("RAY_ADDRESS")


def is_local(address: str | None) -> bool:
    """Whether an address stands for a cluster that this process starts on this machine."""
    return address in (None, "", "local")


def local_cpus(num_cpus: int | None) -> int:
    """Logical CPUs of a local cluster."""
    return num_cpus or max(SMALLEST_LOCAL_CPUS, cpus_of_machine())


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
                raise type(cause)(str(cause).partition(_ADVICE)[0]) from None
            cause = inner if isinstance(inner, BaseException) else cause.__cause__
        raise


def _start(address: str | None, num_cpus: int | None) -> None:
    # Ray Data keeps actors' arguments in the object store, and Ray's C++ side complains of that at every start.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        with _silent_stderr():
            if address and address != "local":
                _check_reachable(address)
                ray.init(address=address, **quiet)
            else:
                _start_here(num_cpus=local_cpus(num_cpus), **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise StoreError(f"ray.address: cannot use the Ray cluster at {address or 'this machine'}: {error}") from error
    finally:
        # Ray installs a handler of its own that aborts the process; a driver that is told to stop should clean up.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)


def _start_here(**settings: Any) -> None:
    """Start a local cluster; once more where a busy machine was slower than the half minute that Ray waits for it."""
    for is_last in (False, True):
        try:
            ray.init(address="local", include_dashboard=False, **settings)
            return
        except Exception as error:  # Of no class of its own.
            if _SLOW not in str(error):
                raise
            ray.shutdown()
            if is_last:
                raise RuntimeError(str(error)) from error


def _check_reachable(address: str) -> None:
    """Try the port first: Ray itself waits for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what Ray's C++ side prints while it starts; what goes wrong comes as an exception."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
