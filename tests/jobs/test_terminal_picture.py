"""Pictures on a terminal: exactly these characters in these colours."""

import numpy as np
import pytest
from rich.color import Color
from rich.style import Style
from rich.text import Text

from jobs.terminal_picture import terminal_picture

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


def styles_of(text: Text) -> list[tuple[str, Color | None, Color | None]]:
    """Character, colour and background of each place that is no end of a line."""
    found = []
    for place, letter in enumerate(text.plain):
        if letter != "\n":
            spans = [span.style for span in text.spans if span.start <= place < span.end]
            style = Style.combine([Style.null(), *(Style.parse(one) if isinstance(one, str) else one for one in spans)])
            found.append((letter, style.color, style.bgcolor))
    return found


def rgb(colour: Color | None) -> tuple[int, int, int] | None:
    return None if colour is None else tuple(colour.get_truecolor())


def test_two_by_two_pixels_are_two_half_blocks_in_their_colours() -> None:
    text = terminal_picture(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8), 2)
    assert text.plain == "▀▀"
    assert [(letter, rgb(front), rgb(back)) for letter, front, back in styles_of(text)] == [
        ("▀", RED, BLUE),
        ("▀", GREEN, WHITE),
    ]


def test_lines_go_down_the_image() -> None:
    pixels = np.array([[RED], [GREEN], [BLUE], [WHITE]], np.uint8)
    text = terminal_picture(pixels, 1)
    assert text.plain == "▀\n▀"
    assert [rgb(front) for _, front, _ in styles_of(text)] == [RED, BLUE]
    assert [rgb(back) for _, _, back in styles_of(text)] == [GREEN, WHITE]


@pytest.mark.parametrize(("height", "width", "lines"), [(320, 320, 20), (160, 320, 10), (320, 160, 40)])
def test_the_aspect_ratio_is_kept_as_characters_are_twice_as_tall_as_wide(height: int, width: int, lines: int) -> None:
    text = terminal_picture(np.zeros((height, width, 3), np.uint8), 40)
    assert [len(line) for line in text.plain.split("\n")] == [40] * lines


def test_a_pixel_of_the_terminal_is_the_mean_of_those_it_stands_for() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    found = styles_of(terminal_picture(pixels, 4))
    means = pixels.reshape(4, 10, 4, 10, 3).mean(axis=(1, 3))
    upper = np.array([rgb(front) for _, front, _ in found]).reshape(2, 4, 3)
    lower = np.array([rgb(back) for _, _, back in found]).reshape(2, 4, 3)
    np.testing.assert_allclose(upper, means[::2], atol=1)
    np.testing.assert_allclose(lower, means[1::2], atol=1)


def test_without_colours_brighter_pixels_are_denser_characters() -> None:
    levels = np.linspace(0, 255, 10).astype(np.uint8)
    pixels = np.broadcast_to(levels[np.newaxis, :, np.newaxis], (2, 10, 3))
    text = terminal_picture(np.ascontiguousarray(pixels), 10, False)
    assert text.plain == " .:-=+*#%@"
    assert not [style for style in styles_of(text) if style[1] or style[2]]


def test_the_image_is_not_written_into() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    before = pixels.copy()
    terminal_picture(pixels, 5)
    terminal_picture(pixels, 5, False)
    np.testing.assert_array_equal(pixels, before)
