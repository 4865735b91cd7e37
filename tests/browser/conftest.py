"""A small release of drawn galaxies, services over it, and a browser."""

import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page, expect, sync_playwright

from engine.cluster.simulate import encoded
from engine.compute.galaxy_image import draw_fluxes
from engine.compute.morphology import KINDS, draw
from engine.storage.campaigns import CampaignStore, open_campaigns
from engine.storage.store import Store
from engine.storage.tokens import open_tokens
from jobs import campaign as campaign_job
from jobs import plan
from jobs.serve import listening, serving
from schemas.campaign import CampaignConfig
from schemas.config import CatalogueConfig, PlanConfig, RayConfig
from schemas.service import ServeConfig
from schemas.simulation import Kind
from tests.generated import write_release

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
PATIENCE_MS = 20_000
N_DRAWN, SIDE_DRAWN, SIDE = 30, 384, 192
TURNS = (None, *list(Image.Transpose)[:4])
N = len(TURNS) * N_DRAWN
SHARES: dict[Kind, float] = {
    "smooth": 0.22,
    "disc": 0.42,
    "ring": 0.1,
    "edge-on": 0.14,
    "irregular": 0.05,
    "merger": 0.07,
}
HOSTILE_ID = """<img src=x onerror=alert(1)>"'&?#%+/ü"""
HOSTILE_TEXT = "</dd><script>alert(2)</script>"
NO_PICTURE = 5
"""Row whose cutout is no image."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if CHROMIUM is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="needs Chromium"))


class Sky(NamedTuple):
    """A release to be looked at."""

    output: Path
    ids: list[str]
    ra_deg: np.ndarray
    dec_deg: np.ndarray


class Service(NamedTuple):
    """A service that is running, and tokens for it."""

    url: str
    database: str
    reader: str
    rater: str
    admin: str


@pytest.fixture(scope="session")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """150 galaxies on a grid of a tenth of a degree: 30 that are drawn, each turned in five ways; not to be changed."""
    folder = tmp_path_factory.mktemp("sky")
    random = np.random.default_rng(3)
    truth = draw(N_DRAWN, SHARES, 0.06, random)
    truth = replace(truth, magnitude=truth.magnitude - 1)  # Bright, as those are that one likes to look at.
    for row in range(N_DRAWN):
        image = Image.open(io.BytesIO(encoded(draw_fluxes(truth, row, SIDE_DRAWN), "jpeg", 1.0))).resize((SIDE, SIDE))
        image = image.point(lambda value: max(0, 1.2 * (value - 40)))  # A darker sky.
        for number, turn in enumerate(TURNS):
            turned = image if turn is None else image.transpose(turn)
            turned.save(folder / f"{row + number * N_DRAWN}.jpg", quality=92)
    (folder / f"{NO_PICTURE}.jpg").write_text("not an image")
    looks = np.stack(
        [2.0 * (truth.kind == number) for number in range(len(KINDS))]
        + [2 * truth.axis_ratio, 2 * truth.colour, truth.bulge_fraction, np.log(truth.radius_arcsec)],
        axis=1,
    )
    vectors = np.tile(looks - looks.mean(axis=0), (len(TURNS), 1))
    vectors = (vectors + random.normal(0, 0.05, vectors.shape)).astype(np.float32)
    number = np.arange(N)
    ra_deg, dec_deg = 150 + 0.1 * (number % 15), 2 + 0.1 * (number // 15)
    ids = [f"J{10000000 + 137 * one}" for one in number]
    ids[1] = HOSTILE_ID
    objects = {
        "object_id": ids,
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "cutout": [f"{one}.jpg" for one in number],
        "magnitude": np.tile(truth.magnitude, len(TURNS)),
        "radius_arcsec": np.tile(truth.radius_arcsec, len(TURNS)),
        "<b>note</b>": [HOSTILE_TEXT if one == 1 else None for one in number],
    }
    names = ["object_id", "ra_deg", "dec_deg", "cutout"]
    pacsv.write_csv(pa.table({name: objects[name] for name in names}), folder / "catalogue.csv")
    output = folder / "release"
    catalogue, settings = CatalogueConfig(path=str(folder / "catalogue.csv")), PlanConfig(rows_per_partition=60)
    planned = plan.run(catalogue, settings, Store(str(output)))
    write_release(output, objects, vectors, plan=planned)
    return Sky(output, ids, ra_deg, dec_deg)


@contextmanager
def running(sky: Sky, database: str, **settings: object) -> Iterator[Service]:
    """Serve for the length of a block."""
    values = {"release": str(sky.output), "database": database, "port": 0, "rate_per_minute": 100_000}
    config = ServeConfig.model_validate({**values, **settings})
    with closing(open_tokens(database)) as store:
        reader = store.create("reader", ["read"])
        rater = store.create("ann-laptop", ["read", "rate"], "ann")
        admin = store.create("chief", ["read", "rate", "admin"], "chief")
    with listening(config) as taken, serving(config) as app:
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield Service(f"http://127.0.0.1:{taken.getsockname()[1]}", database, reader, rater, admin)
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="session")
def service(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that asks for a token."""
    with running(sky, str(tmp_path_factory.mktemp("service") / "campaigns.sqlite")) as found:
        yield found


@pytest.fixture(scope="session")
def open_service(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that everyone may read."""
    database = str(tmp_path_factory.mktemp("open") / "campaigns.sqlite")
    with running(sky, database, anonymous_read=True) as found:
        yield found


@pytest.fixture(scope="session")
def store(service: Service) -> Iterator[CampaignStore]:
    with closing(open_campaigns(service.database)) as opened:
        yield opened


@pytest.fixture
def new_campaign(sky: Sky, store: CampaignStore) -> Callable[[str], str]:
    """Create a campaign, which asks about five galaxies at once; return its name."""

    def create(name: str) -> str:
        campaign_job.create(store, name, str(sky.output), CampaignConfig(space="search", batch=5), RayConfig())
        return name

    return create


expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser that is closed after each file: while it is open, no other test can start an event loop."""
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture
def new_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a browser of its own; at the end nothing may have gone wrong in any."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_page(token: str | None = None, width: int = 1280, height: int = 800, **settings: object) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)  # type: ignore[arg-type]
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        if token:
            page.add_init_script(f"sessionStorage.setItem('voorwerp-token', '{token}')")
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: _close(dialog, complaints))
        page.on("console", lambda message: complaints.append(message.text) if _is_complaint(message) else None)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


def _close(dialog: Dialog, complaints: list[str]) -> None:
    if dialog.type != "beforeunload":
        complaints.append(f"dialog: {dialog.message}")
    dialog.accept()


def _is_complaint(message: ConsoleMessage) -> bool:
    # A browser logs every answer that is an error, which some tests ask for.
    return message.type in ("error", "warning") and not message.text.startswith("Failed to load resource")


_STILL_LOADING = """() => [...document.querySelectorAll(".picture.loading")].some((one) => {
    const { top, bottom, left } = one.getBoundingClientRect();
    return top < innerHeight && bottom > 0 && left < innerWidth;
})"""


@pytest.fixture
def shoot() -> Callable[[Page, str], None]:
    """Keep what a page looks like."""

    def shoot(page: Page, name: str) -> None:
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        while page.evaluate(_STILL_LOADING):
            page.wait_for_timeout(50)
        page.wait_for_timeout(350)  # Pictures fade in.
        page.screenshot(path=SCREENSHOTS / f"{name}.png")

    return shoot
