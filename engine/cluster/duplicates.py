"""Near-duplicates: pairs of objects that are close in component space, and pairs that are close on the sky.

Both kinds of units measure a pair in the same way, the smaller id first. So a pair that meets both criteria is known to
the units that search component space, which report it, and left out by those that search the sky: each pair once.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.graph import objects_of
from engine.cluster.opened import OpenRelease
from engine.cluster.parts import Made
from engine.compute.pairs import l1_distances, pairs_on_sky
from engine.compute.search import Conditions, Places, nearest
from engine.compute.sky import separation_arcsec, unit_vectors
from engine.compute.sky_match import caps_around
from engine.storage.artefacts import partitions_of
from engine.storage.parquet import as_matrix, read_table
from schemas.partition import PartitionFile
from schemas.tables import (
    COMPONENTS,
    CRITERION,
    DEC,
    DISTANCE,
    OBJECT_ID,
    OK,
    OTHER_DEC,
    OTHER_ID,
    OTHER_RA,
    RA,
    SEPARATION,
    pairs_schema,
)

CAP = 32
"""Neighbours that an object is first asked for; those that have so many within the distance are asked for more."""
_GROWTH = 8
_ANSWERS_AT_ONCE = 4_000_000
DEFAULT_SHARE = 0.1
"""Of the median distance to the nearest neighbour: what is closer than this by far is probably the same galaxy."""


BY_DISTANCE, BY_SKY, BOTH = "distance", "sky", "both"
BEYOND_CAP = "beyond_cap"
"""Objects with more than `CAP` others within the distance; all of these are reported too."""


class Limits(NamedTuple):
    """What makes a pair a near-duplicate; either is enough."""

    distance: float
    """L1, inclusive; compared as float32."""
    radius_arcsec: float
    """Inclusive."""


def usual_distance(release: OpenRelease) -> float:
    """Median L1 distance from an object to its nearest neighbour, over objects spread through component space."""
    queries = release.held_out
    if release.n_objects < 2:
        return 0.0
    found = nearest(release.shards, queries, 2)
    return float(np.median(found.distances[:, 1]))


def close_in_space(release: OpenRelease, record: dict[str, Any], limits: Limits, device: str | None) -> Made:
    """Report the pairs within the distance whose smaller id is an object of a run, however many an object has."""
    places, vectors = objects_of(release, record)
    objects = release.take(places, [OBJECT_ID, RA, DEC])
    tables, todo, cap = [], np.arange(len(vectors)), min(CAP, max(1, release.n_objects - 1))
    n_beyond_cap = 0
    while len(todo):
        full = []
        step = max(1, _ANSWERS_AT_ONCE // cap)
        for start in range(0, len(todo), step):
            part = todo[start : start + step]
            own = Places(places.shards[part], places.rows[part])
            found = nearest(release.shards, vectors[part], cap, Conditions(own), device=device, within=limits.distance)
            more = np.isfinite(found.distances[:, -1]) & (cap < release.n_objects - 1)
            full.append(part[more])
            at, rank = np.nonzero((found.places.rows >= 0) & ~more[:, np.newaxis])
            others = release.take(
                Places(found.places.shards[at, rank], found.places.rows[at, rank]), [OBJECT_ID, RA, DEC]
            )
            tables.append(_pairs(objects.take(pa.array(part[at])), others, found.distances[at, rank], limits))
        todo, cap = np.concatenate(full), min(cap * _GROWTH, release.n_objects - 1)
        n_beyond_cap = n_beyond_cap or len(todo)
    return _made(pa.concat_tables(tables), objects[OBJECT_ID], {BEYOND_CAP: n_beyond_cap})


def close_on_sky(release: OpenRelease, record: dict[str, Any], limits: Limits) -> Made:
    """Report the pairs within the radius, and not within the distance, whose smaller id is in a partition."""
    parts = partitions_of(release.components)
    orders, pixels = np.array([part.partition for part in parts], np.int64).T
    centres, radii_rad = caps_around(orders, pixels)
    at, reach_rad = record["at"], np.radians(limits.radius_arcsec / 3600)
    apart_rad = _angles(centres, centres[at])
    near = np.flatnonzero(apart_rad <= radii_rad + radii_rad[at] + reach_rad)
    own = _read(release, parts[at])
    around = []
    for number in near[near != at]:
        table = _read(release, parts[number])
        directions = unit_vectors(table[RA].to_numpy(), table[DEC].to_numpy())
        around.append(table.filter(pa.array(_angles(directions, centres[at]) <= radii_rad[at] + reach_rad)))
    others = pa.concat_tables([own, *around])
    (ra_deg, dec_deg), (other_ra_deg, other_dec_deg) = ([t[RA].to_numpy(), t[DEC].to_numpy()] for t in (own, others))
    rows, other_rows = pairs_on_sky(ra_deg, dec_deg, other_ra_deg, other_dec_deg, limits.radius_arcsec)
    distances = l1_distances(as_matrix(own[COMPONENTS])[rows], as_matrix(others[COMPONENTS])[other_rows])
    far = distances > np.float32(limits.distance)
    pairs = _pairs(own.take(pa.array(rows[far])), others.take(pa.array(other_rows[far])), distances[far], limits)
    return _made(pairs, own[OBJECT_ID], {})


def units_of(release: OpenRelease) -> list[dict[str, Any]]:
    """Make a unit of every partition of the components, with its number of objects."""
    parts = partitions_of(release.components)
    return [{"unit": f"sky-{part.partition.name}", "at": at, "n_objects": part.n_rows} for at, part in enumerate(parts)]


def _made(pairs: pa.Table, asked: pa.ChunkedArray, counts: dict[str, int]) -> Made:
    criteria = {item["values"]: item["counts"] for item in pc.value_counts(pairs[CRITERION]).to_pylist()}
    return Made(pairs, asked, pa.chunked_array([[OK] * len(asked)], pa.string()), counts | criteria)


def _pairs(objects: pa.Table, others: pa.Table, distances: np.ndarray, limits: Limits) -> pa.Table:
    """Make rows of `pairs_schema` of those pairs in which the object has the smaller id."""
    first = pc.less(objects[OBJECT_ID], others[OBJECT_ID])
    objects, others = objects.filter(first), others.filter(first)
    distances = distances[first.to_numpy()]
    positions = [table[name].to_numpy() for table in (objects, others) for name in (RA, DEC)]
    separations = separation_arcsec(*positions)
    close, near = distances <= np.float32(limits.distance), separations <= limits.radius_arcsec
    columns = {
        OBJECT_ID: objects[OBJECT_ID],
        RA: objects[RA],
        DEC: objects[DEC],
        OTHER_ID: others[OBJECT_ID],
        OTHER_RA: others[RA],
        OTHER_DEC: others[DEC],
        DISTANCE: pa.array(distances, pa.float32()),
        SEPARATION: pa.array(separations, pa.float64()),
        CRITERION: pa.array(np.where(close, np.where(near, BOTH, BY_DISTANCE), BY_SKY), pa.string()),
    }
    return pa.table(columns, schema=pairs_schema(objects[OBJECT_ID].type))


def _read(release: OpenRelease, part: PartitionFile) -> pa.Table:
    return read_table(release.components_folder, part.partition.path, [OBJECT_ID, RA, DEC, COMPONENTS])


def _angles(directions: np.ndarray, centre: np.ndarray) -> np.ndarray:
    return 2 * np.arcsin(np.minimum(1, np.linalg.norm(directions - centre, axis=1) / 2))
