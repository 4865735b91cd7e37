"""Random views of a batch at once, on the device that trains: what `engine.compute.views.random_view` does to one."""

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional


class Turns(NamedTuple):
    """How the images of a batch are turned, flipped and cropped."""

    angle_rad: np.ndarray
    """(n,) anticlockwise."""
    flip_x: np.ndarray
    """(n,) bool."""
    flip_y: np.ndarray
    """(n,) bool."""
    row: np.ndarray
    """(n,) first row of the crop."""
    column: np.ndarray
    """(n,) first column of the crop."""


def random_turns(n: int, resize: int, crop: int, random: np.random.Generator) -> Turns:
    """Draw any angle, both flips and any place of the crop (Walmsley et al. 2022, Section 3)."""
    angle_rad = random.uniform(0, 2 * np.pi, n)
    flips = random.random((2, n)) < 0.5
    corner = random.integers(0, resize - crop + 1, (2, n))
    return Turns(angle_rad, *flips, *corner)


def turned(images: torch.Tensor, turns: Turns, crop: int) -> torch.Tensor:
    """Turn about the centre, flip, and crop: one bilinear look-up per pixel.

    Parameters
    ----------
    images : (n, bands, side, side) float tensor
    turns : Turns
    crop : int
        At most `side`.

    Returns
    -------
    (n, bands, crop, crop) float tensor
        What a turn uncovers is filled by reflection.
    """
    n, _, side, _ = images.shape
    cos, sin = np.cos(turns.angle_rad), np.sin(turns.angle_rad)
    sign_x, sign_y = np.where(turns.flip_x, -1.0, 1.0), np.where(turns.flip_y, -1.0, 1.0)
    # From the middle of the crop to that of the image, in halves of the image's side.
    middle_x = (turns.column + crop / 2 - side / 2) * 2 / side
    middle_y = (turns.row + crop / 2 - side / 2) * 2 / side
    shrink = crop / side
    theta = np.stack(
        [
            [cos * sign_x * shrink, -sin * sign_y * shrink, cos * sign_x * middle_x - sin * sign_y * middle_y],
            [sin * sign_x * shrink, cos * sign_y * shrink, sin * sign_x * middle_x + cos * sign_y * middle_y],
        ]
    )
    grid = functional.affine_grid(
        torch.as_tensor(theta).permute(2, 0, 1).to(images.device, images.dtype), [n, 1, crop, crop], align_corners=False
    )
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)


def centred(images: torch.Tensor, crop: int) -> torch.Tensor:
    """Crop the middle, as `engine.compute.views.centre_view` does."""
    start = (images.shape[-1] - crop) // 2
    return images[..., start : start + crop, start : start + crop]
