"""The demo: which galaxies it finds in the Hubble image, and the page and the picture that it ends with."""

import base64
import importlib
import io
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from skimage.data import hubble_deep_field

from engine.storage.artefacts import current_release
from engine.storage.store import Store
from jobs import demo
from schemas.errors import ConfigError

BRIGHT_STARS = [(754, 577), (254, 166)]
"""(x, y) of the two stars with diffraction spikes, read off the image."""
SPIRAL = (123, 401)
"""(x, y) of the face-on spiral at the left, read off the image."""


class Page(HTMLParser):
    """Collects the images of each section of a page and all of its text; every tag must be closed in turn."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[dict[str, str | None]]] = []
        self.open_tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img", "br"):
            self.open_tags.append(tag)
        if tag == "section":
            self.rows.append([])
        if tag == "img":
            self.rows[-1].append(dict(attrs))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def covers(galaxies: pd.DataFrame, x: int, y: int) -> np.ndarray:
    centre = galaxies["side_pixels"] / 2
    offset = np.hypot(galaxies["left_pixel"] + centre - x, galaxies["top_pixel"] + centre - y)
    return (offset < 5).to_numpy()


def test_galaxies_are_found_in_the_real_image_and_their_cutouts_lie_inside_it():
    image = hubble_deep_field()
    galaxies = demo.detect(image)
    squares = demo.cutouts(image, galaxies)
    assert 150 <= len(galaxies) <= 500
    assert galaxies["object_id"].is_unique
    assert galaxies["flux"].is_monotonic_decreasing
    assert [square.shape for square in squares] == [(side, side, 3) for side in galaxies["side_pixels"]]
    middles = [square[len(square) // 2, len(square) // 2].mean() for square in squares]
    assert np.median(middles) > 3 * np.median(image)
    pd.testing.assert_frame_equal(galaxies, demo.detect(image.copy()))


def test_a_spiral_is_kept_and_stars_with_spikes_are_not():
    galaxies = demo.detect(hubble_deep_field())
    assert covers(galaxies, *SPIRAL).sum() == 1
    for star in BRIGHT_STARS:
        assert not covers(galaxies, *star).any()


def test_east_is_left_north_is_up_and_positions_stay_within_the_field():
    galaxies = demo.detect(hubble_deep_field())
    assert np.corrcoef(galaxies["left_pixel"], galaxies["ra_deg"])[0, 1] < -0.99
    assert np.corrcoef(galaxies["top_pixel"], galaxies["dec_deg"])[0, 1] < -0.99
    assert (galaxies["dec_deg"] - demo.CENTRE_DEG[1]).abs().max() * 3600 < 1000 / 2 * demo.PIXEL_ARCSEC


def test_spikes_are_fourfold_and_a_tilted_disc_is_the_opposite():
    y, x = np.mgrid[-20:21, -20:21]
    glow = np.exp(-np.hypot(x, y) / 5)
    star = glow + (np.abs(x) < 1) + (np.abs(y) < 1)
    disc = np.exp(-np.hypot(x / 10, y / 3))
    assert demo.fourfold(star, 8.0) == pytest.approx(1.0)
    assert demo.fourfold(disc, 8.0) < -0.5


def test_missing_packages_are_named_with_the_way_to_install_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "jobs.demo")
    monkeypatch.setitem(sys.modules, "sep", None)
    with pytest.raises(ConfigError, match=r"sep.*pip install 'voorwerp\[demo\]'"):
        importlib.import_module("jobs.demo")


@pytest.mark.cluster
def test_the_demo_ends_with_a_page_and_a_picture_and_runs_again(
    tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
):
    page_path = demo.run(tmp_path / "demo", n_queries=3)
    html = page_path.read_text()
    page = Page(html)
    assert page.open_tags == []
    assert [len(row) for row in page.rows] == [1 + 7] * 3
    sources = re.findall(r"data:image/[a-z]+;base64,([^\"]+)", html)
    assert len(sources) == 3 * 8 + 1
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source))).load()
    assert all(image["alt"] for row in page.rows for image in row)
    assert not re.search(r"https?://|<script", html)
    distances = [float(number) for number in re.findall(r"<b>([\d.]+)</b>", html)]
    assert all(np.diff(row).min() >= 0 for row in np.reshape(distances, (3, 7)))
    assert "ImageNet" in page.text
    assert "approximate" in page.text
    with Image.open(tmp_path / "demo" / "neighbours.png") as picture:
        picture.load()
        assert picture.width > 500

    printed = capsys.readouterr().out
    assert str(page_path) in printed
    assert "ImageNet" in printed

    made = current_release(Store(str(tmp_path / "demo" / "release")))
    assert demo.run(tmp_path / "demo", n_queries=3).read_text() == html
    assert current_release(Store(str(tmp_path / "demo" / "release"))) == made
