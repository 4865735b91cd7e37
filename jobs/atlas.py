"""The atlas: a figure of a map for print, each galaxy's picture where it lies, one in each cell of a grid."""

import io
import math
import time
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from engine.cluster.atlas import Mapped, choose
from engine.cluster.opened import open_release
from engine.cluster.pictures import pictures_of
from engine.compute.atlas import Grid
from engine.compute.predicate import Predicate
from engine.compute.rejects import Reject
from engine.storage.artefacts import partitions_of
from engine.storage.parquet import read_schema
from engine.storage.store import Store
from jobs.report import note, progress, warn
from jobs.space import SpaceOf
from schemas import paths
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.map import PAGE_HEIGHT_MM, PAGE_WIDTH_MM, AtlasConfig
from schemas.preset import Preset

DOTS_PER_INCH = 300
_MM_PER_INCH = 25.4
_SUFFIXES = (".png", ".pdf")
_JPEG_QUALITY = 95
"""Of the image inside a PDF."""


def check_figure(config: AtlasConfig) -> None:
    """Check what a figure is called, and its condition, before any work.

    Raises
    ------
    ConfigError
        The name ends in neither of the known suffixes, the condition is none, or there is one without a figure.
    """
    if config.path is None:
        if config.where is not None:
            raise ConfigError("figure.where: expected --figure with a condition, found none")
        return
    if PurePosixPath(config.path).suffix not in _SUFFIXES:
        raise ConfigError(f"figure: expected a name ending in {' or '.join(_SUFFIXES)}, found {config.path!r}")
    if config.where is not None:
        Predicate(config.where)


def check_columns(config: AtlasConfig, space: SpaceOf) -> None:
    """Check that the columns of a condition are there, before any work; ConfigError where they are not."""
    if config.where is not None:
        Predicate(config.where).mask(read_schema(space.folder, space.partitions[0].file.path).empty_table())


def draw_atlas(made: Manifest, config: AtlasConfig, space: SpaceOf, store: Store) -> None:
    """Draw the atlas of a map into a file; raises as `engine.cluster.atlas.choose` and `pictures_of`."""
    path = str(config.path)
    width, height = (_pixels(size[config.page]) for size in (PAGE_WIDTH_MM, PAGE_HEIGHT_MM))
    side = width // config.columns
    folder = store.below(paths.artefact("map", made.id))
    mapped = Mapped(folder, partitions_of(made), space.folder, space.partitions)
    with progress("choose", space.n_objects, "objects") as advance:
        chosen = choose(mapped, config.columns, height // side, config.where, advance)
    seen = _seen_fraction(space.embeddings)
    with progress("pictures", len(chosen.ids), "galaxies") as advance:
        pictures = pictures_of(open_release(store), chosen.ids, max(8, math.ceil(side / seen)))
        advance(len(pictures))
    missing = [found for found in pictures if isinstance(found, Reject)]
    if missing:
        warn(f"{len(missing):,} galaxies have no picture, and their cells stay empty: {missing[0].reason.meaning}")
    sheet = compose(pictures, chosen.cells, chosen.grid, side, seen, config.paper, width)
    place, _, name = Store(path).uri().rpartition("/")
    Store(place or "/").write(name, encode_figure(sheet, PurePosixPath(path).suffix))
    note("atlas", f"{len(pictures) - len(missing):,} of {chosen.n_objects:,} galaxies in {path}")


def compose(
    pictures: Sequence[np.ndarray | Reject],
    cells: np.ndarray,
    grid: Grid,
    side: int,
    seen: float,
    paper: str,
    width: int,
) -> Image.Image:
    """Put pictures into their cells.

    Parameters
    ----------
    pictures : sequence of (height, width, 3) uint8 arrays
        Where there is none its cell stays empty.
    cells : (n,) int64 array
    grid : Grid
    side : int
        Of a cell, in pixels.
    seen : float
        Side of the central square of each picture that is shown, as a share of its shorter side.
    paper : str
        Colour between pictures.
    width : int
        Of the page, in pixels.
    """
    left = (width - grid.columns * side) // 2
    sheet = Image.new("RGB", (width, grid.rows * side + 2 * left), paper)
    for picture, cell in zip(pictures, cells.tolist(), strict=True):
        if not isinstance(picture, Reject):
            row, column = divmod(cell, grid.columns)
            sheet.paste(_thumbnail(picture, side, seen), (left + column * side, left + row * side))
    return sheet


def encode_figure(sheet: Image.Image, suffix: str) -> bytes:
    """Write a page as PNG or PDF of 300 dots per inch; the same page gives the same bytes."""
    data = io.BytesIO()
    if suffix == ".png":
        sheet.save(data, "PNG", dpi=(DOTS_PER_INCH, DOTS_PER_INCH), optimize=False)
    else:
        never = time.gmtime(0)  # Else the time of writing is part of the file.
        sheet.save(data, "PDF", resolution=DOTS_PER_INCH, quality=_JPEG_QUALITY, creationDate=never, modDate=never)
    return data.getvalue()


def _thumbnail(picture: np.ndarray, side: int, seen: float) -> Image.Image:
    height, width = picture.shape[:2]
    half = min(height, width) * seen / 2
    box = (width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half)
    return Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS, box=box)


def _seen_fraction(embeddings: Manifest) -> float:
    """How much of a cutout's side the encoder sees; all of it where no preset is known."""
    preset = embeddings.identity.get("preset")
    if preset is None:
        return 1.0
    known = Preset.model_validate(preset)
    return float(known.field * known.crop / known.resize)


def _pixels(size_mm: float) -> int:
    return round(size_mm / _MM_PER_INCH * DOTS_PER_INCH)
