"""L1 neighbours over the shards of a release: exact, with what proves it; or approximate, in cells of FAISS indexes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import faiss
import numpy as np

from engine.compute import approximate, boxes
from engine.compute.boxes import Boxes, Sky, lower_bounds
from engine.compute.quantiser import nearest_cells
from schemas.index import IndexKind


class Shard(Protocol):
    """What searching needs of a shard; only what is asked for is opened."""

    n_rows: int
    kind: IndexKind
    low: np.ndarray
    """(d,) float32, smallest value of each component; inf for a shard without objects."""
    high: np.ndarray
    """(d,) float32; -inf for a shard without objects."""

    @property
    def boxes(self) -> Boxes:
        """Its vectors."""

    @property
    def directions(self) -> np.ndarray:
        """(n, 3) float64 unit vectors to its objects on the sky."""

    @property
    def approximate(self) -> faiss.Index:
        """Its FAISS index."""

    def ids(self, rows: np.ndarray) -> list[int] | list[str]:
        """Ids of objects; rows are in order of id."""


class Places(NamedTuple):
    """Where objects are."""

    shards: np.ndarray
    """int32; -1 for nowhere."""
    rows: np.ndarray
    """int32 rows of the shard; -1 for nowhere."""


class Conditions(NamedTuple):
    """Which objects may be answers; all by default."""

    own: Places | None = None
    """(q,) of an object for each query that is no answer to it: itself."""
    allowed: Callable[[int], np.ndarray | None] | None = None
    """For the number of a shard, (n,) bool of its rows, or None for all."""
    directions: np.ndarray | None = None
    """(q, 3) float64 unit vectors of the queries; what lies within `radius_rad` is no answer."""
    radius_rad: float = 0.0


class Neighbours(NamedTuple):
    """Answers to q queries, nearest first; equal distances in order of id."""

    distances: np.ndarray
    """(q, k) float32, L1; inf where fewer objects qualify."""
    places: Places
    """(q, k)."""
    unseen: np.ndarray
    """(q,) float32: no object that was not compared is nearer than this. Where it is no smaller than the last distance,
    the answer is exact. inf where everything was compared, NaN where nothing is known (approximate answers)."""
    n_compared: np.ndarray
    """(q,) int64 objects whose distance was computed; 0 where that is unknown."""
    n_shards: np.ndarray
    """(q,) int64 shards that were asked."""


ANY = Conditions()


def nearest(
    shards: Sequence[Shard],
    queries: np.ndarray,
    k: int,
    conditions: Conditions = ANY,
    n_threads: int = 1,
    device: str | None = None,
    within: float = np.inf,
) -> Neighbours:
    """Find the k nearest objects to each query, exactly.

    Each query is asked of the shard whose box is nearest, then of every other whose box reaches into its k-th distance.

    Parameters
    ----------
    shards : sequence of Shard
    queries : (q, d) float32 array
        Finite.
    k : int
        At least 1.
    conditions : Conditions
    n_threads : int
        Threads that share the queries.
    device : str, optional
        Where PyTorch compares everything in the shards that are asked; else they are searched by their boxes, on CPUs.
        The answers are the same.
    within : float
        Objects at a larger distance are no answers. It is compared as float32.
    """
    answer = _nothing(len(queries), k)
    if not shards:
        return answer
    limit = np.float32(within)
    bounds = lower_bounds(
        queries, np.stack([shard.low for shard in shards]), np.stack([shard.high for shard in shards])
    )
    first = bounds.argmin(axis=1)
    holds = [shard.n_rows > 0 for shard in shards]
    for number in range(len(shards)):
        asked = np.flatnonzero((first == number) & holds[number])
        _ask(shards, number, asked, queries, conditions, answer, n_threads, device, limit)
    for number in range(len(shards)):
        reach = np.minimum(answer.distances[:, -1], limit)
        near = (first != number) & (bounds[:, number] <= reach) & holds[number]
        _ask(shards, number, np.flatnonzero(near), queries, conditions, answer, n_threads, device, limit)
        beyond = (first != number) & ~near
        answer.unseen[beyond] = np.minimum(answer.unseen[beyond], bounds[beyond, number])
    return answer


def nearly_nearest(
    shards: Sequence[Shard],
    centroids: np.ndarray,
    shard_of_cell: np.ndarray,
    queries: np.ndarray,
    k: int,
    effort: int,
    conditions: Conditions = ANY,
) -> Neighbours:
    """Find about the k nearest objects to each query with the shards' FAISS indexes.

    Parameters
    ----------
    shards, queries, k, conditions
        As in `nearest`.
    centroids : (c, d) float32 array
        Of the cells of the whole catalogue.
    shard_of_cell : (c,) int array
    effort : int
        Cells to probe per query, or `efSearch` of HNSW graphs, which are asked in every shard.
    """
    answer = _nothing(len(queries), k)
    answer.unseen[:] = np.nan
    place_in_shard = np.zeros(len(centroids), np.int64)
    for number in range(len(shards)):
        own_cells = shard_of_cell == number
        place_in_shard[own_cells] = np.arange(own_cells.sum())
    cells = nearest_cells(queries, centroids, min(effort, len(centroids)))
    for number, shard in enumerate(shards):
        if shard.n_rows == 0:
            continue
        probed = np.where(shard_of_cell[cells] == number, place_in_shard[cells], -1)
        asked = np.flatnonzero((probed >= 0).any(axis=1) | (shard.kind != "ivf-flat"))
        if len(asked):
            distances, rows = _qualified(
                shard, number, queries[asked], k, effort, probed[asked], _of(conditions, asked)
            )
            _merge(shards, number, asked, distances, rows, answer)
            answer.n_shards[asked] += 1
    return answer


def _nothing(q: int, k: int) -> Neighbours:
    return Neighbours(
        np.full((q, k), np.inf, np.float32),
        Places(np.full((q, k), -1, np.int32), np.full((q, k), -1, np.int32)),
        np.full(q, np.inf, np.float32),
        np.zeros(q, np.int64),
        np.zeros(q, np.int64),
    )


def _ask(
    shards: Sequence[Shard],
    number: int,
    asked: np.ndarray,
    queries: np.ndarray,
    conditions: Conditions,
    answer: Neighbours,
    n_threads: int,
    device: str | None,
    limit: np.float32,
) -> None:
    """Ask one shard some of the queries, and merge what it finds into the answer."""
    if len(asked) == 0:
        return
    shard, k = shards[number], answer.distances.shape[1]
    own, allowed, directions, radius_rad = _of(conditions, asked)
    left_out = None if own is None else np.where(own.shards == number, own.rows, -1)
    mask = allowed(number) if allowed else None
    sky = None if directions is None else Sky(shard.directions, directions, radius_rad)
    if device:
        from engine.compute import brute_force  # PyTorch takes seconds to load; nothing else here needs it.

        found = brute_force.search(shard.boxes, queries[asked], k, left_out, mask, sky, device)
        far = found.distances > limit
        found = found._replace(
            distances=np.where(far, np.float32(np.inf), found.distances), rows=np.where(far, -1, found.rows)
        )
    else:
        limits = np.minimum(answer.distances[asked, -1], limit)
        found = boxes.search(shard.boxes, queries[asked], k, limits, left_out, mask, sky, n_threads)
    _merge(shards, number, asked, found.distances, found.rows, answer)
    answer.unseen[asked] = np.minimum(answer.unseen[asked], found.unseen)
    answer.n_compared[asked] += found.n_compared
    answer.n_shards[asked] += 1


def _of(conditions: Conditions, asked: np.ndarray) -> Conditions:
    """Take the conditions of some of the queries."""
    own, allowed, directions, radius_rad = conditions
    return Conditions(
        None if own is None else Places(own.shards[asked], own.rows[asked]),
        allowed,
        None if directions is None else directions[asked],
        radius_rad,
    )


def _qualified(
    shard: Shard,
    number: int,
    queries: np.ndarray,
    k: int,
    effort: int,
    probed: np.ndarray,
    conditions: Conditions,
) -> tuple[np.ndarray, np.ndarray]:
    """Ask a FAISS index for more and more until k of what it finds qualify, or it has no more."""
    wanted = k + (conditions.own is not None)
    while True:
        wanted = min(wanted, shard.n_rows)
        distances, rows = approximate.search(shard.approximate, queries, wanted, effort, probed)
        good = (rows >= 0) & _qualify(shard, number, rows, conditions)
        more = (good.sum(axis=1) < k) & (rows[:, -1] >= 0)
        if wanted == shard.n_rows or not more.any():
            order = np.lexsort((rows, distances, ~good))[:, :k]
            good, distances, rows = (np.take_along_axis(part, order, axis=1) for part in (good, distances, rows))
            return np.where(good, distances, np.float32(np.inf)), np.where(good, rows, -1)
        wanted *= 4


def _qualify(shard: Shard, number: int, rows: np.ndarray, conditions: Conditions) -> np.ndarray:
    """Whether found rows, (q, m), may be answers."""
    own, allowed, directions, radius_rad = conditions
    good = np.ones(rows.shape, bool)
    if own is not None:
        good &= (rows != own.rows[:, np.newaxis]) | (own.shards[:, np.newaxis] != number)
    if allowed and (mask := allowed(number)) is not None:
        good &= mask[rows]
    if directions is not None:
        apart = ((shard.directions[rows] - directions[:, np.newaxis]) ** 2).sum(axis=-1)
        good &= apart > boxes.chord_squared(radius_rad)
    return good


def _merge(
    shards: Sequence[Shard], number: int, asked: np.ndarray, distances: np.ndarray, rows: np.ndarray, answer: Neighbours
) -> None:
    """Merge what one shard found, (a, k') in order, into the answer to the queries that were asked."""
    k = answer.distances.shape[1]
    reaching = np.isfinite(distances[:, 0]) & (distances[:, 0] <= answer.distances[asked, -1])
    if not reaching.any():
        return
    asked, distances, rows = asked[reaching], distances[reaching], rows[reaching]
    all_distances = np.concatenate([answer.distances[asked], distances], axis=1)
    all_shards = np.concatenate([answer.places.shards[asked], np.where(rows < 0, -1, number)], axis=1)
    all_rows = np.concatenate([answer.places.rows[asked], rows], axis=1)
    order = np.argsort(all_distances, axis=1, kind="stable")
    all_distances, all_shards, all_rows = (
        np.take_along_axis(part, order, axis=1) for part in (all_distances, all_shards, all_rows)
    )
    tied = (all_distances[:, 1:] == all_distances[:, :-1]) & (all_shards[:, 1:] != all_shards[:, :-1])
    tied &= np.isfinite(all_distances[:, 1:])
    for at in np.flatnonzero(tied.any(axis=1)):
        _order_by_id(shards, all_distances[at], all_shards[at], all_rows[at])
    answer.distances[asked] = all_distances[:, :k]
    answer.places.shards[asked] = all_shards[:, :k]
    answer.places.rows[asked] = all_rows[:, :k]


def _order_by_id(shards: Sequence[Shard], distances: np.ndarray, numbers: np.ndarray, rows: np.ndarray) -> None:
    """Sort one query's candidates, in place, by distance and then by id, whichever shard they are in."""
    n = int(np.isfinite(distances).sum())
    ids = [shards[number].ids(rows[at : at + 1])[0] for at, number in enumerate(numbers[:n])]
    order = sorted(range(n), key=lambda at: (distances[at], ids[at]))
    numbers[:n], rows[:n] = numbers[order], rows[order]
