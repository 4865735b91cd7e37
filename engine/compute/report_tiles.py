"""From sums of tiles to what stands out on the sky."""

from typing import NamedTuple

import numpy as np

from engine.compute.tile_drift import (
    FEWEST_OBJECTS,
    STANDS_OUT,
    Groups,
    Scores,
    TileSums,
    score_changes,
    score_means,
    score_rejects,
    score_spreads,
)
from schemas.report import Flag

FEWEST_REJECTS = 5
"""In a tile that stands out by them."""


class Rejects(NamedTuple):
    """Where the rejects lie."""

    n_in_tiles: np.ndarray
    """(t,) int64."""
    n_without_position: int
    n_outside_tiles: int
    """Where nothing was embedded."""


class Judged(NamedTuple):
    """All tiles with their scores, (t,) each; numbers are NaN where a tile was not judged."""

    n_objects: np.ndarray
    n_rejected: np.ndarray
    mean: Scores
    spread: Scores
    z_rejects: np.ndarray
    change: Scores | None
    """Since the previous release; None without one."""

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """Numbers by the names that `schemas.report.MEASURED` has."""
        nothing = np.full(len(self.n_objects), np.nan)
        change = self.change or Scores(nothing, nothing, np.nan)
        return {
            "distance": self.mean.size,
            "z_mean": self.mean.z,
            "spread": self.spread.size,
            "z_spread": self.spread.z,
            "z_rejects": self.z_rejects,
            "change": change.size,
            "z_change": change.z,
        }

    @property
    def flags(self) -> dict[Flag, np.ndarray]:
        """Which tiles stand out, (t,) bool, by what they stand out."""
        return {
            "mean": self.mean.z >= STANDS_OUT,
            "spread": np.abs(self.spread.z) >= STANDS_OUT,
            "rejects": (self.z_rejects >= STANDS_OUT) & (self.n_rejected >= FEWEST_REJECTS),
            "change": self.columns["z_change"] >= STANDS_OUT,
        }

    @property
    def worst_first(self) -> np.ndarray:
        """Tiles that stand out, the worst first."""
        scores = [self.mean.z, np.abs(self.spread.z), self.z_rejects, self.columns["z_change"]]
        worst = np.max(np.nan_to_num(scores, nan=-np.inf), axis=0)
        stands_out = np.any(list(self.flags.values()), axis=0)
        return np.flatnonzero(stands_out)[np.argsort(-worst[stands_out], kind="stable")]


def judge(sums: TileSums, n_rejected: np.ndarray, change: Scores | None) -> Judged:
    """Score tiles by everything that is known of them.

    Parameters
    ----------
    sums : TileSums
    n_rejected : (t,) int array
    change : Scores, optional
        Since a previous release.
    """
    return Judged(sums.n, n_rejected, score_means(sums), score_spreads(sums), score_rejects(sums.n, n_rejected), change)


def change_by_object(matched: Groups) -> Scores:
    """Score tiles by how far their objects moved together."""
    return score_changes(matched.n, matched.mean, matched.variance)


def change_by_tile(sums: TileSums, before: Groups) -> Scores:
    """Score tiles by how far their means moved, where the objects are others."""
    n_before, n = np.maximum(before.n, 1)[:, None], sums.n[:, None]
    n_both = np.where(before.n >= FEWEST_OBJECTS, np.minimum(sums.n, before.n), 0)
    variance = (sums.variance / n + before.variance / n_before) * np.maximum(n_both, 1)[:, None]
    return score_changes(n_both, sums.mean - before.mean, variance)


def tiles_of_positions(healpix: np.ndarray, orders: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Find the tile of each position, (n,) int64; -1 for those in none.

    Parameters
    ----------
    healpix : (n,) int64 array
        Pixels at order 29.
    orders, pixels : (t,) int64 arrays
        Of the tiles, in order of position.
    """
    shifts = 2 * (29 - orders)
    first, last = pixels << shifts, (pixels + 1) << shifts
    at = np.searchsorted(first, healpix, side="right") - 1
    inside = (at >= 0) & (healpix < last[np.maximum(at, 0)])
    return np.where(inside, at, -1)
