"""What every unit of an embedding run shares: where things are, and how pixels become vectors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig, Section
from schemas.preset import Preset

if TYPE_CHECKING:  # It brings torch, which workers that only load do without.
    from engine.compute.encoder import Encoder

Encode = Callable[[np.ndarray], np.ndarray]
"""(n, bands, crop, crop) float32 views to (n, dimension) float32 vectors."""


class LoadTask(Section):
    """How a cutout becomes views."""

    preset: Preset
    views: int
    cutouts: CutoutConfig
    encoder_id: str
    """Seeds random views, where there are several."""


class EmbedTask(LoadTask):
    """What workers are told of a run."""

    output: str
    objects: str
    """Folder of the catalogue whose row groups are the units, relative to the output."""
    run_id: str
    """Names the folder of work."""
    holder: str
    """Of the lease: the run that these workers work for."""
    architecture: str
    dimension: int
    batch_size: int
    precision: str
    runtime: str
    device: str


def open_encoder(task: EmbedTask, threads: int) -> "Encoder":
    """Load the run's encoder into this process."""
    from engine.compute.encoder import load_encoder
    from engine.storage.weights import read_tensors

    weights = f"{paths.artefact('encoder', task.encoder_id)}/{paths.WEIGHTS}"
    tensors = read_tensors(Store(task.output), weights)
    return load_encoder(
        task.architecture,
        task.preset.n_bands,
        tensors,
        task.preset.crop,
        task.device,
        task.precision,
        task.runtime,
        threads,
        task.batch_size,
    )


def is_draining(task: EmbedTask) -> bool:
    """Whether this run was told to begin no further unit."""
    return Store(task.output).exists(paths.drain(task.run_id, task.holder))
