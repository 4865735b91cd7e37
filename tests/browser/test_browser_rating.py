"""Rating in the page: what was pressed is what is recorded, whatever happens on the way."""

from collections.abc import Callable

import pyarrow.csv as pacsv
from playwright.sync_api import Page, Route, expect

from engine.cluster import campaign as campaigning
from engine.storage.campaigns import CampaignStore
from tests.browser.conftest import Service, Sky

NewPage = Callable[..., Page]
NewCampaign = Callable[[str], str]
BATCH = 5


def sit(page: Page, service: Service, name: str) -> None:
    page.goto(f"{service.url}/#/rate/{name}")
    expect(page.locator(".rating").first).to_be_enabled()


def galaxy(page: Page) -> str:
    return page.locator(".object-name").inner_text()


def press(page: Page, key: str) -> str:
    """Press a key and wait for another galaxy; return the one that was there."""
    before = galaxy(page)
    page.keyboard.press(key)
    expect(page.locator(".object-name")).not_to_have_text(before)
    return before


def saved(page: Page) -> None:
    expect(page.locator(".save-state")).to_have_text("Saved", timeout=20_000)


def recorded(store: CampaignStore, name: str, rater: str = "ann") -> dict[str, int]:
    table = campaigning.ratings_table(store, store.campaign(name), rater)
    return dict(zip(table["object_id"].to_pylist(), table["rating"].to_pylist(), strict=True))


