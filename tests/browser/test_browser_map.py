"""The map on the page: points by WebGL and without, pictures that do not overlap, and what is chosen taken away."""

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from engine.compute.map_points import fair_order
from tests.browser.conftest import CHROMIUM, HOSTILE_ID, N, Service, Sky, running
from tests.generated import write_map

NewPage = Callable[..., Page]
Shoot = Callable[[Page, str], None]
WITH_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WITHOUT_GL = ("--disable-gpu", "--disable-3d-apis")
MARGIN = 0.06


class Map(NamedTuple):
    """Points in the order in which the service answers them."""

    service: Service
    ids: list[str]
    places: np.ndarray

    def on_stage(self, width: float, height: float) -> np.ndarray:
        """Where points are on a stage that shows all of them, from its top left."""
        low, high = self.places.min(axis=0), self.places.max(axis=0)
        scale = (1 - 2 * MARGIN) * min(np.array([width, height]) / (high - low))
        return (self.places - (low + high) / 2) * [scale, -scale] + [width / 2, height / 2]


@pytest.fixture(scope="module")
def mapped(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Map]:
    """A service over a release with a map: a spiral, the galaxies in order."""
    output = tmp_path_factory.mktemp("mapped") / "release"
    shutil.copytree(sky.output, output)
    turn = np.linspace(0, 6 * np.pi, N) ** 0.7
    places = np.column_stack([5 + turn * np.cos(turn), -3 + 0.7 * turn * np.sin(turn)]).astype(np.float32)
    order = fair_order(places)
    magnitude = np.where(np.arange(N) == 7, np.nan, turn)
    points = pa.table(
        {
            "object_id": sky.ids,
            "ra_deg": sky.ra_deg,
            "dec_deg": sky.dec_deg,
            "magnitude": magnitude,
            "map_x": places[:, 0],
            "map_y": places[:, 1],
        }
    ).take(pa.array(order))
    write_map(output, points)
    database = str(tmp_path_factory.mktemp("map-service") / "campaigns.sqlite")
    with running(sky._replace(output=output), database) as service:
        yield Map(service, points["object_id"].to_pylist(), places[order])


@pytest.fixture(scope="module", params=["webgl", "canvas"])
def browser(request: pytest.FixtureRequest, browser: Browser) -> Iterator[Browser]:
    """A browser with WebGL, and one without."""
    more = WITH_GL if request.param == "webgl" else WITHOUT_GL
    launched = browser.browser_type.launch(
        executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", *more]
    )
    yield launched
    launched.close()


@pytest.fixture
def painter(browser: Browser, request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["browser"])


@pytest.fixture
def look(new_page: NewPage, mapped: Map, painter: str) -> Callable[..., Page]:
    """Open the map; by WebGL also where that is computed, which the page itself would not do."""

    def look(more: str = "", wanted: str | None = painter, **settings: object) -> Page:
        page = new_page(mapped.service.reader, **settings)
        page.goto(f"{mapped.service.url}/#/map?{f'painter={wanted}&' if wanted == 'webgl' else ''}{more}")
        page.wait_for_selector(".map-stage[data-ready]")
        return page

    return look


INNER_BOX = """stage => {
    const box = stage.getBoundingClientRect();
    return [box.x + stage.clientLeft, box.y + stage.clientTop, stage.clientWidth, stage.clientHeight];
}"""


def size(page: Page) -> tuple[float, float, float, float]:
    """Left, top, width and height of the stage, without its border."""
    return tuple(page.locator(".map-stage").evaluate(INNER_BOX))


def pixels(page: Page) -> np.ndarray:
    """What the points look like."""
    page.wait_for_timeout(300)
    return np.asarray(Image.open(io.BytesIO(page.locator(".map-stage").screenshot())).convert("RGB")).astype(int)


