"""Contact sheets: many pictures on a grid, each with a caption, as one PNG."""

import io
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from engine.compute.rejects import Reject

CELL_PIXELS = 160
_GAP, _MARGIN, _FONT_PIXELS = 8, 16, 13
_PAPER, _INK, _MISSING, _MISSING_INK = "white", "#222222", "#e6e6e6", "#666666"
_SMALL_PIXELS = 12
_SMALLEST_PIXELS = 9
_PNG_LEVEL = 2
"""Of 9: the noise of galaxies hardly shrinks, and a higher level takes several times as long."""


def contact_sheet(
    pictures: Sequence[np.ndarray | Reject],
    captions: Sequence[str],
    title: str = "",
    columns: int = 8,
    cell: int = CELL_PIXELS,
) -> bytes:
    """Draw pictures on a grid, in reading order, as a PNG.

    Parameters
    ----------
    pictures : sequence of (height, width, 3) uint8 arrays
        Or why there is none, which is written instead, as far as it fits.
    captions : sequence of str
        Of one or more lines, below the pictures, in letters small enough for the longest; of one still too long the
        end is cut.
    title : str
    columns : int
        At most; fewer pictures take fewer.
    cell : int
        Side of a picture in pixels; each is fitted in, small ones enlarged.
    """
    font = _font_for(captions, cell)
    small = ImageFont.load_default(_SMALL_PIXELS)
    head = ImageFont.load_default(_FONT_PIXELS + 4)
    columns = max(1, min(columns, len(pictures)))
    rows = -(-len(pictures) // columns)
    line = _FONT_PIXELS + 4
    n_lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    height = cell + n_lines * line + _GAP
    top = _MARGIN + (2 * line if title else 0)
    size = (2 * _MARGIN + columns * (cell + _GAP) - _GAP, top + rows * height + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((_MARGIN, _MARGIN), _fitting(title, head, size[0] - 2 * _MARGIN), _INK, head)
    for number, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        x, y = _MARGIN + number % columns * (cell + _GAP), top + number // columns * height
        if isinstance(picture, Reject):
            pen.rectangle((x, y, x + cell - 1, y + cell - 1), _MISSING)
            _write_reason(pen, picture, (x + 8, y + 8), cell - 16, small)
        else:
            image = _fitted(picture, cell)
            sheet.paste(image, (x + (cell - image.width) // 2, y + (cell - image.height) // 2))
        for place, text in enumerate(caption.split("\n")):
            pen.text((x, y + cell + 2 + place * line), _fitting(text, font, cell), _INK, font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=_PNG_LEVEL)
    return buffer.getvalue()


def _font_for(captions: Sequence[str], width: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    lines = [line for caption in captions for line in caption.split("\n")]
    for pixels in range(_FONT_PIXELS, _SMALLEST_PIXELS, -1):
        font = ImageFont.load_default(pixels)
        if max(map(font.getlength, lines), default=0) <= width:
            return font
    return ImageFont.load_default(_SMALLEST_PIXELS)


def _write_reason(
    pen: ImageDraw.ImageDraw,
    reject: Reject,
    place: tuple[int, int],
    side: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    n_lines = side // (_SMALL_PIXELS + 5)
    lines = [reject.reason.value.replace("_", " ")]
    if n_lines > 1 and reject.detail:
        letters = max(1, int(0.9 * side * len(reject.detail) / font.getlength(reject.detail)))
        lines += textwrap.wrap(reject.detail, letters, max_lines=n_lines - 1, placeholder=" …")
    fitting = [_fitting(line, font, side) for line in lines]
    pen.multiline_text(place, "\n".join(fitting), _MISSING_INK, font, spacing=5)


def _fitted(picture: np.ndarray, cell: int) -> Image.Image:
    image = Image.fromarray(picture)
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut a line to a width in pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
