"""Contact sheets: every picture is in its cell, in reading order, with its caption below and nothing in its way."""

import io

import numpy as np
import pytest
from PIL import Image

from engine.compute.rejects import Reject
from jobs.contact_sheet import contact_sheet
from schemas.reject import RejectReason

CELL = 60


def colour_of(number: int) -> tuple[int, int, int]:
    return 255, 10 * number, 0


def flat(number: int, height: int = CELL, width: int = CELL) -> np.ndarray:
    return np.full((height, width, 3), colour_of(number), np.uint8)


def opened(png: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(png))
    assert image.format == "PNG"
    return np.asarray(image.convert("RGB"))


def box_of(sheet: np.ndarray, number: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of what has the colour of a picture, which fills it."""
    rows, columns = np.nonzero((sheet == colour_of(number)).all(axis=2))
    height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == height * width
    return int(rows.min()), int(columns.min()), int(height), int(width)


def test_cells_contain_their_pictures_in_reading_order_and_whole() -> None:
    sheet = opened(contact_sheet([flat(n) for n in range(7)], [f"{n}\nid" for n in range(7)], columns=3, cell=CELL))
    boxes = [box_of(sheet, number) for number in range(7)]
    assert {box[2:] for box in boxes} == {(CELL, CELL)}
    assert len({box[0] for box in boxes}) == len({box[1] for box in boxes}) == 3
    assert [box[:2] for box in boxes] == sorted(box[:2] for box in boxes)


def test_a_picture_of_the_size_of_its_cell_keeps_every_pixel() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (CELL, CELL, 3), dtype=np.uint8)
    sheet = opened(contact_sheet([flat(0), picture, flat(2)], ["a", "b", "c"], cell=CELL))
    top, left = box_of(sheet, 0)[0], (box_of(sheet, 0)[1] + box_of(sheet, 2)[1]) // 2
    np.testing.assert_array_equal(sheet[top : top + CELL, left : left + CELL], picture)


def test_pictures_of_other_sizes_are_fitted_into_the_middle_of_their_cells() -> None:
    sheet = opened(contact_sheet([flat(0), flat(1, 10, 10), flat(2, 40, 80)], ["", "", ""], cell=CELL))
    (top, *_), small, oblong = (box_of(sheet, number) for number in range(3))
    assert (small[0], *small[2:]) == (top, CELL, CELL)
    assert (oblong[0], *oblong[2:]) == (top + CELL // 4, CELL // 2, CELL)


def test_a_picture_that_is_missing_is_a_grey_square_with_something_written_on_it() -> None:
    reject = Reject(RejectReason.NOT_FOUND, "deleted since it was planned")
    sheet = opened(contact_sheet([flat(0), reject, flat(2)], ["", "", ""], cell=CELL))
    top, left = box_of(sheet, 0)[0], (box_of(sheet, 0)[1] + box_of(sheet, 2)[1]) // 2
    square = sheet[top : top + CELL, left : left + CELL]
    grey = square[0, 0]
    assert np.ptp(grey) == 0
    assert 128 < grey[0] < 250
    written = (square != grey).any(axis=2)
    assert 0.01 < written.mean() < 0.5


def test_captions_are_below_their_pictures_and_never_on_a_picture_or_in_another_cell() -> None:
    long = f"123  {'8' * 20}\nexpected 4.56 ± 0.12, rated 5"
    sheet = opened(contact_sheet([flat(n) for n in range(4)], ["", long, "", ""], columns=2, cell=CELL))
    bare = opened(contact_sheet([flat(n) for n in range(4)], ["", "\n", "", ""], columns=2, cell=CELL))
    assert sheet.shape == bare.shape
    rows, columns = np.nonzero((sheet != bare).any(axis=2))
    top, left = box_of(sheet, 1)[:2]
    assert top + CELL <= rows.min()
    assert rows.max() < box_of(sheet, 3)[0]
    assert left <= columns.min()
    assert columns.max() < left + CELL


def test_a_title_is_above_all_pictures() -> None:
    sheet = opened(contact_sheet([flat(0)], [""], "a campaign", cell=200))
    dark = np.nonzero((sheet < 100).all(axis=2))[0]
    assert len(dark) > 0
    assert dark.max() < box_of(sheet, 0)[0]


def test_no_pictures_are_an_empty_sheet_and_captions_of_other_pictures_an_error() -> None:
    assert opened(contact_sheet([], [])).size > 0
    with pytest.raises(ValueError, match="shorter"):
        contact_sheet([flat(0), flat(1)], ["only one"])