def test_twelve_galaxies_are_rated_by_key_with_one_taken_back_and_one_skipped(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page, given = new_campaign("keys"), new_page(service.rater), {}
    sit(page, service, name)
    expect(page.locator(".place")).to_have_text(f"1 of {BATCH} · 0 rated")
    for number, key in enumerate("012345543210"):
        if number == 4:
            wrong = press(page, "0")
            press(page, "u")
            assert galaxy(page) == wrong
        if number == 7:
            skipped = press(page, "ArrowRight")
        given[press(page, key)] = int(key)
    saved(page)
    assert len(given) == 12
    assert recorded(store, name) == given
    assert skipped not in given
    assert len(store.events(name)) == 14
    expect(page.locator(".place")).to_contain_text("12 rated")
    page.reload()
    expect(page.locator(".place")).to_contain_text("12 rated")


def test_the_next_batch_is_there_before_it_is_needed(
    new_page: NewPage, service: Service, new_campaign: NewCampaign
) -> None:
    name, page, sizes = new_campaign("ahead"), new_page(service.rater), []

    def follow(route: Route) -> None:
        answer = route.fetch()
        sizes.append(len(answer.json()["asked"]))
        route.fulfill(response=answer)

    page.route("**/next", follow)
    sit(page, service, name)
    seen = [press(page, "3"), press(page, "3")]
    saved(page)
    page.wait_for_timeout(1000)
    assert len(sizes) == 2
    assert sizes[1] >= 3 + BATCH
    page.route("**/next", lambda route: None)  # Whatever is asked from here on is never answered.
    seen += [press(page, "2") for _ in range(6)]
    assert len(set(seen)) == 8


def test_what_is_rated_offline_is_kept_and_saved_once_on_return(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page, given = new_campaign("offline"), new_page(service.rater), {}
    sit(page, service, name)
    page.route("**/rate", lambda route: route.abort())
    page.route("**/undo", lambda route: route.abort())
    for key in "45":
        given[press(page, key)] = int(key)
    press(page, "0")
    press(page, "u")
    given[press(page, "1")] = 1
    expect(page.locator(".save-state")).to_have_text("Offline: 5 kept here, will try again")
    assert recorded(store, name) == {}
    page.reload()
    expect(page.locator(".save-state")).to_contain_text("5 kept here")
    page.unroute_all()
    page.evaluate("dispatchEvent(new Event('online'))")
    saved(page)
    assert recorded(store, name) == given
    assert len(store.events(name)) == 5


def test_whoever_comes_to_the_end_of_a_batch_offline_goes_on_on_return(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page = new_campaign("end"), new_page(service.rater)
    sit(page, service, name)
    page.route("**/campaigns/**", lambda route: route.abort())
    for _ in range(BATCH - 1):
        press(page, "3")
    page.keyboard.press("3")
    expect(page.locator("main .problem")).to_contain_text("The service cannot be reached")
    page.unroute_all()
    page.evaluate("dispatchEvent(new Event('online'))")
    saved(page)
    expect(page.locator(".rating").first).to_be_enabled()
    expect(page.locator("main .problem")).to_have_count(0)
    press(page, "4")
    saved(page)
    assert sorted(recorded(store, name).values()) == [3] * BATCH + [4]


def test_no_galaxy_is_rated_before_it_is_seen(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page, held = new_campaign("unseen"), new_page(service.rater), []
    page.route("**/cutout.jpg?side=512", lambda route: held.append(route))
    page.goto(f"{service.url}/#/rate/{name}")
    while not held:
        page.wait_for_timeout(50)
    page.keyboard.press("5")
    held[0].continue_()
    expect(page.locator(".rating").first).to_be_enabled()
    first = galaxy(page)
    for key in "432":  # All at once: the next picture is not there yet.
        page.keyboard.press(key)
    page.wait_for_timeout(200)
    assert galaxy(page) == first
    page.unroute_all(behavior="ignoreErrors")  # Lets through what is held.
    expect(page.locator(".object-name")).not_to_have_text(first)
    saved(page)
    assert recorded(store, name) == {first: 4}


def test_a_rating_whose_answer_was_lost_is_recorded_once(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page, keys = new_campaign("lost"), new_page(service.rater), []

    def lose_the_first(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        answer = route.fetch()
        if len(keys) == 1:
            route.abort()
        else:
            route.fulfill(response=answer)

    page.route("**/rate", lose_the_first)
    sit(page, service, name)
    given = {press(page, "4"): 4}
    saved(page)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert recorded(store, name) == given
    assert len(store.events(name)) == 1


def test_a_rating_that_is_refused_is_told_and_holds_up_nothing(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page = new_campaign("refused"), new_page(service.rater)
    sit(page, service, name)
    body = '{"detail": "not this one", "reason": "invalid"}'
    page.route("**/rate", lambda route: route.fulfill(status=422, body=body), times=1)
    press(page, "4")
    expect(page.locator("#announcement")).to_have_text("Not saved: not this one")
    given = {press(page, "5"): 5}
    saved(page)
    assert recorded(store, name) == given


def test_one_goes_back_and_rates_anew(
    new_page: NewPage, service: Service, store: CampaignStore, new_campaign: NewCampaign
) -> None:
    name, page = new_campaign("back"), new_page(service.rater)
    sit(page, service, name)
    first = press(page, "2")
    press(page, "ArrowLeft")
    assert galaxy(page) == first
    expect(page.get_by_role("button", name="Rate 2")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Rate 5").click()
    expect(page.locator(".object-name")).not_to_have_text(first)
    saved(page)
    assert recorded(store, name) == {first: 5}


def test_the_picture_is_stretched_inverted_and_magnified(
    new_page: NewPage, service: Service, new_campaign: NewCampaign
) -> None:
    page = new_page(service.rater)
    sit(page, service, new_campaign("plate"))
    expect(page.locator(".plate")).to_have_attribute("aria-label", f"Galaxy {galaxy(page)}")

    def brightness() -> tuple[int, int]:
        """Of the middle and of a corner."""
        script = """([x, y]) => {
            const canvas = document.querySelector(".plate");
            return canvas.getContext("2d").getImageData(x * canvas.width, y * canvas.height, 1, 1).data[0];
        }"""
        return page.evaluate(script, [0.5, 0.5]), page.evaluate(script, [0.05, 0.05])

    middle, corner = brightness()
    page.keyboard.press("i")
    assert brightness() == (255 - middle, 255 - corner)
    page.keyboard.press("i")
    page.keyboard.press("s")
    expect(page.get_by_role("button", name="Square root")).to_be_visible()
    assert brightness()[0] >= middle
    page.keyboard.press("z")
    expect(page.get_by_role("button", name="Zoom 2×")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    before = galaxy(page)
    page.keyboard.press("5")
    page.keyboard.press("Escape")
    assert galaxy(page) == before


def test_campaigns_are_listed_and_whoever_may_not_rate_is_told(
    new_page: NewPage, service: Service, new_campaign: NewCampaign
) -> None:
    name, page = new_campaign("listed"), new_page(service.reader)
    page.goto(f"{service.url}/#/rate")
    page.get_by_role("heading", name=name).click()
    expect(page.locator("main .problem")).to_contain_text("expected a token of a rater")
    page.get_by_role("button", name="Use another token").click()
    page.get_by_label("Token", exact=True).fill(service.rater)
    page.keyboard.press("Enter")
    expect(page.locator(".rating").first).to_be_enabled()


def test_a_campaign_is_made_rated_ranked_and_taken_away(
    new_page: NewPage, service: Service, store: CampaignStore, sky: Sky, shoot: Callable[[Page, str], None]
) -> None:
    page = new_page(service.rater)

    def create() -> None:
        page.get_by_text("New campaign").click()
        page.get_by_label("Name", exact=True).fill("made-here")
        page.get_by_label("Galaxies at once").fill("3")
        page.get_by_label("Components").select_option("search")
        page.get_by_label("Known examples").fill(f"{sky.ids[0]}\n{sky.ids[2]}\n")
        page.get_by_role("button", name="Create").click()

    page.goto(f"{service.url}/#/rate")
    create()
    expect(page.locator("main .problem")).to_contain_text("expected a token of scope admin")
    page = new_page(service.admin, height=1100, color_scheme="dark")
    page.goto(f"{service.url}/#/rate")
    create()
    expect(page.locator(".rating").first).to_be_enabled()
    assert store.campaign("made-here").config.examples == (sky.ids[0], sky.ids[2])
    given = {press(page, key): int(key) for key in "150"}
    saved(page)
    expect(page.locator(".strip li").first).to_be_visible()
    expect(page.locator(".strip li")).to_have_count(100)
    shoot(page, "rated-dark")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export ratings").click()
    table = pacsv.read_csv(download.value.path())
    assert dict(zip(table["object_id"].to_pylist(), table["rating"].to_pylist(), strict=True)) == given
