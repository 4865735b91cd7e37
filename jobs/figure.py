"""Pictures of results: one plot to a PNG."""

import io
from collections.abc import Callable
from typing import Any

BLUE, RED = "#4c78a8", "#e45756"


def plotted(draw: Callable[[Any], None], width: float, height: float) -> bytes:
    """Let `draw` fill the axes of a figure of this size in inches; return it as a PNG."""
    from matplotlib.figure import Figure  # Takes half a second to load.

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.subplots()
    draw(axes)
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
