"""Simulating over Ray: units of a thousand galaxies, each drawn from seeds of its own, and left as parts of tables."""

import io
import tarfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from engine.cluster.stream import stream
from engine.compute.footprint import draw_positions, footprint
from engine.compute.galaxy_image import BANDS, draw_fluxes, pixel_scale_arcsec
from engine.compute.morphology import KINDS, ODDITIES, Truth, answers, draw
from engine.compute.stretch import unit_range
from engine.compute.votes import draw_votes
from engine.storage.parquet import read_table, write_table
from engine.storage.store import Store
from schemas.simulation import CATALOGUE, DISPLAY, TRUTH, VOTES, SimulateJob
from schemas.tables import CUTOUT, DEC, OBJECT_ID, RA
from schemas.tree import load_tree

UNIT_ROWS = 1_000
TREE = "gz_decals"
_JPEG_QUALITY = 92


def simulate_units(job: SimulateJob) -> Iterator[int]:
    """Draw every unit that is not there yet; yield the number of galaxies of each that is done."""
    settings = job.model_dump(mode="json") | {"output": Store(job.output).uri()}  # Workers may be in another folder.

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return {"n": simulate_unit(SimulateJob.model_validate(settings), int(record["unit"]))}

    for record in stream([{"unit": unit} for unit in range(n_units(job))], {"fn": run}):
        yield record["n"]


def n_units(job: SimulateJob) -> int:
    """Units of a survey."""
    return -(-job.n // UNIT_ROWS)


def simulate_unit(job: SimulateJob, unit: int) -> int:
    """Draw one unit: its cutouts, then its parts of the tables; what is there already stays. Return its galaxies.

    The same seed gives the same unit, whichever worker draws it.
    """
    store = Store(job.output)
    start = unit * UNIT_ROWS
    n = min(UNIT_ROWS, job.n - start)
    if store.exists(part(TRUTH, unit)):
        return n
    truth, ra_deg, dec_deg, random = truth_of_unit(job, unit)
    expected = answers(truth)
    tree = load_tree(TREE)
    votes = draw_votes(expected, tree, job.volunteers, job.agreement, random)
    ids = pa.array(np.arange(start, start + n) + job.first_id, pa.int64())
    names = _write_cutouts(store, job, unit, truth, ids.to_pylist())
    tables = {
        CATALOGUE: {
            OBJECT_ID: ids,
            RA: ra_deg,
            DEC: dec_deg,
            CUTOUT: names,
            "magnitude": truth.magnitude + random.normal(0, 0.02, n),
            "radius_arcsec": truth.radius_arcsec * random.lognormal(0, 0.03, n),
        },
        VOTES: {OBJECT_ID: ids, **dict(zip(tree.columns, votes.T, strict=True))},
        TRUTH: {OBJECT_ID: ids, **_described(truth), **{f"true_{column}": value for column, value in expected.items()}},
    }
    for name, columns in tables.items():
        write_table(store, part(name, unit), pa.table(columns))
    return n


def truth_of_unit(job: SimulateJob, unit: int) -> tuple[Truth, np.ndarray, np.ndarray, np.random.Generator]:
    """Draw what a unit's galaxies are and their positions in degrees; and the generator of whatever follows."""
    n = min(UNIT_ROWS, job.n - unit * UNIT_ROWS)
    random = np.random.default_rng([job.seed, unit])
    sky = footprint(job.n, job.centre_deg, np.random.default_rng(job.seed))
    ra_deg, dec_deg = draw_positions(n, sky, random)
    return draw(n, job.shares, job.odd_share, random), ra_deg, dec_deg, random


def assemble(job: SimulateJob) -> None:
    """Write the tables of the survey from the units' parts, one part in memory at a time; then drop the parts."""
    store = Store(job.output)
    for name in (CATALOGUE, VOTES, TRUTH):
        first = read_table(store, part(name, 0))
        with (
            store.writing(f"{name}.parquet") as sink,
            pq.ParquetWriter(pa.PythonFile(sink, mode="w"), first.schema, compression="zstd") as writer,
        ):
            for unit in range(n_units(job)):
                writer.write_table(read_table(store, part(name, unit)))
    store.delete_folder("parts")


def part(table: str, unit: int) -> str:
    """Path of a unit's part of a table."""
    return f"parts/{table}-{unit:05d}.parquet"


def _write_cutouts(store: Store, job: SimulateJob, unit: int, truth: Truth, ids: list[int]) -> list[str]:
    """Draw and write the cutouts; return what the catalogue calls them."""
    scales = pixel_scale_arcsec(truth, job.side)
    suffix = {"jpeg": "jpg", "fits": "fits"}[job.format]
    names = [f"{object_id:010d}.{suffix}" for object_id in ids]
    folder = f"cutouts/{unit:05d}"
    images = (
        encoded(draw_fluxes(truth, number, job.side), job.format, float(scales[number])) for number in range(len(ids))
    )
    if job.container == "files":
        for name, image in zip(names, images, strict=True):
            store.write(f"{folder}/{name}", image)
        return [f"{folder}/{name}" for name in names]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, image in zip(names, images, strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(image)
            tar.addfile(member, io.BytesIO(image))
    store.write(f"{folder}.tar", packed.getvalue())
    return [f"{folder}.tar/{name}" for name in names]


def encoded(fluxes: np.ndarray, image_format: str, scale_arcsec: float) -> bytes:
    """Encode fluxes, (3, side, side) float32, as a colour JPEG or as a FITS image of three planes."""
    data = io.BytesIO()
    if image_format == "jpeg":
        colours = unit_range(fluxes, None, DISPLAY).transpose(1, 2, 0)
        Image.fromarray(np.round(colours * 255).astype(np.uint8)).save(data, format="JPEG", quality=_JPEG_QUALITY)
        return data.getvalue()
    from astropy.io import fits

    header = fits.Header()
    header["BANDS"] = ",".join(BANDS)
    header["PIXSCALE"] = (round(scale_arcsec, 5), "arcsec per pixel")
    fits.PrimaryHDU(fluxes, header).writeto(data)
    return data.getvalue()


def _described(truth: Truth) -> dict[str, Any]:
    """The truth as columns, with names for numbers."""
    columns = {name: value for name, value in vars(truth).items() if name not in ("kind", "oddity", "seed")}
    return {
        "kind": pa.array([KINDS[number] for number in truth.kind]),
        "oddity": pa.array([ODDITIES[number] for number in truth.oddity]),
        **columns,
    }
