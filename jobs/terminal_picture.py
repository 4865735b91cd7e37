"""Pictures on a terminal: two pixels in each character, one in its upper half and one behind it."""

import numpy as np
from PIL import Image
from rich.style import Style
from rich.text import Text

_UPPER_HALF = "▀"
_RAMP = " .:-=+*#%@"
"""From dark to bright, for terminals without colours."""
_RECOGNISABLE_COLUMNS = 40


def terminal_picture(pixels: np.ndarray, columns: int, colour: bool = True) -> Text:
    """Draw an image, (height, width, 3) uint8, at most so many characters wide, each taken to be twice as tall as wide.

    A narrower image has a character for each of its columns; only one that is too small to recognise is enlarged.
    """
    height, width = pixels.shape[:2]
    columns = min(columns, max(width, _RECOGNISABLE_COLUMNS))
    rows = max(1, round(height / width * columns / 2))
    filtering = Image.Resampling.BOX if columns <= width else Image.Resampling.BICUBIC
    small = np.asarray(Image.fromarray(pixels).resize((columns, 2 * rows), filtering))
    lines = []
    for upper, lower in zip(small[::2], small[1::2], strict=True):
        if colour:
            line = Text()
            for front, back in zip(upper, lower, strict=True):
                line.append(_UPPER_HALF, Style(color=_rgb(front), bgcolor=_rgb(back)))
        else:
            light = np.concatenate([upper, lower], axis=1).mean(axis=1)
            line = Text("".join(_RAMP[int(value * len(_RAMP) / 256)] for value in light))
        lines.append(line)
    return Text("\n").join(lines)


def _rgb(pixel: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*pixel)
