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


_VIEWS_ON_A_CPU = 8
"""That it is given at once, in its cache still when it encodes them (on a core of its own: 32 take 4 to 8 % longer)."""
_OBJECTS_ON_A_CPU = 4
"""At least, where each has several views: OpenVINO's network sees four at once, which these then fill."""


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

    @property
    def objects_at_once(self) -> int:
        """Objects that a worker which does whole units loads, and encodes, together."""
        if self.device != "cpu":
            return max(1, self.batch_size // self.views)
        at_once = max(_OBJECTS_ON_A_CPU, _VIEWS_ON_A_CPU // self.views)
        return min(at_once, self.batch_size)


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
