"""The scree plot: how much of the variance each principal component holds."""

from typing import Any

import numpy as np

from jobs.figure import BLUE, RED, plotted


def scree_plot(explained_variance_ratio: np.ndarray, space: str) -> bytes:
    """Draw the share of each component as bars and their sum as a line, as a PNG.

    Parameters
    ----------
    explained_variance_ratio : (k,) array
        In [0, 1].
    space : str
        For the title.
    """
    k = len(explained_variance_ratio)
    numbers, total = np.arange(1, k + 1), np.cumsum(explained_variance_ratio) * 100

    def draw(axes: Any) -> None:
        axes.bar(numbers, explained_variance_ratio * 100, color=BLUE, label="each component")
        axes.plot(numbers, total, color=RED, marker="o", markersize=3, label=f"together ({total[-1]:.1f} %)")
        axes.set(
            title=f"Space {space}: variance held by {k} principal components",
            xlabel="component",
            ylabel="variance (%)",
            ylim=(0, 105),
            xlim=(0.3, k + 0.7),
        )
        axes.legend(loc="upper left", frameon=False)

    return plotted(draw, 7, 4)
