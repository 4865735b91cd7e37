"""Embedding over Ray: units stream through workers in one execution; the driver sees only small commit records.

On CPUs one actor does a whole unit, so that pixels never travel. For encoders on GPUs a unit takes three stages.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import ray

from engine.cluster.isolated import embed_one_by_one
from engine.cluster.loading import FATAL, Loader, Threads, warm_up
from engine.cluster.metrics import counted
from engine.cluster.session import Resources
from engine.cluster.stages import EncodeUnit, load_unit, write_unit
from engine.cluster.stream import Stage, stream
from engine.cluster.task import EmbedTask, is_draining, open_encoder
from engine.cluster.unit import embed_unit
from engine.storage.artefacts import decode, encode
from schemas.manifest import Commit
from schemas.partition import Unit

ACTOR_CPUS = 0.5
"""Logical CPUs of an actor; actors that reserve every CPU leave none for other tasks, and Ray Data waits forever."""
WRITER_CPUS = 0.25


class EmbedUnit:
    """The actor that does a whole unit: loads the encoder once, turns units into commit records."""

    def __init__(self, task: EmbedTask, threads: int) -> None:
        self._task = task
        self._threads = Threads(decoders=threads)
        self._runtime, self._encode = open_encoder(task, threads)
        warm_up(task)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Embed one unit; return its encoded commit record, or nothing when the run is draining."""
        if is_draining(self._task):
            return {"commit": b""}
        try:
            loader = Loader(self._task, self._threads)
            commit = embed_unit(Unit(**record), self._task, self._encode, loader, embed_one_by_one, self._runtime)
        except FATAL:
            os._exit(1)  # Ray starts another worker.
        return {"commit": encode(commit)}


def most_workers(device: str, resources: Resources) -> int:
    """How many actors the cluster can hold at once; Ray Data would wait for more without end."""
    return resources.gpus if device == "cuda" else max(1, int(resources.logical_cpus / ACTOR_CPUS) - 1)


def embed(
    units: Sequence[Unit], task: EmbedTask, workers: int, resources: Resources, in_stages: bool
) -> Iterator[Commit]:
    """Embed units on `workers` actors; yield a commit record as each unit is done, in any order.

    Ends early, without an error, when the run is told to drain.

    Parameters
    ----------
    in_stages : bool
        Read, encode and write in workers of their own, instead of in one.

    Raises
    ------
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
    WorkersLostError
        Attempt after attempt at a unit was lost.
    """
    threads = 1 if task.device == "cuda" else max(1, resources.cores // workers)
    actors: Stage = {
        "fn_constructor_args": (task, threads),
        "compute": ray.data.ActorPoolStrategy(size=workers),
        "num_cpus": ACTOR_CPUS,
        "num_gpus": 1 if task.device == "cuda" else 0,
    }
    stages: list[Stage]
    if in_stages:
        stages = [
            {"fn": load_unit, "fn_args": (task, embed_one_by_one), "num_cpus": 1},
            {"fn": EncodeUnit, **actors},
            {"fn": write_unit, "fn_args": (task,), "num_cpus": WRITER_CPUS},
        ]
    else:
        stages = [{"fn": EmbedUnit, **actors}]
    records = stream([unit._asdict() for unit in units], *stages)
    done = (decode(Commit, record["commit"], "commit record") for record in records if record["commit"])
    yield from counted("embed", len(units), done)
