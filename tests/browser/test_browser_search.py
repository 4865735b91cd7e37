"""Searching in the page: from what is typed or dropped to neighbours, and away with them."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse_single_table
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import HOSTILE_ID, HOSTILE_TEXT, NO_PICTURE, N, Service, Sky, running

NewPage = Callable[..., Page]
ROW = 20
"""At RA 150.5, Dec 2.1 degrees."""


def search(page: Page, text: str) -> None:
    page.get_by_label("Search for").fill(text)
    page.keyboard.press("Enter")


def tiles(page: Page) -> list[str]:
    expect(page.locator(".gallery li").first).to_be_visible()
    return page.locator(".gallery .name").all_text_contents()


def title(page: Page) -> str:
    expect(page.locator(".object h1")).to_be_visible()
    return page.locator(".object h1").inner_text()


WRITTEN: dict[str, tuple[float, float] | str | None] = {
    "188.7362 -1.0342": (188.7362, -1.0342),
    " 188.7362,−1.0342 ": (188.7362, -1.0342),
    "12:34:56.7 -01:02:03": (188.73625, -1.0341667),
    "12h34m56.7s -1d02m03s": (188.73625, -1.0341667),
    "12 34 56.7 -00 30 00": (188.73625, -0.5),
    "12h34m56.7s, +1°02′03″": (188.73625, 1.0341667),
    "https://www.legacysurvey.org/viewer?ra=188.5&dec=-1.25&layer=ls-dr9&zoom=14": (188.5, -1.25),
    "legacysurvey.org/viewer-dev/?dec=3&ra=2": (2, 3),
    "J123456.7-010203": None,
    "587729386071654577": None,
    "M 51": None,
    "https://example.org/viewer?ra=1&dec=2": None,
    "https://example.org/legacysurvey.org/?ra=1&dec=2": None,
    "360 0": "right ascension",
    "1.2.3 0": "right ascension",
    "10 91": "declination",
    "12:60:00 +01:00:00": "below 60",
    "https://www.legacysurvey.org/viewer?zoom=14": "no ra",
}
"""Positions as people write them, what is none, and what is none on the sky."""


def test_a_position_is_read_as_people_write_it(new_page: NewPage, open_service: Service) -> None:
    page = new_page()
    page.goto(open_service.url)
    read = page.evaluate(
        """texts => import("/page/positions.mjs").then(({ parsePosition }) => texts.map((text) => {
            try { return parsePosition(text) } catch (error) { return error.message }
        }))""",
        list(WRITTEN),
    )
    for (text, expected), found in zip(WRITTEN.items(), read, strict=True):
        if isinstance(expected, tuple):
            assert (found["raDeg"], found["decDeg"]) == pytest.approx(expected, abs=1e-6), text
        else:
            assert found is expected is None or expected in found, text


def test_a_position_is_shown_without_sixties_that_are_full(new_page: NewPage, open_service: Service) -> None:
    page = new_page()
    page.goto(open_service.url)
    shown = page.evaluate(
        """pairs => import("/page/positions.mjs").then(({ sexagesimal }) => pairs.map((one) => sexagesimal(...one)))""",
        [[359.99999999, -0.5], [188.73625, 1.0341666], [15, 59.99999999]],
    )
    assert shown == ["00:00:00.00 −00:30:00.0", "12:34:56.70 +01:02:03.0", "01:00:00.00 +60:00:00.0"]


@pytest.mark.parametrize(
    "text",
    [
        "{id}",
        "150.5001 2.1001",
        "10:02:00.0 +02:06:00",
        "10h02m00s 2d06m00s",
        "https://www.legacysurvey.org/viewer?ra=150.5&dec=2.1&zoom=15",
    ],
)
def test_an_object_is_found_by_id_position_and_link(
    new_page: NewPage, open_service: Service, sky: Sky, text: str
) -> None:
    page = new_page()
    page.goto(open_service.url)
    search(page, text.format(id=sky.ids[ROW]))
    assert title(page) == sky.ids[ROW]
    expect(page.locator(".badge")).to_have_text("exact")
    expect(page.locator(".object")).to_contain_text("10:02:00.00 +02:06:00.0")
    expect(page.locator(".warning")).to_have_count(0)
    expect(page.locator(".object img")).to_have_js_property("complete", True)
    assert "From the position asked" in page.locator(".object").inner_text() or text == "{id}"
    assert len(tiles(page)) == 40
    assert sky.ids[ROW] not in tiles(page)


def test_a_position_far_from_any_galaxy_is_answered_with_a_warning_and_one_beyond_with_an_error(
    new_page: NewPage, open_service: Service, sky: Sky
) -> None:
    page = new_page()
    page.goto(f"{open_service.url}/#/search?q=150.0+2.0058")
    expect(page.locator(".warning")).to_contain_text("20.9″ from this position")
    assert title(page) == sky.ids[0]
    search(page, "150.0 2.0055")
    expect(page.locator(".object")).to_contain_text("19.8″")
    expect(page.locator(".warning")).to_have_count(0)
    search(page, "10 -45")
    expect(page.locator("main .problem")).to_contain_text("no galaxy within a degree")


def test_what_is_not_found_is_said_and_so_is_that_names_are_not_known(new_page: NewPage, open_service: Service) -> None:
    page = new_page()
    page.route("**/v1/resolve*", lambda route: problem(route, 404, "no-resolver"))
    page.goto(f"{open_service.url}/#/search?q=M51")
    expect(page.locator("main .problem")).to_contain_text("has the id “M51”, and this service looks up no names")
    page.unroute_all()
    page.route("**/v1/resolve*", lambda route: problem(route, 404, "unknown-name"))
    page.goto(f"{open_service.url}/#/search?q=M52")
    expect(page.locator("main .problem")).to_contain_text("“M52”, and no position is known for this name")


def test_a_name_is_searched_at_its_position(new_page: NewPage, open_service: Service, sky: Sky) -> None:
    page = new_page()
    page.route("**/v1/resolve?name=Arp+1", lambda route: route.fulfill(json={"ra_deg": 150.5, "dec_deg": 2.1}))
    page.goto(f"{open_service.url}/#/search?q=Arp+1")
    assert title(page) == sky.ids[ROW]
    expect(page.locator(".object")).to_contain_text("nearest to Arp 1")


def test_one_goes_from_neighbour_to_neighbour_and_back_to_where_one_was(
    new_page: NewPage, open_service: Service, sky: Sky
) -> None:
    page = new_page()
    page.goto(f"{open_service.url}/#/search?q={sky.ids[ROW]}")
    there = tiles(page)[30]
    page.locator(".neighbour", has_text=there).scroll_into_view_if_needed()
    page.wait_for_timeout(400)
    place = page.evaluate("scrollY")
    assert place > 0
    page.locator(".neighbour", has_text=there).click()
    expect(page.locator(".object h1")).to_have_text(there)
    assert page.evaluate("scrollY") == 0
    page.go_back()
    expect(page.locator(".object h1")).to_have_text(sky.ids[ROW])
    expect(page.locator(".gallery li").first).to_be_attached()
    assert page.evaluate("scrollY") == pytest.approx(place, abs=2)
    page.go_forward()
    expect(page.locator(".object h1")).to_have_text(there)


def test_the_gallery_grows_until_there_is_no_more(new_page: NewPage, open_service: Service, sky: Sky) -> None:
    page = new_page()
    page.goto(f"{open_service.url}/#/search?q={sky.ids[ROW]}")
    assert len(tiles(page)) == 40
    for n in (100, N - 1):
        page.locator(".end").scroll_into_view_if_needed()
        expect(page.locator(".gallery li")).to_have_count(n)
    expect(page.locator(".end")).to_have_text(f"These are all {N - 1}.")
    assert len(set(tiles(page))) == N - 1
    expect(page.locator(".actions strong")).to_have_text(f"{N - 1} neighbours")


@pytest.mark.parametrize("label", ["VOTable", "CSV", "Parquet"])
def test_neighbours_are_downloaded_all_or_those_that_were_selected(
    new_page: NewPage, service: Service, sky: Sky, label: str
) -> None:
    page = new_page(service.reader)
    page.goto(f"{service.url}/#/search?q={sky.ids[ROW]}")
    names = tiles(page)

    def download() -> list[str]:
        with page.expect_download() as given:
            page.get_by_role("button", name=label, exact=True).click()
        path = given.value.path()
        assert given.value.suggested_filename.startswith(f"neighbours-of-{sky.ids[ROW]}.")
        if label == "VOTable":
            return [str(one) for one in parse_single_table(path).to_table()["object_id"]]
        table: pa.Table = pacsv.read_csv(path) if label == "CSV" else pq.read_table(path)
        return table["object_id"].to_pylist()

    assert download() == names
    for row in (4, 2):
        page.get_by_label(f"Select {names[row]}").check()
    expect(page.locator(".choice")).to_have_text("2 selected")
    assert download() == [names[2], names[4]]
    page.get_by_role("button", name="Clear").click()
    assert download() == names


def test_a_wrong_token_is_told_and_the_right_one_opens_the_page(new_page: NewPage, service: Service, sky: Sky) -> None:
    page = new_page()
    page.goto(f"{service.url}/#/search?q={sky.ids[ROW]}")
    dialog = page.locator("#token-dialog")
    expect(dialog).to_be_visible()
    expect(dialog.locator(".problem")).to_be_hidden()
    page.get_by_label("Token", exact=True).fill("reader.wrong")
    page.keyboard.press("Enter")
    expect(dialog.locator(".problem")).to_contain_text("expected a token that was created here and not revoked")
    page.get_by_label("Token", exact=True).fill(service.reader)
    page.keyboard.press("Enter")
    assert title(page) == sky.ids[ROW]
    expect(dialog).to_be_hidden()
    expect(page.locator(".gallery img").first).to_be_visible()
    expect(page.locator("#token-button")).to_have_text("Token: reader")
    assert service.reader not in page.content()
    page.reload()
    assert title(page) == sky.ids[ROW]
    page.locator("#token-button").click()
    page.get_by_role("button", name="Forget the token").click()
    expect(dialog.locator("h2")).to_be_visible()
    page.get_by_role("button", name="Not now").click()
    expect(page.locator("main .problem")).to_contain_text("expected a token")


def test_what_a_catalogue_says_is_shown_as_text(new_page: NewPage, open_service: Service) -> None:
    page = new_page()
    page.goto(open_service.url)
    search(page, HOSTILE_ID)
    assert title(page) == HOSTILE_ID
    expect(page.locator(".about")).to_contain_text(HOSTILE_TEXT)
    expect(page.locator(".about")).to_contain_text("<b>note</b>")
    expect(page.locator(".object > .picture img")).to_be_visible()
    nearest = tiles(page)[0]
    page.locator(".gallery a.neighbour").first.click()
    expect(page.locator(".object h1")).to_have_text(nearest)
    expect(page.locator(".gallery li").first).to_be_visible()
    assert page.evaluate("document.querySelectorAll('main script, main b, main [onerror]').length") == 0


def test_a_picture_that_is_not_there_says_why(new_page: NewPage, open_service: Service, sky: Sky) -> None:
    page = new_page()
    page.goto(f"{open_service.url}/#/search?q={sky.ids[NO_PICTURE]}")
    expect(page.locator(".object > .picture")).to_contain_text("no picture:")


def test_pictures_are_fetched_when_they_come_into_view_and_few_at_once(
    new_page: NewPage, service: Service, sky: Sky
) -> None:
    page, now, most, asked = new_page(service.reader, height=500), 0, 0, []

    def count(route: Route) -> None:
        nonlocal now, most
        now, most = now + 1, max(most, now + 1)
        assert route.request.headers["authorization"] == f"Bearer {service.reader}"
        assert service.reader not in route.request.url
        asked.append(route.request.url)
        answer = route.fetch()
        route.fulfill(response=answer)
        now -= 1

    page.route("**/cutout.jpg*", count)
    page.goto(f"{service.url}/#/search?q={sky.ids[ROW]}")
    expect(page.locator(".gallery img").first).to_be_visible()
    page.wait_for_timeout(1000)
    assert most <= 6
    assert len(asked) < 40


def test_an_image_is_searched_with_and_a_service_that_cannot_says_so(
    new_page: NewPage, open_service: Service, sky: Sky
) -> None:
    page = new_page()
    bodies = []

    def answer(route: Route) -> None:
        bodies.append((route.request.post_data_buffer, route.request.headers["content-type"]))
        whole = page.request.get(f"{open_service.url}/v1/neighbours", params={"id": sky.ids[2], "k": 40}).json()
        whole["answers"][0].update(query_id=None, match_arcsec=None)
        route.fulfill(json=whole)

    page.goto(open_service.url)
    page.route("**/v1/neighbours/image*", answer)
    image = (sky.output.parent / "2.jpg").read_bytes()
    file = {"name": "mine.jpg", "mimeType": "image/jpeg", "buffer": image}
    page.locator("#query-image").set_input_files(file)
    expect(page.get_by_role("heading", name="mine.jpg")).to_be_visible()
    assert bodies == [(image, "image/jpeg")]
    expect(page.locator(".object img")).to_be_visible()
    assert len(tiles(page)) == 40
    page.unroute_all()
    page.route("**/v1/neighbours/image*", lambda route: problem(route, 501, "no-encoder"))
    page.locator("#query-image").set_input_files(file)
    expect(page.locator("main .problem")).to_have_text("this service: no-encoder")


@pytest.mark.cluster
def test_the_image_of_a_galaxy_finds_that_galaxy_by_the_real_encoder(
    new_page: NewPage, sky: Sky, finished: Path, survey: Path, tmp_path: Path
) -> None:
    database = str(tmp_path / "campaigns.sqlite")
    with running(sky._replace(output=finished), database, anonymous_read=True) as real:
        page = new_page()
        page.goto(real.url)
        page.locator("#query-image").set_input_files(survey.parent / "cutouts" / "17.jpg")
        expect(page.get_by_role("heading", name="17.jpg")).to_be_visible()
        assert tiles(page)[0] == "1017"


def test_a_service_that_is_busy_is_asked_again(new_page: NewPage, open_service: Service, sky: Sky) -> None:
    page, tries = new_page(), 0

    def busy_once(route: Route) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            problem(route, 503, "busy")
        else:
            route.continue_()

    page.route("**/v1/neighbours?*", busy_once)
    page.goto(f"{open_service.url}/#/search?q={sky.ids[ROW]}")
    assert title(page) == sky.ids[ROW]
    assert tries == 2


class Hub(SimpleXMLRPCServer):
    """What a page needs of a SAMP hub with the Web Profile, which lets everyone in and remembers what it was told."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 21012), _FromPages, logRequests=False)
        self.told: list[tuple[str, dict]] = []
        self.registered: set[str] = set()
        self.register_function(lambda: "", "samp.webhub.ping")
        self.register_function(self._register, "samp.webhub.register")
        self.register_function(self._notify_all, "samp.webhub.notifyAll")
        self.register_function(self._unregister, "samp.webhub.unregister")

    def _register(self, who: dict) -> dict:
        self.registered.add("key")
        return {"samp.private-key": "key", "samp.self-id": who["samp.name"]}

    def _notify_all(self, key: str, message: dict) -> list[str]:
        assert key in self.registered
        self.told.append((message["samp.mtype"], message["samp.params"]))
        return ["c1"]

    def _unregister(self, key: str) -> str:
        self.registered.remove(key)
        return ""


