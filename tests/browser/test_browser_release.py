"""The release in the page: what is served, what was left out, and where it came from."""

import re
from collections.abc import Callable
from pathlib import Path

from astropy.io import fits
from playwright.sync_api import Page, expect

from engine.storage.artefacts import current_manifest
from engine.storage.store import Store
from tests.browser.conftest import HOSTILE_TEXT, N, Service, Sky

NewPage = Callable[..., Page]


def test_the_release_says_what_it_is_and_where_it_came_from(new_page: NewPage, service: Service, sky: Sky) -> None:
    page = new_page(service.reader)
    page.goto(f"{service.url}/#/release")
    index = current_manifest(Store(str(sky.output)), "index")
    expect(page.locator("main")).to_contain_text(f"Objects{N}")
    expect(page.get_by_role("row", name="index")).to_contain_text(index.id)
    expect(page.get_by_role("row", name=re.compile("^plan "))).to_contain_text(f"{N} planned")
    expect(page.locator("main")).to_contain_text("Nothing was left out.")
    with page.expect_download() as download:
        page.get_by_role("button", name="Footprint").click()
    with fits.open(Path(download.value.path())) as opened:
        assert opened[1].header["MOCDIM"] == "SPACE"


def test_what_was_left_out_is_shown_by_its_reason(new_page: NewPage, service: Service, sky: Sky) -> None:
    page = new_page(service.reader)
    reasons = [
        {"reason": "decode", "meaning": "the bytes are no image", "n": 1200, "examples": [sky.ids[3], HOSTILE_TEXT]},
        {"reason": "shape", "meaning": "too small", "n": 34, "examples": []},
    ]
    page.route("**/v1/release/rejects", lambda route: route.fulfill(json={"n_rejected": 1234, "by_reason": reasons}))
    page.goto(f"{service.url}/#/release")
    expect(page.locator("main")).to_contain_text("1,234 planned objects were left out")
    expect(page.get_by_role("heading", name="decode")).to_contain_text("1,200")
    expect(page.locator("article.reason").first).to_contain_text(HOSTILE_TEXT)
    expect(page.locator(".examples img")).to_be_visible()


def test_parts_that_a_service_does_not_have_are_left_out(new_page: NewPage, service: Service) -> None:
    page = new_page(service.reader)
    page.route(
        "**/v1/release/*", lambda route: route.fulfill(status=404, json={"detail": "none", "reason": "no-such-route"})
    )
    page.goto(f"{service.url}/#/release")
    expect(page.locator("main")).to_contain_text("Objects")
    expect(page.locator("main h2")).to_have_count(0)
