"""Embedding over Ray: units stream through actors that hold the encoder; the driver sees only commit records."""

from collections.abc import Iterator, Sequence
from typing import Any

import ray

from engine.cluster.session import Resources
from engine.cluster.stream import stream
from engine.cluster.unit import EmbedTask, embed_unit
from engine.storage.artefacts import decode, encode
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Commit
from schemas.partition import Unit

ACTOR_CPUS = 0.5
"""Logical CPUs of an actor; actors that reserve every CPU leave none for other tasks, and Ray Data waits forever."""


class EmbedUnit:
    """The actor: loads the encoder once, turns units into commit records."""

    def __init__(self, task: EmbedTask, torch_threads: int) -> None:
        import torch

        from engine.compute.encoder import build_encoder
        from engine.storage.weights import read_tensors

        torch.set_num_threads(torch_threads)
        weights = f"{paths.artefact('encoder', task.encoder_id)}/{paths.WEIGHTS}"
        tensors = read_tensors(Store(task.output), weights)
        self._encoder = build_encoder(task.architecture, task.preset.n_bands, tensors, task.device)
        self._task = task

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """Embed one unit; return its encoded commit record."""
        from engine.compute.encoder import encode as encode_views

        commit = embed_unit(Unit(**record), self._task, lambda views: encode_views(self._encoder, views))
        return {"commit": encode(commit)}


def most_workers(device: str, resources: Resources) -> int:
    """How many actors the cluster can hold at once; Ray Data would wait for more without end."""
    return resources.gpus if device == "cuda" else max(1, int(resources.logical_cpus / ACTOR_CPUS) - 1)


def embed(units: Sequence[Unit], task: EmbedTask, workers: int, resources: Resources) -> Iterator[Commit]:
    """Embed units on `workers` actors; yield a commit record as each unit is done, in any order.

    Raises
    ------
    StoreError
        A store failed for longer than its retries; what is committed stays, and the same call goes on from there.
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
        yield decode(Commit, record["commit"], "commit record")
