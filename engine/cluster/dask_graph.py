"""Running Dask graphs on a Ray session or on a dask.distributed cluster, with progress."""

from collections.abc import Callable, Sequence
from typing import Any

import dask
import ray
from dask.callbacks import Callback
from dask.delayed import Delayed
from ray.util.dask import ray_dask_get
from ray.util.dask.callbacks import CBS, RayCallback

from engine.cluster.session import causes
from schemas.errors import StoreError

DASK_CONNECT_TIMEOUT_S = 30
THREADS = "threads"
"""In this process: for what is done before a cluster has started."""

Advance = Callable[[int], None]


def compute(graph: Sequence[Delayed], counted: str, scheduler: str, advance: Advance) -> list[Any]:
    """Compute delayed values.

    Parameters
    ----------
    graph : sequence of Delayed
    counted : str
        Name of the delayed function whose calls are the progress.
    scheduler : str
        "ray", "threads", or the address of a dask.distributed scheduler (which has a dashboard: `advance` then jumps to
        the end).
    advance : callable
        Told of every counted call that ends.

    Raises
    ------
    StoreError
        The scheduler cannot be reached.
    """
    if scheduler == "ray":
        with causes():
            return list(dask.compute(*graph, scheduler=ray_dask_get, ray_callbacks=[_progress(counted, advance)]))
    if scheduler == THREADS:

        def ended(key: Any, *_: Any) -> None:
            if str(key).startswith(counted):
                advance(1)

        with Callback(posttask=ended):
            return list(dask.compute(*graph, scheduler=THREADS))
    from distributed import Client

    try:
        client = Client(scheduler, timeout=DASK_CONNECT_TIMEOUT_S)
    except (OSError, TimeoutError, ValueError) as error:
        raise StoreError(f"reduce.scheduler: expected a Dask scheduler, found none at {scheduler}: {error}") from error
    with client:
        results = list(client.gather(client.compute(list(graph))))
    keys = {key for value in graph for key in value.__dask_graph__()}
    advance(sum(str(key).startswith(counted) for key in keys))
    return results


def _progress(counted: str, advance: Advance) -> RayCallback:
    pending: list[ray.ObjectRef[Any]] = []

    def submitted(task: Any, key: Any, deps: Any, ref: ray.ObjectRef[Any]) -> None:
        if str(key).startswith(counted):
            pending.append(ref)

    def all_submitted(refs: Any, graph: Any) -> None:
        nonlocal pending
        while pending:
            done, pending = ray.wait(pending, num_returns=1, fetch_local=False)
            advance(len(done))

    callbacks = dict.fromkeys(CBS) | {"ray_postsubmit": submitted, "ray_postsubmit_all": all_submitted}
    return RayCallback(**callbacks)
