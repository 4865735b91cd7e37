"""Matching positions with the objects of a release, partition by partition of the sky. Starts no cluster."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.compute.sky import unit_vectors
from engine.compute.sky_match import Candidates, caps_around, nearest_caps, nearest_object, within_reach
from engine.storage.parquet import read_schema, read_table
from engine.storage.store import Store
from schemas.partition import Partition
from schemas.tables import DEC, OBJECT_ID, RA

_READS_IN_FLIGHT = 8


class Matched(NamedTuple):
    """The nearest object to each of q positions."""

    ids: pa.Array
    """Null where there is none within the radius."""
    separations_arcsec: np.ndarray
    """(q,) float64; NaN where there is none."""


class _Found(NamedTuple):
    """What one partition holds nearest to some positions."""

    queries: np.ndarray
    ids: pa.Array
    separations_arcsec: np.ndarray


def match_positions(
    catalogue: Store,
    partitions: Sequence[Partition],
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    radius_arcsec: float | None = None,
) -> Matched:
    """Find the nearest object on the sphere to each position.

    The partition that is nearest to a position is searched first, then those that can hold a nearer object.

    Parameters
    ----------
    catalogue : Store
        Folder of a HATS catalogue.
    partitions : sequence of Partition
        All of the catalogue.
    ra_deg, dec_deg : (q,) float64 arrays
        Valid positions.
    radius_arcsec : float, optional
        An object farther away is no match; any is when None.

    Returns
    -------
    Matched
        Objects that are exactly as near are in order of id.
    """
    queries = unit_vectors(ra_deg, dec_deg)
    caps = caps_around(np.array([part.order for part in partitions]), np.array([part.pixel for part in partitions]))
    limit = np.inf if radius_arcsec is None else radius_arcsec
    best = np.full(len(queries), np.inf)
    ids: list[int | str | None] = [None] * len(queries)
    first = nearest_caps(queries, caps)
    reach = within_reach(queries, np.full(len(queries), np.radians(limit / 3600)), caps)
    is_first = reach.pixels == first[reach.queries]
    for asked in (Candidates(*(column[is_first] for column in reach)), None):
        if asked is None:
            asked = within_reach(queries, np.radians(np.minimum(best, limit) / 3600), caps)
            asked = Candidates(*(column[asked.pixels != first[asked.queries]] for column in asked))
        for found in _search(catalogue, partitions, asked, ra_deg, dec_deg):
            for query, object_id, apart in zip(
                found.queries.tolist(), found.ids.to_pylist(), found.separations_arcsec.tolist(), strict=True
            ):
                known = ids[query]
                if apart <= limit and (apart < best[query] or (apart == best[query] and object_id < known)):
                    best[query], ids[query] = apart, object_id
    id_type = read_schema(catalogue, partitions[0].path).field(OBJECT_ID).type
    return Matched(pa.array(ids, id_type), np.where(np.isinf(best), np.nan, best))


def _search(
    catalogue: Store, partitions: Sequence[Partition], asked: Candidates, ra_deg: np.ndarray, dec_deg: np.ndarray
) -> Iterator[_Found]:
    """Search each partition for the positions that ask it; several are read at once."""
    order = np.argsort(asked.pixels, kind="stable")
    pixels, starts = np.unique(asked.pixels[order], return_index=True)
    askers = np.split(asked.queries[order], starts[1:])

    def search(pixel: int, queries: np.ndarray) -> _Found:
        table = read_table(catalogue, partitions[pixel].path, [OBJECT_ID, RA, DEC]).sort_by(OBJECT_ID)
        rows, apart = nearest_object(ra_deg[queries], dec_deg[queries], table[RA].to_numpy(), table[DEC].to_numpy())
        return _Found(queries, table[OBJECT_ID].take(pa.array(rows)), apart)

    with ThreadPoolExecutor(_READS_IN_FLIGHT) as threads:
        yield from threads.map(search, pixels.tolist(), askers)
