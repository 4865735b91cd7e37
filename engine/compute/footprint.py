"""Positions of a simulated survey: galaxies in clusters and between them, within a round field."""

from typing import NamedTuple

import numpy as np

_CLUSTERED = 0.6
"""Share of galaxies in clusters."""
_PER_CLUSTER = 60
_CLUSTER_RADIUS_DEG = 0.08
_DENSITY_PER_DEG2 = 200.0


class Footprint(NamedTuple):
    """A round part of the sky, and the clusters in it."""

    depth: float
    """Of the cap of the unit sphere, in (0, 2]."""
    clusters: np.ndarray
    """(c, 3) float64 directions."""
    rotation: np.ndarray
    """(3, 3) that takes the cap from the pole to its place."""


def footprint(n: int, centre_deg: tuple[float, float], random: np.random.Generator) -> Footprint:
    """Choose where n galaxies lie: about 200 per square degree around a point (RA, Dec), up to the whole sky."""
    depth = min(2.0, n / _DENSITY_PER_DEG2 / (2 * np.pi) * np.radians(1) ** 2)
    n_clusters = max(1, round(_CLUSTERED * n / _PER_CLUSTER))
    return Footprint(depth, _within_cap(n_clusters, depth, random), _rotation(*np.radians(centre_deg)))


def draw_positions(n: int, sky: Footprint, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw positions of some of a footprint's galaxies, in clusters (a Neyman-Scott process) and between them.

    Returns
    -------
    ra_deg, dec_deg : (n,) float64 arrays
        RA in [0, 360), Dec in [-90, 90].
    """
    in_cluster = random.random(n) < _CLUSTERED
    directions = _within_cap(n, sky.depth, random)
    scatter = np.radians(_CLUSTER_RADIUS_DEG) * random.standard_normal((n, 3))
    directions[in_cluster] = (sky.clusters[random.integers(len(sky.clusters), size=n)] + scatter)[in_cluster]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    x, y, z = (directions @ sky.rotation.T).T
    return np.degrees(np.arctan2(y, x)) % 360, np.degrees(np.arcsin(np.clip(z, -1, 1)))


def _within_cap(n: int, depth: float, random: np.random.Generator) -> np.ndarray:
    """Draw directions evenly over the cap of the sphere around +z that is `depth` deep, in units of its radius."""
    z, angle = 1 - depth * random.random(n), random.uniform(0, 2 * np.pi, n)
    width = np.sqrt(np.maximum(1 - z**2, 0))
    return np.stack([width * np.cos(angle), width * np.sin(angle), z], axis=1)


def _rotation(ra_rad: float, dec_rad: float) -> np.ndarray:
    """Matrix that takes +z to a position."""
    sin_ra, cos_ra, sin_dec, cos_dec = np.sin(ra_rad), np.cos(ra_rad), np.sin(dec_rad), np.cos(dec_rad)
    return np.array(
        [
            [cos_ra * sin_dec, -sin_ra, cos_ra * cos_dec],
            [sin_ra * sin_dec, cos_ra, sin_ra * cos_dec],
            [-cos_dec, 0, sin_dec],
        ]
    )
