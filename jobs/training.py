"""What trainings share: who trains on what, where, and how a person sees it."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from engine.cluster.canvases import look
from engine.cluster.session import Resources
from engine.cluster.task import LoadTask
from engine.cluster.training import Inputs, Trained, TrainTask, train
from engine.compute.epochs import LANES
from engine.compute.pairs import pairs_on_sky
from engine.compute.splits import groups_of, split
from jobs.report import note, progress
from schemas.config import Device
from schemas.errors import ConfigError, DataError
from schemas.model import PARTS, Part, SplitConfig
from schemas.tables import DEC, OBJECT_ID, RA


def choose_workers(device: Device, workers: int | None, resources: Resources) -> tuple[str, int]:
    """Choose the device, and how many workers share a batch.

    Raises
    ------
    ConfigError
        GPUs are wanted, and there are too few; or the workers do not divide the lanes of a batch.
    """
    if device == "cuda" and not resources.gpus:
        raise ConfigError("device: expected a GPU for 'cuda', found none in the Ray cluster; use 'cpu' or 'auto'")
    chosen = "cuda" if resources.gpus and device != "cpu" else "cpu"
    most = resources.gpus if chosen == "cuda" else resources.logical_cpus - 1
    if workers is None:
        fitting = [n for n in (1, 2, 4, 8) if n <= most]
        return chosen, max(fitting, default=1) if chosen == "cuda" else 1
    if LANES % workers or workers > max(most, 1):
        raise ConfigError(f"training.workers: expected 1, 2, 4 or 8, and at most {most} here, found {workers}")
    return chosen, workers


def parts_of(objects: pa.Table, config: SplitConfig, seed: int, fewest: Mapping[Part, int]) -> np.ndarray:
    """Put objects into parts, those that may be one object into the same: (n,) array of names.

    Raises
    ------
    DataError
        A part would have fewer objects than it needs.
    """
    ra_deg, dec_deg = objects[RA].to_numpy(), objects[DEC].to_numpy()
    pairs = np.stack(pairs_on_sky(ra_deg, dec_deg, ra_deg, dec_deg, config.same_arcsec), axis=1)
    shares: dict[str, float] = dict(
        zip(PARTS, (1 - config.validation - config.test, config.validation, config.test), strict=True)
    )
    if shares["train"] <= 0:
        raise DataError(f"split.validation and split.test: expected shares that leave some to train, found {shares}")
    parts = split(objects[OBJECT_ID].to_pylist(), groups_of(len(objects), pairs), shares, seed)
    for part, needed in fewest.items():
        if (found := int((parts == part).sum())) < needed:
            raise DataError(
                f"expected at least {needed} objects to {part} with, found {found} among {len(objects):,}; give more "
                "of them, or larger shares (split.validation, split.test)"
            )
    return parts


def look_at_all(objects: pa.Table, load: LoadTask, keep: bool, advice: str) -> np.ndarray | None:
    """Look at the cutouts of labelled objects, every one of which is needed; return their canvases if they are kept.

    Raises
    ------
    DataError
        A cutout cannot be read; the message ends with the advice.
    """
    with progress("look", len(objects), "cutouts") as advance:
        looked = look(objects, load, keep, advance)
    if looked.rejects:
        row, reject = min(looked.rejects.items())
        raise DataError(
            f"expected cutouts that can be read, found {len(looked.rejects):,} that cannot, the first of object "
            f"{objects[OBJECT_ID][row]}: {reject.reason}: {reject.detail}; {advice}"
        )
    return looked.canvases


def train_shown(task: TrainTask, inputs: Inputs, workers: int, cores: int) -> Trained:
    """Train with a progress bar of epochs."""
    done = 0
    with progress("train", task.settings.most_epochs, "epochs at most") as advance:

        def show(epochs: int, training: float, validation: float) -> None:
            nonlocal done
            if epochs > done:
                advance(epochs - done)
                done = epochs
                note("epoch", f"{epochs}: loss {training:.4f}, in validation {validation:.4f}")

        return train(task, inputs, workers, cores, show)