def test_every_galaxy_is_a_point_where_the_map_has_it(
    look: Callable[..., Page], mapped: Map, painter: str, shoot: Shoot
) -> None:
    page = look(color_scheme="dark")
    assert page.locator(".map-stage").get_attribute("data-painter") == painter
    expect(page.locator(".map-state")).to_have_text(f"{N} galaxies")
    expect(page.locator("#views a[href='#/map']")).to_be_visible()
    page.get_by_label("Pictures").uncheck()
    expect(page.locator(".map-picture")).to_have_count(0)
    seen = pixels(page)
    _, _, width, height = size(page)
    background = seen[5, 5]
    for x, y in mapped.on_stage(width, height):
        around = seen[int(y) - 2 : int(y) + 5, int(x) - 2 : int(x) + 5]
        assert (np.abs(around - background).sum(axis=2) > 60).any(), (x, y)
    page.get_by_label("Pictures").check()
    page.wait_for_selector(".map-picture img")
    shoot(page, f"map-{painter}-dark")


def test_pictures_do_not_overlap_and_come_where_one_goes(look: Callable[..., Page], painter: str, shoot: Shoot) -> None:
    page = look()
    left, top, width, height = size(page)
    page.mouse.move(left + width / 2, top + height / 2)
    for zoom in range(3):
        page.wait_for_timeout(400)
        page.wait_for_selector(".map-picture img")
        boxes = np.array(
            page.eval_on_selector_all(
                ".map-picture", "all => all.map(e => Object.values(e.getBoundingClientRect().toJSON()))"
            )
        )
        assert len(boxes) > 3
        for number, (x, y, w, h, *_) in enumerate(boxes):
            others = np.delete(boxes, number, axis=0)
            apart = (
                (others[:, 0] >= x + w) | (others[:, 0] + w <= x) | (others[:, 1] >= y + h) | (others[:, 1] + h <= y)
            )
            assert apart.all(), zoom
        page.mouse.wheel(0, -240)
    shoot(page, f"map-{painter}-near")


def test_points_are_coloured_by_a_column_between_ends_that_can_be_changed(
    look: Callable[..., Page], painter: str, shoot: Shoot
) -> None:
    page = look()
    page.get_by_label("Pictures").uncheck()
    plain = pixels(page)
    page.locator("#map-colour").select_option("magnitude")
    expect(page.locator(".map-legend")).to_be_visible()
    expect(page.locator(".map-legend")).to_contain_text("grey: 1 without a value")
    assert page.url.endswith("colour=magnitude")
    coloured = pixels(page)
    assert n_hues(coloured) > n_hues(plain) + 3
    page.get_by_label("Highest colour").fill("3")
    page.get_by_label("Highest colour").press("Enter")
    assert (pixels(page) != coloured).any()
    shoot(page, f"map-{painter}-colour")
    again = look("colour=magnitude")
    expect(again.locator(".map-legend strong")).to_have_text("magnitude")


def n_hues(seen: np.ndarray) -> int:
    spread = np.ptp(seen, axis=2)
    return len(np.unique(seen[spread > 60] // 48, axis=0))


def test_galaxies_that_a_line_is_drawn_around_are_chosen_listed_and_taken_away(
    look: Callable[..., Page], mapped: Map, painter: str, shoot: Shoot, tmp_path: Path
) -> None:
    page = look()
    left, top, width, height = size(page)
    on_stage = mapped.on_stage(width, height)
    xs = np.sort(on_stage[:, 0])
    at = 40 + int(np.argmax(np.diff(xs[40:100])))
    middle = (xs[at] + xs[at + 1]) / 2
    expected = {mapped.ids[row] for row in np.flatnonzero(on_stage[:, 0] < middle)}
    page.get_by_role("button", name="Draw around").click()
    corners = [(3, 3), (middle, 3), (middle, height - 3), (3, height - 3)]
    page.mouse.move(left + 3, top + 3)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(left + x, top + y, steps=4)
    page.mouse.up()
    expect(page.locator(".map-chosen strong")).to_have_text(f"{len(expected)} chosen")
    page.wait_for_selector(".map-chosen tbody tr")
    shoot(page, f"map-{painter}-chosen")
    shown = page.locator(".map-chosen tbody tr td:first-child").all_text_contents()
    assert set(shown) <= expected
    assert len(shown) == min(60, len(expected))
    with page.expect_download() as download:
        page.get_by_role("button", name="CSV").click()
    download.value.save_as(tmp_path / "chosen.csv")
    with (tmp_path / "chosen.csv").open() as file:
        assert {row["object_id"] for row in csv.DictReader(file)} == expected
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".map-chosen")).to_be_hidden()


