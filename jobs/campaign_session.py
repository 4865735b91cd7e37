"""Rating at a terminal: a picture, a key, the next picture."""

import click
from rich.text import Text

from engine.cluster import campaign as campaigning
from engine.cluster.campaign import Batch
from engine.cluster.pictures import pictures_of
from engine.compute.rejects import Reject
from engine.storage.campaigns import CampaignStore
from jobs.campaign import open_space
from jobs.report import output
from jobs.terminal_picture import terminal_picture
from schemas.campaign import HIGHEST, LOWEST, Asked, Campaign
from schemas.errors import ConfigError, DataError

_COLUMNS = 64
_KEYS = {str(value): value for value in range(LOWEST, HIGHEST + 1)}


def run(store: CampaignStore, campaign: Campaign, rater: str, n: int | None = None) -> int:
    """Show galaxies of batch after batch and take a key for each, until q; return how many were rated.

    Every rating is recorded when its key is pressed.

    Raises
    ------
    ConfigError
        There is no terminal.
    DataError
        There is nothing left to ask about.
    """
    if not output.is_terminal:
        raise ConfigError("expected a terminal to show pictures on, or ratings: --scores 0123..., or ID=RATING ...")
    space, release, n_rated = open_space(campaign), campaigning.release_of(campaign), 0
    while True:
        batch = campaigning.next_batch(store, campaign, rater, space, n)
        pictures = pictures_of(release, [one.object_id for one in batch.asked])
        number = 0
        while number < len(batch.asked):
            one = batch.asked[number]
            _show(one, pictures[number], number, batch)
            key = click.getchar().lower()
            if key == "q":
                return n_rated
            if key in _KEYS:
                campaigning.rate(store, campaign, rater, [(one.object_id, _KEYS[key])], release=release)
                n_rated += 1
                number += 1
            elif key == "u":
                try:
                    taken = campaigning.undo(store, campaign, rater).event.object_id
                except DataError as error:
                    output.print(str(error), markup=False)
                    continue
                n_rated -= 1
                places = [place for place, other in enumerate(batch.asked) if other.object_id == taken]
                number = places[0] if places else number
                output.print(f"taken back: {taken}", markup=False)


def _show(one: Asked, picture: object, number: int, batch: Batch) -> None:
    output.print()
    if isinstance(picture, Reject):
        output.print(f"(no picture: {picture.reason.value})", markup=False)
    else:
        colour = output.color_system is not None and not output.no_color
        output.print(terminal_picture(picture, min(_COLUMNS, output.width), colour))  # type: ignore[arg-type]
    expected = "" if one.mean is None else f"   expected {one.mean:.1f} ± {one.sd:.1f}"
    output.print(Text(f"{number + 1} of {len(batch.asked)}   {one.object_id}{expected}"))
    output.print(Text(f"{LOWEST} dull ... {HIGHEST} fascinating, u takes the last one back, q ends"), style="dim")
