"""Embedding over Ray: units stream through actors that hold the encoder; the driver sees only small records.

On CPUs an actor reads, decodes and encodes. An actor on a GPU leaves reading and decoding to Ray tasks on any node.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray

from engine.cluster.isolated import embed_one_by_one
from engine.cluster.session import Resources
from engine.cluster.stream import stream
from engine.cluster.unit import (
    EmbedTask,
    Loaded,
    Loader,
    StuckError,
    embed_unit,
    is_draining,
    open_encoder,
    threaded,
)
from engine.storage.artefacts import decode, encode
from schemas.manifest import Commit
from schemas.partition import Unit

ACTOR_CPUS = 0.5
"""Logical CPUs of an actor; actors that reserve every CPU leave none for other tasks, and Ray Data waits forever."""


class EmbedUnit:
    """The actor: loads the encoder once, turns units into commit records."""

    def __init__(self, task: EmbedTask, torch_threads: int) -> None:
        self._task = task
        self._encoder = open_encoder(task, torch_threads)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Embed one unit; return its encoded commit record, or nothing when the run is draining."""
        if is_draining(self._task):
            return {"commit": b""}
        loading = remote(self._task) if self._task.device == "cuda" else threaded(self._task)
        try:
            with loading as loader:
                commit = embed_unit(Unit(**record), self._task, self._encoder, loader, embed_one_by_one)
        except StuckError:
            os._exit(1)  # Its thread cannot be stopped otherwise. Ray starts another worker.
        return {"commit": encode(commit)}


@contextmanager
def remote(task: EmbedTask) -> Iterator[Loader]:
    """Give a loader that reads and decodes in Ray tasks, for an actor whose GPU needs more cores than its node has."""

    def start(objects: pa.Table) -> Callable[[], Loaded]:
        pending = _load_slice.remote(objects, task)
        return lambda: ray.get(pending)

    yield start


@ray.remote(num_cpus=1)
def _load_slice(objects: pa.Table, task: EmbedTask) -> Loaded:
    with threaded(task) as loader:
        return loader(objects)()


def most_workers(device: str, resources: Resources) -> int:
    """How many actors the cluster can hold at once; Ray Data would wait for more without end."""
    return resources.gpus if device == "cuda" else max(1, int(resources.logical_cpus / ACTOR_CPUS) - 1)


def embed(units: Sequence[Unit], task: EmbedTask, workers: int, resources: Resources) -> Iterator[Commit]:
    """Embed units on `workers` actors; yield a commit record as each unit is done, in any order.

    Ends early, without an error, when the run is told to drain.

    Raises
    ------
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
    WorkersLostError
        Attempt after attempt at a unit was lost.
    """
    on_gpu = task.device == "cuda"
    records = stream(
        [unit._asdict() for unit in units],
        EmbedUnit,
        fn_constructor_args=(task, 1 if on_gpu else max(1, resources.cores // workers)),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=ACTOR_CPUS,
        num_gpus=1 if on_gpu else 0,
    )
    for record in records:
        if record["commit"]:
            yield decode(Commit, record["commit"], "commit record")
