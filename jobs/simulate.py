"""Job: simulate. A survey of galaxies with known truth, volunteer votes and cutouts."""

import io
import json

import numpy as np
from PIL import Image, ImageDraw

from engine.cluster.session import connect
from engine.cluster.simulate import assemble, encoded, simulate_units, truth_of_unit
from engine.compute.galaxy_image import draw_fluxes
from engine.compute.morphology import KINDS
from engine.storage.arrays import write_json
from engine.storage.lease import lease
from engine.storage.store import Store
from jobs.report import note, progress
from schemas.errors import OutputError
from schemas.simulation import CATALOGUE, SimulateJob

SETTINGS = "survey.json"
SHEET = "sheet.png"
_COLUMNS, _SIDE_PIXELS = 10, 96


def run(job: SimulateJob) -> None:
    """Make the survey, or what a killed run has left of it to make.

    Raises
    ------
    OutputError
        The output holds a survey with other settings.
    """
    store = Store(job.output)
    settings = job.model_dump(mode="json", exclude={"output", "ray"})
    with lease(store):
        _claim(store, settings)
        if store.exists(f"{CATALOGUE}.parquet"):
            note("simulate", f"{job.n:,} galaxies are in {store.uri()} already")
            return
        connect(job.ray)
        with progress("simulate", job.n, "galaxies") as advance:
            for n in simulate_units(job):
                advance(n)
        store.write(SHEET, sheet(job))
        assemble(job)
    note("simulate", f"catalogue, votes, truth and a sheet of examples are in {store.uri()}")


def sheet(job: SimulateJob) -> bytes:
    """Draw the first galaxies of each kind side by side, as a PNG."""
    truth = truth_of_unit(job, 0)[0]
    rows = [np.flatnonzero(truth.kind == number)[:_COLUMNS] for number in range(len(KINDS))]
    rows.append(np.flatnonzero(truth.oddity > 0)[:_COLUMNS])
    label = 70
    page = Image.new("RGB", (label + _COLUMNS * _SIDE_PIXELS, len(rows) * _SIDE_PIXELS))
    draw = ImageDraw.Draw(page)
    for line, (name, numbers) in enumerate(zip((*KINDS, "odd"), rows, strict=True)):
        draw.text((4, (line + 0.45) * _SIDE_PIXELS), name, fill="white")
        for column, number in enumerate(numbers):
            image = Image.open(io.BytesIO(encoded(draw_fluxes(truth, int(number), job.side), "jpeg", 1.0)))
            place = (label + column * _SIDE_PIXELS, line * _SIDE_PIXELS)
            page.paste(image.resize((_SIDE_PIXELS, _SIDE_PIXELS), Image.Resampling.BICUBIC), place)
    data = io.BytesIO()
    page.save(data, format="PNG")
    return data.getvalue()


def _claim(store: Store, settings: dict[str, object]) -> None:
    if store.exists(SETTINGS):
        found = json.loads(store.read(SETTINGS))
        differ = sorted(key for key in settings if found.get(key) != settings[key])
        if differ:
            raise OutputError(
                f"{store.uri()}: holds a survey with other settings ({differ[0]}: {found.get(differ[0])!r} instead "
                f"of {settings[differ[0]]!r}); give another output"
            )
        return
    write_json(store, SETTINGS, settings)
