"""Job: campaign. Its commands: create, next, rate, undo, status, import, export."""

import os
from getpass import getuser

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster import campaign as campaigning
from engine.cluster.asking import learn_from, place
from engine.cluster.campaign import Batch
from engine.cluster.machine import cpus_of_machine
from engine.cluster.pictures import pictures_of
from engine.cluster.space import OpenSpace
from engine.compute.gp import left_out
from engine.storage.artefacts import read_manifest, utc_now
from engine.storage.campaigns import CampaignStore, open_campaigns
from engine.storage.store import Store
from jobs.contact_sheet import contact_sheet
from jobs.rating_plots import calibration_plot, history_plot
from jobs.report import note, output, progress
from jobs.space import space_of
from schemas.campaign import HIGHEST, LOWEST, Campaign, CampaignConfig
from schemas.config import RayConfig
from schemas.errors import ConfigError
from schemas.rating_events import held, of_others, of_rater
from schemas.tables import OBJECT_ID

DATABASE_VARIABLE = "VOORWERP_DATABASE"
DATABASE = "voorwerp-campaigns.sqlite"
"""In the folder where the command runs."""


def open_store(database: str | None) -> CampaignStore:
    """Open the campaigns of a database: the one that is named, that of VOORWERP_DATABASE, or a file in this folder."""
    return open_campaigns(database or os.environ.get(DATABASE_VARIABLE) or DATABASE)


def create(store: CampaignStore, name: str, release: str, config: CampaignConfig, ray: RayConfig) -> Campaign:
    """Create a campaign on the current release of an output; its space is made where it is not there yet.

    Raises
    ------
    DataError
        An example is not in the release, or the release has too few objects for the space.
    OutputError
        There is another campaign of this name.
    ConfigError
        The name is none.
    """
    space = space_of(release, config.space, ray)
    id_type = "int64" if pa.types.is_integer(space.id_type) else "string"
    try:
        campaign = Campaign(
            name=name,
            release=place_of(release),
            release_id=space.release.id,
            components=space.components.id,
            id_type=id_type,
            config=config,
            created_utc=utc_now(),
        )
    except ValidationError as error:
        raise ConfigError(f"name: expected letters, digits, dots, dashes and underscores, found {name!r}") from error
    campaigning.check_ids(campaign, config.examples)
    store.create(campaign)
    note("campaign", f"{name}: {space.n_objects:,} objects, space {config.space}, in {store.where}")
    return campaign


def place_of(release: str) -> str:
    """One name for each output, however it was named."""
    store = Store(release)
    return os.path.realpath(store.uri()) if store.is_local else store.uri()


def open_space(campaign: Campaign) -> OpenSpace:
    """Read the components of a campaign into memory."""
    n = read_manifest(Store(campaign.release), "components", campaign.components).counts["components"]
    with progress("components", n, "objects") as advance:
        return campaigning.open_campaign_space(campaign, cpus_of_machine(), advance)


def next_batch(store: CampaignStore, campaign: Campaign, rater: str, n: int | None, sheet: str | None) -> Batch:
    """Ask a rater about the next objects: a table, and a contact sheet where one is asked for."""
    batch = campaigning.next_batch(store, campaign, rater, open_space(campaign), n)
    show_batch(campaign, batch, rater)
    if sheet is not None:
        folder, _, name = Store(sheet).uri().rpartition("/")
        Store(folder).write(name, sheet_of(campaign, batch))
        note("sheet", f"{len(batch.asked)} pictures in {sheet}")
    return batch


def show_batch(campaign: Campaign, batch: Batch, rater: str) -> None:
    """Print a batch, and how to rate it."""
    table = Table(title=f"{campaign.name}: {rater} is asked about", title_justify="left", box=SIMPLE_HEAD)
    for column in ("", OBJECT_ID, "expected rating"):
        table.add_column(column, justify="right", no_wrap=True)
    for number, one in enumerate(batch.asked, start=1):
        expected = "" if one.mean is None else f"{one.mean:.2f} ± {one.sd:.2f}"
        table.add_row(str(number), one.object_id, expected)
    output.print(table)
    example = "0" * len(batch.asked)
    note(
        "next",
        f"voorwerp campaign rate {campaign.name} --rater {rater} --scores {example}   ({LOWEST} dull, {HIGHEST} great)",
    )


def sheet_of(campaign: Campaign, batch: Batch) -> bytes:
    """Draw a batch as a contact sheet."""
    ids = [one.object_id for one in batch.asked]
    captions = [
        f"{number}  {one.object_id}\n" + ("" if one.mean is None else f"expected {one.mean:.1f} ± {one.sd:.1f}")
        for number, one in enumerate(batch.asked, start=1)
    ]
    return contact_sheet(pictures_of(campaigning.release_of(campaign), ids), captions, columns=5, title=campaign.name)


def status(store: CampaignStore, campaign: Campaign, plots: str | None) -> None:
    """Print who rated what, and what was learned; draw it where a folder for plots is given."""
    ratings = held(store.events(campaign.name))
    raters = sorted({rater for rater, _ in ratings} | {one.rater for one in store.leased(campaign.name, utc_now())})
    table = Table(title=f"{campaign.name}, on {campaign.release}", title_justify="left", box=SIMPLE_HEAD)
    names = ("rater", "ratings", *map(str, range(LOWEST, HIGHEST + 1)), "asked now", "length", "alpha", "noise")
    for name in names:
        table.add_column(name, justify="left" if name == "rater" else "right")
    for rater in raters:
        values = np.array(list(of_rater(ratings, rater).values()), int)
        counts = np.bincount(values, minlength=HIGHEST + 1)
        last = [one for _, one in store.rankings(campaign.name, rater) if one.n_ratings][-1:]
        learned = [f"{value:.3g}" for one in last for value in (one.length, one.alpha, one.noise)] or ["", "", ""]
        waiting = len(store.leased(campaign.name, utc_now(), rater))
        table.add_row(rater, f"{len(values):,}", *map(str, counts), str(waiting), *learned)
    output.print(table)
    if plots is not None:
        _plot(store, campaign, Store(plots))


def _plot(store: CampaignStore, campaign: Campaign, folder: Store) -> None:
    ratings = held(store.events(campaign.name))
    space = open_space(campaign)
    for rater in sorted({rater for rater, _ in ratings}):
        placed = place(space, of_rater(ratings, rater))
        prior = campaigning.prior_of(space, of_others(ratings, rater), campaign.config)
        learned = learn_from(space, placed, campaigning.last_kernel(store, campaign, rater), prior)
        if learned:
            plot = calibration_plot(placed.ratings, *left_out(learned.posterior, placed.ratings))
            folder.write(f"calibration-{rater}.png", plot)
        records = [one for _, one in store.rankings(campaign.name, rater)]
        if any(one.n_ratings for one in records):
            folder.write(f"history-{rater}.png", history_plot(records))
    note("plots", f"in {folder.uri()}")


def default_rater() -> str:
    """Name of the person at this terminal."""
    return getuser()
