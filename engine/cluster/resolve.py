"""What queries mean in a release: ids and positions become places of objects; those that mean nothing keep a reason."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from engine.cluster.answer import unanswered
from engine.cluster.bulk import Asked
from engine.cluster.opened import OpenRelease
from engine.compute.search import Places
from engine.storage.artefacts import partitions_of
from engine.storage.table_file import as_ids
from schemas.errors import DataError
from schemas.tables import NO_MATCH, UNKNOWN_ID

if TYPE_CHECKING:
    from engine.storage.queries import Queries


class Resolved(NamedTuple):
    """Queries, each of which can be asked or is answered already by its status."""

    asked: Asked
    rest: pa.Table
    """Of `neighbours_schema`, by query."""


def resolve(
    release: OpenRelease,
    queries: "Queries",
    match_radius_arcsec: float,
    find: Callable[[pa.Array], Places] | None = None,
) -> Resolved:
    """Resolve queries of one kind; objects are found by id in the shards of the release, or by `find`.

    Raises
    ------
    DataError
        Vectors have another dimension than the release's components.
    """
    reasons, find = dict(queries.bad), find or release.find
    if queries.by == "vector":
        assert queries.vectors is not None
        check_dimension(release, queries.vectors)
        return _resolved(release, Asked(np.arange(queries.n), None, queries.vectors), reasons)
    if queries.by == "id":
        assert queries.ids is not None
        places = find(as_ids(queries.ids, release.id_type))
        unknown = np.flatnonzero(places.rows < 0).tolist()
        return _resolved(release, Asked(np.arange(queries.n), places), dict.fromkeys(unknown, UNKNOWN_ID) | reasons)
    assert queries.ra_deg is not None
    assert queries.dec_deg is not None
    good = np.ones(queries.n, bool)
    good[list(reasons)] = False
    matched, apart = places_of_positions(
        release, queries.ra_deg[good], queries.dec_deg[good], match_radius_arcsec, find
    )
    places, separations = Places(*np.full((2, queries.n), -1, np.int32)), np.full(queries.n, np.nan)
    places.shards[good], places.rows[good], separations[good] = matched.shards, matched.rows, apart
    far = np.flatnonzero(good & (places.rows < 0)).tolist()
    asked = Asked(np.arange(queries.n), places, None, separations)
    return _resolved(release, asked, dict.fromkeys(far, NO_MATCH) | reasons)


def check_dimension(release: OpenRelease, vectors: np.ndarray) -> None:
    """Refuse vectors of another space; errors as of `resolve`."""
    if vectors.shape[1] != release.detail.dimension:
        raise DataError(
            f"queries: expected vectors of {release.detail.dimension} components as in this release, "
            f"found {vectors.shape[1]}"
        )


def places_of_ids(release: OpenRelease, ids: pa.Array) -> Places:
    """Find objects by ids of any type, (q,); -1 for what is null, unknown, or no id of this release's type."""
    return release.find(as_ids(ids, release.id_type))


def places_of_positions(
    release: OpenRelease,
    ra_deg: np.ndarray,
    dec_deg: np.ndarray,
    radius_arcsec: float | None = None,
    find: Callable[[pa.Array], Places] | None = None,
) -> tuple[Places, np.ndarray]:
    """Find the object nearest on the sky to each valid position, (q,) degrees.

    Returns
    -------
    places : Places
        (q,); -1 where there is none within the radius.
    separations_arcsec : (q,) float64 array
        NaN there.
    """
    from engine.cluster.match import match_positions  # SciPy's trees take a fifth of a second to load.

    partitions = [part.partition for part in partitions_of(release.components)]
    matched = match_positions(release.components_folder, partitions, ra_deg, dec_deg, radius_arcsec)
    return (find or release.find)(matched.ids), matched.separations_arcsec


def _resolved(release: OpenRelease, asked: Asked, reasons: dict[int, str]) -> Resolved:
    bad = np.array(sorted(reasons), np.int64)
    kept = np.ones(len(asked.numbers), bool)
    kept[bad] = False
    places = asked.places and Places(asked.places.shards[kept], asked.places.rows[kept])
    vectors, matches = (None if part is None else part[kept] for part in (asked.vectors, asked.match_arcsec))
    rest = unanswered(bad, [reasons[number] for number in bad.tolist()], release.id_type)
    return Resolved(Asked(asked.numbers[kept], places, vectors, matches), rest)