class _FromPages(SimpleXMLRPCRequestHandler):
    rpc_paths = ("/",)

    def do_OPTIONS(self) -> None:  # noqa: N802
        self.send_response(200)
        self.end_headers()

    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        self.send_header("Access-Control-Allow-Headers", "Content-Type")
        super().end_headers()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as opened:
        thread = threading.Thread(target=opened.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield opened
        opened.shutdown()
        thread.join()


def test_a_table_is_sent_to_the_tools_at_a_hub(new_page: NewPage, open_service: Service, sky: Sky, hub: Hub) -> None:
    page = new_page()
    page.goto(f"{open_service.url}/#/search?q={sky.ids[ROW]}")
    names = tiles(page)
    page.get_by_label(f"Select {names[1]}").check()
    page.get_by_role("button", name="Send to TOPCAT").click()
    expect(page.locator("#announcement")).to_contain_text("Sent")
    ((kind, told),) = hub.told
    assert (kind, told["name"]) == ("table.load.votable", f"neighbours-of-{sky.ids[ROW]}")
    assert [str(one) for one in parse_single_table(told["url"]).to_table()["object_id"]] == [names[1]]
    assert not hub.registered


def test_sending_without_a_hub_or_with_a_token_says_what_is_missing(
    new_page: NewPage, open_service: Service, service: Service, sky: Sky
) -> None:
    for served, token, said in (
        (open_service, None, "No SAMP hub was found"),
        (service, service.reader, "this needs a service that everyone may read"),
    ):
        page = new_page(token)
        page.goto(f"{served.url}/#/search?q={sky.ids[ROW]}")
        page.get_by_role("button", name="Send to TOPCAT").click()
        expect(page.locator("#announcement")).to_contain_text(said)


def problem(route: Route, status: int, reason: str) -> None:
    content = {"title": "", "status": status, "detail": f"this service: {reason}", "reason": reason, "request": "1"}
    route.fulfill(status=status, content_type="application/problem+json", body=json.dumps(content))
