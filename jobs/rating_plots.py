"""Ratings as pictures: how well they were foreseen, and how what was learned moved."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jobs.figure import BLUE, RED, plotted
from schemas.campaign import HIGHEST, LOWEST, RankingRecord


def calibration_plot(given: np.ndarray, expected: np.ndarray, sd: np.ndarray) -> bytes:
    """Draw ratings, (n,), against what was expected of each without it, (n,), with standard deviations, as a PNG."""

    def draw(axes: Any) -> None:
        apart = np.random.default_rng(0).uniform(-0.12, 0.12, len(given))
        axes.errorbar(expected, given + apart, xerr=sd, fmt="o", markersize=3, color=BLUE, ecolor="#c8d3e3", lw=0.8)
        for value in np.unique(given):
            axes.plot(expected[given == value].mean(), value, "D", color=RED, markersize=6)
        axes.plot([LOWEST, HIGHEST], [LOWEST, HIGHEST], color="grey", lw=0.8, ls=":")
        inside = float((np.abs(given - expected) <= sd).mean()) if len(given) else float("nan")
        axes.set(
            title=f"Ratings foreseen from the others, {inside:.0%} within 1 sd",
            xlabel="expected rating (red: mean)",
            ylabel="given rating",
        )

    return plotted(draw, 5.5, 4.5)


def history_plot(rankings: Sequence[RankingRecord]) -> bytes:
    """Draw how the hyper-parameters moved with the number of ratings, as a PNG."""

    def draw(axes: Any) -> None:
        learned = [one for one in rankings if one.n_ratings]
        for name, label in (("length", "length scale"), ("alpha", "alpha"), ("noise", "noise variance")):
            if name == "alpha" and all(one.kernel != "rational-quadratic" for one in learned):
                continue
            axes.plot(
                [one.n_ratings for one in learned], [getattr(one, name) for one in learned], marker="o", label=label
            )
        axes.set(title="What was learned, by number of ratings", xlabel="ratings", ylabel="value", yscale="log")
        if learned:
            axes.legend(frameon=False)

    return plotted(draw, 5.5, 4.5)
