"""The report card in a browser: as a file, and in the page's view of the release."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from jobs import keygen, report_card
from schemas.report import ReportJob
from tests.browser.conftest import Service, Sky, running
from tests.generated import clustered, write_release

NewPage = Callable[..., Page]
Shoot = Callable[[Page, str], None]
N_REPORTED = 900


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A release with a patch that was calibrated differently, and its signed report."""
    folder = tmp_path_factory.mktemp("reported")
    random = np.random.default_rng(2)
    ra_deg, dec_deg = random.uniform(180, 190, N_REPORTED), random.uniform(-5, 5, N_REPORTED)
    vectors = clustered(N_REPORTED, 5, 4)
    vectors[(np.abs(ra_deg - 186) < 1.2) & (np.abs(dec_deg - 2) < 1.2)] += 2 * vectors.std(axis=0)
    ids = [f"J{number}" for number in range(N_REPORTED)]
    cutouts = [f"{one}.jpg" for one in ids]
    objects = {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg, "cutout": cutouts}
    write_release(folder / "out", objects, vectors, rows_per_partition=300)
    keygen.run(folder / "key")
    report_card.run(ReportJob(release=str(folder / "out"), tile_objects=40, key=folder / "key"))
    return Sky(folder / "out", ids, ra_deg, dec_deg)


@pytest.fixture(scope="module")
def reporting(reported: Sky, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(reported, str(tmp_path_factory.mktemp("reporting") / "campaigns.sqlite")) as found:
        yield found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_the_page_fits_is_accessible_and_shows_its_maps(
    new_page: NewPage, reported: Sky, shoot: Shoot, width: int, scheme: str
) -> None:
    (path,) = reported.output.glob("report/*/report.html")
    page = new_page(width=width, height=900, color_scheme=scheme)
    page.goto(f"file://{path}")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Release")
    expect(page.locator(".verdict")).to_contain_text("component space")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawn = page.evaluate("[...document.images].map((one) => one.naturalWidth)")
    assert len(drawn) >= 2
    assert min(drawn) > 100
    # Its style is allowed by its own policy.
    assert page.evaluate("getComputedStyle(document.querySelector('.figures')).display") == "grid"
    assert page.evaluate("document.querySelector('.verdict svg, svg.bar rect.full').getBoundingClientRect().width") > 0
    shoot(page, f"report-{width}-{scheme}")
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_release_shows_its_report_card_and_saves_it(
    new_page: NewPage, reporting: Service, reported: Sky, shoot: Shoot
) -> None:
    page = new_page(reporting.reader)
    page.goto(f"{reporting.url}/#/release")
    section = page.locator("section", has=page.get_by_role("heading", name="Report card"))
    expect(section).to_contain_text("component space")
    (signature,) = reported.output.glob("report/*/signatures/*.sig")
    expect(section).to_contain_text(f"Signed by{signature.stem}")
    expect(section.get_by_role("link", name="Open the report card")).to_have_count(0)
    expect(section.get_by_role("row")).not_to_have_count(1)
    shoot(page, "release-report")
    for name, suffix in (("HTML", "html"), ("JSON", "json")):
        with page.expect_download() as download:
            section.get_by_role("button", name=name).click()
        (stored,) = reported.output.glob(f"report/*/report.{suffix}")
        assert Path(download.value.path()).read_bytes() == stored.read_bytes()
    section.locator("td a").first.click()
    expect(page.locator(".gallery li").first).to_be_visible()


def test_where_no_token_is_needed_the_report_card_opens_in_a_tab(
    new_page: NewPage, reported: Sky, tmp_path: Path
) -> None:
    with running(reported, str(tmp_path / "campaigns.sqlite"), anonymous_read=True) as service:
        page = new_page()
        page.goto(f"{service.url}/#/release")
        with page.expect_popup() as popup:
            page.get_by_role("link", name="Open the report card").click()
        opened = popup.value
        expect(opened.get_by_role("heading", level=1)).to_contain_text("Release")
        assert opened.evaluate("getComputedStyle(document.querySelector('.figures')).display") == "grid"
        assert opened.evaluate("document.images[0].naturalWidth") > 100