def test_what_is_in_sight_begins_a_campaign(look: Callable[..., Page], mapped: Map) -> None:
    page = look()
    page.get_by_role("button", name="Choose what is in sight").click()
    expect(page.locator(".map-chosen strong")).to_have_text(f"{N} chosen")
    page.get_by_role("button", name="Begin a campaign").click()
    page.wait_for_url("**/#/rate")
    examples = page.get_by_label("Known examples")
    expect(examples).to_be_visible()
    begun = examples.input_value().split("\n")
    assert len(begun) == min(N, 100)
    assert set(begun) <= set(mapped.ids)


def test_the_keyboard_moves_and_names_what_is_in_the_middle(look: Callable[..., Page], mapped: Map) -> None:
    page = look()
    page.get_by_label("Pictures").uncheck()
    stage = page.locator(".map-stage")
    stage.focus()
    before = pixels(page)
    page.keyboard.press("ArrowLeft")
    assert (pixels(page) != before).any()
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    middle = (mapped.places.min(axis=0) + mapped.places.max(axis=0)) / 2
    nearest = mapped.ids[int(np.argmin(np.hypot(*(mapped.places - middle).T)))]
    expect(page.locator(".map-card.pinned a")).to_have_text(nearest)
    page.keyboard.press("Escape")
    expect(page.locator(".map-card")).to_be_hidden()


def test_a_point_under_the_pointer_is_shown_and_leads_to_a_search(look: Callable[..., Page], mapped: Map) -> None:
    page = look()
    page.get_by_label("Pictures").uncheck()
    left, top, width, height = size(page)
    row = mapped.ids.index(HOSTILE_ID)
    x, y = mapped.on_stage(width, height)[row]
    for _ in range(6):
        page.mouse.move(left + x, top + y)
        page.mouse.wheel(0, -200)
        page.wait_for_timeout(100)
    page.mouse.move(left + x + 1, top + y + 1)
    expect(page.locator(".map-card a")).to_have_text(HOSTILE_ID)
    page.mouse.click(left + x, top + y)
    expect(page.locator(".map-card.pinned img")).to_be_visible()
    page.locator(".map-card a").click()
    page.wait_for_selector(".gallery li")
    assert page.url.split("#")[1].startswith("/search?q=")


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_map_is_for_everyone_in_both_themes(look: Callable[..., Page], scheme: str) -> None:
    page = look("colour=magnitude", color_scheme=scheme)
    page.wait_for_selector(".map-legend:not([hidden])")
    page.get_by_role("button", name="Choose what is in sight").click()
    page.wait_for_selector(".map-chosen tbody tr")
    page.wait_for_timeout(500)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_theme_changes_the_points(look: Callable[..., Page]) -> None:
    page = look(color_scheme="light")
    light = pixels(page)
    page.locator("#theme-button").click()
    dark = pixels(page)
    assert dark.mean() < light.mean() / 3


def test_the_map_fits_a_phone(look: Callable[..., Page], shoot: Shoot, painter: str) -> None:
    page = look(width=360, height=740, is_mobile=True, has_touch=True, color_scheme="dark")
    shoot(page, f"map-{painter}-phone")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_without_a_graphics_card_a_plain_canvas_paints(look: Callable[..., Page]) -> None:
    page = look(wanted=None)
    assert page.locator(".map-stage").get_attribute("data-painter") == "canvas"


def test_a_release_without_a_map_says_how_to_make_one(new_page: NewPage, service: Service) -> None:
    page = new_page(service.reader)
    page.goto(f"{service.url}/#/map")
    expect(page.locator("main")).to_contain_text("voorwerp map makes one")
    expect(page.locator("#views a[href='#/map']")).to_be_hidden()
