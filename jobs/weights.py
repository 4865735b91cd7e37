"""Weights that a job begins with: those named, fitted to the architecture, or none."""

import torch

from engine.storage.weights import LITE0, read_weights
from schemas.preset import Preset


def encoder_weights(
    architecture: str, source: str | None, preset: Preset
) -> tuple[dict[str, torch.Tensor] | None, str | None]:
    """Read weights to begin with, and the SHA-256 of their file; nothing for random ones.

    Raises
    ------
    InputNotFoundError, ConfigError, DataError
        The weights or the architecture are missing, unknown, damaged, or do not fit each other.
    """
    from engine.compute.encoder import check_architecture, encoder_tensors

    if source is None:
        check_architecture(architecture)
        return None, None
    weights = read_weights(source)
    tensors = encoder_tensors(architecture, preset.n_bands, weights.tensors, by_order=source == LITE0)
    return tensors, weights.sha256
