"""How the page looks and is used by whoever comes: dark and light, wide and narrow, by keyboard, by screen reader."""

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.browser.conftest import Service, Sky

NewPage = Callable[..., Page]
Shoot = Callable[[Page, str], None]
VIEWS = {
    "home": ("", ".gallery li"),
    "search": ("#/search?q={id}", ".gallery li"),
    "far": ("#/search?q=150.05+2.05", ".warning"),
    "nothing": ("#/search?q=nothing", ".problem"),
    "campaigns": ("#/rate", ".cards li"),
    "rate": ("#/rate/{campaign}", ".rating:enabled"),
    "release": ("#/release", ".facts"),
}


@pytest.fixture
def show(service: Service, sky: Sky, new_campaign: Callable[[str], str]) -> Callable[[Page, str, str], None]:
    def show(page: Page, view: str, campaign: str) -> None:
        place, there = VIEWS[view]
        if "campaign" in place or view == "campaigns":
            new_campaign(campaign)
        page.goto(f"{service.url}/{place.format(id=sky.ids[16], campaign=campaign)}")
        expect(page.locator(there).first).to_be_visible()

    return show


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_for_everyone_in_both_themes(
    new_page: NewPage, service: Service, show: Callable[..., None], shoot: Shoot, view: str, scheme: str
) -> None:
    page = new_page(service.rater, color_scheme=scheme)
    show(page, view, f"looks-{view}-{scheme}")
    shoot(page, f"{view}-{scheme}")
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fits_a_phone(
    new_page: NewPage, service: Service, show: Callable[..., None], shoot: Shoot, view: str
) -> None:
    page = new_page(service.rater, width=360, height=740, is_mobile=True, has_touch=True, color_scheme="dark")
    show(page, view, f"phone-{view}")
    shoot(page, f"{view}-phone")
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_dialog_for_the_token_is_for_everyone(new_page: NewPage, service: Service, shoot: Shoot) -> None:
    page = new_page(color_scheme="dark")
    page.goto(service.url)
    expect(page.locator("#token-dialog")).to_be_visible()
    shoot(page, "token-dark")
    found = Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_theme_that_was_chosen_stays(new_page: NewPage, open_service: Service) -> None:
    page = new_page(color_scheme="dark")
    page.goto(open_service.url)
    sky_colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(sky_colour) == "rgb(9, 11, 16)"
    page.get_by_role("button", name="Light").click()
    assert page.evaluate(sky_colour) == "rgb(246, 244, 239)"
    page.reload()
    expect(page.get_by_role("button", name="Dark")).to_be_visible()
    assert page.evaluate(sky_colour) == "rgb(246, 244, 239)"


def test_everything_is_reached_by_keyboard(new_page: NewPage, open_service: Service, sky: Sky) -> None:
    page = new_page()
    page.goto(open_service.url)
    expect(page.locator(".gallery li").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type(sky.ids[16])
    page.keyboard.press("Enter")
    expect(page.locator(".object h1")).to_have_text(sky.ids[16])
    while not page.evaluate("document.activeElement.matches('.neighbour')"):
        page.keyboard.press("Tab")
    names = page.locator(".gallery .name").all_text_contents()
    columns = page.evaluate(
        "getComputedStyle(document.querySelector('.gallery')).gridTemplateColumns.split(' ').length"
    )
    for key, place in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("ArrowUp", 0)):
        page.keyboard.press(key)
        expect(page.locator(".neighbour").nth(place)).to_be_focused()
    page.keyboard.press("End")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    expect(page.get_by_label(f"Select {names[0]}")).to_be_checked()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator(".object h1")).to_have_text(names[1])
    expect(page.locator(".object h1")).to_be_focused()


def test_whoever_wants_no_motion_gets_none(new_page: NewPage, open_service: Service) -> None:
    page = new_page(reduced_motion="reduce")
    page.goto(open_service.url)
    expect(page.locator(".gallery img").first).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0


def test_a_view_that_others_lack_is_not_offered(new_page: NewPage, open_service: Service) -> None:
    page = new_page()
    page.route("**/v1/map", lambda route: route.fulfill(status=404, body="{}"))
    page.goto(open_service.url)
    expect(page.locator(".gallery li").first).to_be_visible()
    expect(page.get_by_role("link", name="Map")).to_be_hidden()
    page.goto(f"{open_service.url}/#/nowhere")
    expect(page.locator("main .problem")).to_have_text("There is no such view.")
