"""Answering queries from an opened release: places or vectors in, a table of neighbours out. Starts no cluster."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cluster.opened import OpenRelease
from engine.compute.search import Conditions, Neighbours, Places, nearest, nearly_nearest
from engine.compute.sky import separation_arcsec, unit_vectors
from schemas.errors import ConfigError
from schemas.tables import (
    CUTOUT,
    DEC,
    DISTANCE,
    EXACTNESS,
    MATCH,
    OBJECT_ID,
    OK,
    QUERY,
    QUERY_ID,
    RA,
    RANK,
    SEPARATION,
    STATUS,
    UNSEEN,
    neighbours_schema,
)

EXACT, APPROXIMATE = "exact", "approximate"


@dataclass(frozen=True)
class Question:
    """How queries are to be answered."""

    k: int
    exclusion_radius_arcsec: float = 0.0
    include_self: bool = False
    effort: int | None = None
    """Cells to probe (or `efSearch`) for approximate answers; exact ones when None."""
    device: str | None = None
    """Where PyTorch compares everything; the boxes are searched on CPUs when None."""


def effort_for(release: OpenRelease, recall: float) -> int:
    """Return the least effort whose measured recall is at least this.

    Raises
    ------
    ConfigError
        No setting of this index reaches it.
    """
    settings = release.detail.settings
    for setting in settings:
        if setting.recall >= recall:
            return setting.effort
    best = f"{settings[-1].recall:.4f} at most" if settings else "no approximate search"
    raise ConfigError(f"approximate: expected a recall that the index was measured to reach, found {recall}: {best}")


def recall_of(release: OpenRelease, effort: int) -> float:
    """Return the recall measured for an effort."""
    return next(setting.recall for setting in release.detail.settings if setting.effort == effort)


def answer(
    release: OpenRelease,
    numbers: np.ndarray,
    places: Places | None,
    vectors: np.ndarray | None,
    question: Question,
    allowed: Any = None,
    match_arcsec: np.ndarray | None = None,
    n_threads: int = 1,
    own: pa.Table | None = None,
) -> pa.Table:
    """Answer queries by objects of the release, or by vectors of component space.

    Parameters
    ----------
    release : OpenRelease
    numbers : (q,) int64 array
        Numbers of the queries, for the table.
    places : Places, optional
        (q,) of the objects that are asked about.
    vectors : (q, d) float32 array, optional
        Finite; when no places are given, or those of the objects.
    question : Question
    allowed : callable, optional
        As in `engine.compute.search.Conditions`.
    match_arcsec : (q,) float64 array, optional
        For the table.
    n_threads : int
    own : pa.Table, optional
        `object_id` and position of the objects that are asked about, where they need not be read.

    Returns
    -------
    pa.Table
        Of `neighbours_schema`, by query, then by rank.
    """
    queries = release.vectors(places) if vectors is None and places is not None else vectors
    assert queries is not None
    if own is None and places is not None:
        own = release.take(places, [OBJECT_ID, RA, DEC])
    radius_rad = float(np.radians(question.exclusion_radius_arcsec / 3600))
    directions = unit_vectors(own[RA].to_numpy(), own[DEC].to_numpy()) if own is not None and radius_rad else None
    conditions = Conditions(places, allowed, directions, radius_rad)
    k = question.k - (question.include_self and places is not None)
    found = _search(release, queries, max(k, 1), conditions, question, n_threads)
    if question.include_self and places is not None:
        found = _with_self(found, places, k)
    return _table(release, numbers, own, found, question, match_arcsec)


def unanswered(numbers: np.ndarray, reasons: list[str], id_type: pa.DataType) -> pa.Table:
    """Make the rows of queries that have no answer: their status says why."""
    schema = neighbours_schema(id_type)
    if len(numbers) == 0:
        return _no_rows(schema)
    columns: dict[str, Any] = {name: pa.nulls(len(numbers), schema.field(name).type) for name in schema.names}
    columns |= {QUERY: pa.array(numbers, pa.int64()), STATUS: pa.array(reasons, pa.string())}
    return pa.table(columns, schema=schema)


@cache
def _no_rows(schema: pa.Schema) -> pa.Table:
    return schema.empty_table()  # Which takes longer than one would think.


def _search(
    release: OpenRelease, queries: np.ndarray, k: int, conditions: Conditions, question: Question, n_threads: int
) -> Neighbours:
    if question.effort is None:
        return nearest(release.shards, queries, k, conditions, n_threads, question.device)
    return nearly_nearest(release.shards, *release.cells, queries, k, question.effort, conditions)


def _with_self(found: Neighbours, own: Places, k: int) -> Neighbours:
    """List each query's own object first, at distance 0, before k others."""
    places = Places(
        np.hstack([own.shards[:, np.newaxis], found.places.shards[:, :k]]),
        np.hstack([own.rows[:, np.newaxis], found.places.rows[:, :k]]),
    )
    zeros = np.zeros((len(own.rows), 1), np.float32)
    return found._replace(distances=np.hstack([zeros, found.distances[:, :k]]), places=places)


def _table(
    release: OpenRelease,
    numbers: np.ndarray,
    own: pa.Table | None,
    found: Neighbours,
    question: Question,
    match_arcsec: np.ndarray | None,
) -> pa.Table:
    at, place = np.nonzero(found.places.rows >= 0)
    places = Places(found.places.shards[at, place], found.places.rows[at, place])
    columns = [OBJECT_ID, RA, DEC]
    has_cutouts = CUTOUT in release.schema.names
    picked = release.take(places, [*columns, CUTOUT] if has_cutouts else columns)
    id_type = picked[OBJECT_ID].type
    separations = None
    if own is not None:
        ra_deg, dec_deg = own[RA].to_numpy()[at], own[DEC].to_numpy()[at]
        separations = separation_arcsec(ra_deg, dec_deg, picked[RA].to_numpy(), picked[DEC].to_numpy())
    n = len(at)
    exact = question.effort is None
    made: dict[str, Any] = {
        QUERY: pa.array(numbers[at], pa.int64()),
        QUERY_ID: pa.nulls(n, id_type) if own is None else own[OBJECT_ID].take(pa.array(at)),
        MATCH: pa.nulls(n, pa.float64()) if match_arcsec is None else pa.array(match_arcsec[at], from_pandas=True),
        RANK: pa.array(place + 1, pa.int32()),
        OBJECT_ID: picked[OBJECT_ID],
        RA: picked[RA],
        DEC: picked[DEC],
        DISTANCE: pa.array(found.distances[at, place], pa.float32()),
        SEPARATION: pa.nulls(n, pa.float64()) if separations is None else pa.array(separations),
        CUTOUT: picked[CUTOUT] if has_cutouts else pa.nulls(n, pa.string()),
        EXACTNESS: pa.repeat(EXACT if exact else APPROXIMATE, n),
        UNSEEN: pa.array(found.unseen[at], pa.float32(), mask=~np.isfinite(found.unseen[at])),
        STATUS: pa.repeat(OK, n),
    }
    return pa.table(made, schema=neighbours_schema(id_type))
