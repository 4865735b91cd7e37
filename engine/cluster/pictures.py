"""Cutouts of a release to look at, by the ids of their objects: small, in colour where there is colour.

Starts no cluster. A picture is of what was planned: where the cutout was replaced since, there is none.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from engine.cluster.loading import changed_rows, read
from engine.cluster.opened import OpenRelease
from engine.compute.rejects import Reject
from engine.compute.sky import healpix_29
from engine.compute.stretch import display_image
from engine.storage.artefacts import parent_of, partitions_of
from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.parquet import read_row_group, read_sorted_groups
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from schemas import paths
from schemas.config import CutoutConfig
from schemas.errors import IntegrityError
from schemas.manifest import Manifest
from schemas.partition import Partition
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION, DEC, HEALPIX, OBJECT_ID, RA

SIDE_PIXELS = 160
READS_AT_ONCE = 16
"""Of partitions, and of cutouts, which are decoded in the same threads: so many are in memory in full."""


def pictures_of(release: OpenRelease, ids: Sequence[str], side: int = SIDE_PIXELS) -> list[np.ndarray | Reject]:
    """Read pictures of objects.

    Parameters
    ----------
    release : OpenRelease
    ids : sequence of str
        As text, whatever their type in the release.
    side : int
        Pixels of the longer side at most; smaller cutouts stay as they are.

    Returns
    -------
    list
        Of each id (height, width, 3) uint8, or why there is none: `not_found` where the release has no such object.

    Raises
    ------
    IntegrityError
        The index or the plan is not what its manifest says.
    StoreError
        A store failed.
    """
    places = release.find(as_ids(pa.array(ids, pa.string()), release.id_type))
    known = np.flatnonzero(places.rows >= 0)
    pictures: list[np.ndarray | Reject] = [Reject(RejectReason.NOT_FOUND, "not in the release")] * len(ids)
    if not len(known):
        return pictures
    places = places._replace(shards=places.shards[known], rows=places.rows[known])
    taken = release.take(places, [OBJECT_ID, RA, DEC])
    embeddings = parent_of(release.store, release.components, "embeddings")
    cutouts = CutoutConfig.model_validate(embeddings.identity["cutouts"])
    objects = _planned(release.store, parent_of(release.store, embeddings, "plan"), release.components, taken)
    reader = CutoutReader(cutouts)

    def picture(row: int) -> np.ndarray | Reject:
        found = read(objects, row, reader)
        return found if isinstance(found, Reject) else draw(found, cutouts, side)

    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        made = dict(enumerate(pool.map(picture, range(len(objects)))))
    made |= changed_rows(objects)
    rows = pc.index_in(taken[OBJECT_ID], value_set=objects[OBJECT_ID].combine_chunks()).to_pylist()
    for number, row in zip(known, rows, strict=True):
        pictures[number] = made[row]
    return pictures


def draw(data: bytes | np.ndarray, cutouts: CutoutConfig, side: int) -> np.ndarray | Reject:
    """Turn a cutout, as bytes or as the pixels of a stack, into a picture, (height, width, 3) uint8.

    Images without the planes that `rgb_bands` names are grey; pixels that are not finite are 0.
    """
    try:
        pixels = decode_cutout(data, cutouts)
        if pixels.full_scale is None and not np.isfinite(pixels.values).any():
            return Reject(RejectReason.NAN_PIXELS, "no finite pixel")
        values = pixels.values if pixels.full_scale else np.nan_to_num(pixels.values, posinf=0, neginf=0)
        is_colour = pixels.full_scale is not None and len(values) == 3  # Whatever `rgb_bands` says of fluxes.
        is_grey = not is_colour and len(values) <= max(cutouts.stretch.rgb_bands)
        if pixels.full_scale is not None and not is_colour and not is_grey:
            values = values[list(cutouts.stretch.rgb_bands)]
        image = display_image(values, pixels.full_scale, "grey" if is_grey else "rgb", cutouts.stretch)
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    except ValueError as error:
        return Reject(RejectReason.SHAPE, str(error))
    shown = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    opened = Image.fromarray(np.repeat(shown, 3, axis=2) if shown.shape[2] == 1 else shown)
    opened.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(opened)


def _planned(store: Store, plan: Manifest, components: Manifest, objects: pa.Table) -> pa.Table:
    """Read the rows of a plan that name the cutouts of objects, and their pins, each once, in any order."""
    find = partial(_find, store.below(paths.artefact("plan", plan.id)), plan.identity["rows_per_unit"])
    partitions = sorted(
        (part.partition for part in partitions_of(components)),
        key=lambda part: part.first_healpix,
    )
    healpix = healpix_29(objects[RA].to_numpy(), objects[DEC].to_numpy())
    at = np.searchsorted([part.first_healpix for part in partitions], healpix, side="right") - 1
    asked = np.unique(at)
    places = [healpix[at == number] for number in asked]
    ids = [objects[OBJECT_ID].filter(pa.array(at == number)).unique() for number in asked]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return pa.concat_tables(pool.map(find, [partitions[number] for number in asked], places, ids))


def _find(plan: Store, rows_per_group: int, partition: Partition, healpix: np.ndarray, ids: pa.Array) -> pa.Table:
    """Find objects of one partition; its rows are in order of position, so that few row groups can hold them."""
    starts = [start for start, _ in read_sorted_groups(plan, partition.path, HEALPIX, healpix.tolist())]
    groups = [read_row_group(plan, partition.path, start // rows_per_group) for start in starts]
    columns = [OBJECT_ID, CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION]
    found = [group.select(columns).filter(pc.is_in(group[OBJECT_ID], value_set=ids)) for group in groups]
    if sum(map(len, found)) != len(ids):
        raise IntegrityError(
            f"{plan.uri(partition.path)}: expected {len(ids)} objects that the release has, "
            f"found {sum(map(len, found))} of them; the release was not made from this plan"
        )
    return pa.concat_tables(found)
