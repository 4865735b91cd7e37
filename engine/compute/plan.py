"""The plan: a catalogue becomes valid objects in sky order, rejects, partitions and units of work. Pure."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.compute import sky
from engine.compute.gather import gather
from engine.compute.rejects import Reject, rejects_table
from schemas.errors import DataError
from schemas.partition import Unit
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, DEC, HEALPIX, OBJECT_ID, RA

_LISTED_DUPLICATES = 10
_DUPLICATE = Reject(RejectReason.DUPLICATE_ID, "an earlier row has this id")
_BAD_COORD = Reject(RejectReason.BAD_COORD, "expected RA in [0, 360) and Dec in [-90, 90] degrees")


class Planned(NamedTuple):
    """Objects sorted by HEALPix and id, and the rows that cannot be planned."""

    objects: pa.Table
    rejects: pa.Table


def plan_objects(catalogue: pa.Table, keep_first_duplicate: bool) -> Planned:
    """Split a catalogue into objects and rejects.

    Parameters
    ----------
    catalogue : pa.Table
        With `object_id`, `ra_deg`, `dec_deg` and `cutout` or `image`.
    keep_first_duplicate : bool
        Keep the first row of an id and reject the others, instead of stopping.

    Returns
    -------
    Planned
        `objects` has `_healpix_29` first and is sorted by it, then by id: the order of the catalogue does not matter.

    Raises
    ------
    DataError
        Ids are duplicated and `keep_first_duplicate` is false; the message lists them.
    """
    repeated = repeats(catalogue[OBJECT_ID])
    if repeated.any() and not keep_first_duplicate:
        ids = pc.unique(catalogue[OBJECT_ID].filter(pa.array(repeated))).to_pylist()
        listed = ", ".join(map(str, ids[:_LISTED_DUPLICATES])) + (" ..." if len(ids) > _LISTED_DUPLICATES else "")
        raise DataError(
            f"expected unique object ids, found {len(ids)} that occur more than once: {listed}; "
            "correct the catalogue, or set catalogue.on_duplicate: first"
        )
    ra_deg, dec_deg = (catalogue[name].to_numpy() for name in (RA, DEC))
    valid = sky.is_position(ra_deg, dec_deg)
    rejects = pa.concat_tables(
        [
            _rejects(catalogue, repeated, _DUPLICATE),
            _rejects(catalogue, ~repeated & ~valid, _BAD_COORD),
        ]
    )
    kept = np.flatnonzero(~repeated & valid)
    healpix = sky.healpix_29(ra_deg[kept], dec_deg[kept])
    order = _sky_order(healpix, catalogue[OBJECT_ID], kept)
    objects = gather(catalogue, kept[order])
    return Planned(
        objects.add_column(0, pa.field(HEALPIX, pa.int64(), nullable=False), pa.array(healpix[order])), rejects
    )


def _sky_order(healpix: np.ndarray, ids: pa.ChunkedArray, rows: np.ndarray) -> np.ndarray:
    """Order rows of a catalogue by their pixels, then by id: few rows share a pixel, so few ids are compared."""
    order = np.argsort(healpix, kind="stable")
    same = np.diff(healpix[order]) == 0
    tied = np.flatnonzero(np.append(same, False) | np.append(False, same)) if len(order) else order
    among = order[tied]
    table = gather(pa.table({OBJECT_ID: ids}), rows[among]).append_column(HEALPIX, pa.array(healpix[among]))
    order[tied] = among[pc.sort_indices(table, [(HEALPIX, "ascending"), (OBJECT_ID, "ascending")]).to_numpy()]
    return order


def repeats(ids: pa.ChunkedArray) -> np.ndarray:
    """Mark every row whose id an earlier row has: (n,) bool."""
    codes = pc.dictionary_encode(ids).combine_chunks().indices.to_numpy()
    repeated = np.ones(len(codes), dtype=bool)
    repeated[np.unique(codes, return_index=True)[1]] = False
    return repeated


def units(slices: list[sky.Slice], rows_per_unit: int) -> list[Unit]:
    """Cut partitions into units: consecutive row groups of `rows_per_unit` rows, the last one shorter."""
    return [
        Unit(f"{part.order}-{part.pixel}-{group}", part.order, part.pixel, group, min(rows_per_unit, rows - start))
        for part in slices
        for rows in (part.stop - part.start,)
        for group, start in enumerate(range(0, rows, rows_per_unit))
    ]


def default_rows_per_unit(n_objects: int) -> int:
    """A 64th of the objects in [32, 512], in whole batches of 32.

    The workers of a small release end together, a large release makes few records.
    """
    return min(512, max(32, 32 * -(-n_objects // (32 * 64))))


def _rejects(catalogue: pa.Table, rows: np.ndarray, reject: Reject) -> pa.Table:
    named = catalogue.select([name for name in (OBJECT_ID, RA, DEC, CUTOUT) if name in catalogue.column_names])
    return rejects_table(named.filter(pa.array(rows)), [reject] * int(rows.sum()))
