"""Exact L1 search that compares few objects: blocks of near vectors, each in a box that bounds its distance from below.

    shard -> groups of 32 blocks, each with its box -> blocks of 128 vectors, each with its box -> vectors

A box's smallest |q - x|, added up over the components in the same order as distances are, is never above the distance
of a vector in it, rounding included: float32 subtraction and addition are monotone. So what is skipped because its
bound exceeds the k-th distance cannot be an answer, and answers equal those of comparing everything, bit for bit.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba
import numpy as np

BLOCK_ROWS = 128
GROUP_BLOCKS = 32
_QUERIES_PER_TASK = 256
_TILE_QUERIES = 32
"""Queries that go through the groups together: what one reads is in the cache for the next."""
_ZERO = np.float32(0)
_FARTHEST = np.finfo(np.float32).max
"""A distance that overflows is no answer."""
_NO_ROW = np.int32(2**31 - 1)
"""Sorts behind every row."""


class Boxes(NamedTuple):
    """The vectors of one shard, arranged for searching. Rows number the shard's objects from 0."""

    blocks: np.ndarray
    """(b, d, 128) float32: vectors side by side, dimension by dimension."""
    rows: np.ndarray
    """(b, 128) int32: the row of each vector; -1 where the last block is filled up."""
    block_low: np.ndarray
    """(g, d, 32) float32: the smallest value in each block of a group; inf where a group is filled up."""
    block_high: np.ndarray
    """(g, d, 32) float32: the largest value; inf where a group is filled up."""
    group_low: np.ndarray
    """(d, g) float32: the smallest value in each group."""
    group_high: np.ndarray
    """(d, g) float32."""

    @property
    def n(self) -> int:
        """Number of vectors."""
        return int((self.rows[-1] >= 0).sum()) + BLOCK_ROWS * (len(self.rows) - 1) if len(self.rows) else 0

    @property
    def dimension(self) -> int:
        """Components of a vector."""
        return int(self.blocks.shape[1])


class Found(NamedTuple):
    """What one shard answers to q queries."""

    distances: np.ndarray
    """(q, k) float32, ascending; inf where the shard has fewer objects that qualify."""
    rows: np.ndarray
    """(q, k) int32 rows of the shard; equal distances in order of row; -1 where the distance is inf."""
    unseen: np.ndarray
    """(q,) float32: no vector that was not compared is nearer than this; inf where all were compared."""
    n_compared: np.ndarray
    """(q,) int64: vectors whose distance was computed."""


class Sky(NamedTuple):
    """Directions on the sky, to leave out of an answer what lies within a radius of its query."""

    objects: np.ndarray
    """(n, 3) float64 unit vectors of a shard's rows."""
    queries: np.ndarray
    """(q, 3) float64."""
    radius_rad: float
    """In (0, pi]."""


def build(vectors: np.ndarray) -> Boxes:
    """Arrange vectors, (n, d) float32 and finite with n >= 0, into boxes. Row i is vector i."""
    n, d = vectors.shape
    n_blocks = -(-n // BLOCK_ROWS)
    n_groups = -(-n_blocks // GROUP_BLOCKS)
    order = kd_order(vectors, BLOCK_ROWS)
    rows = np.full(n_blocks * BLOCK_ROWS, -1, np.int32)
    rows[:n] = order
    filled = np.pad(order, (0, len(rows) - n), mode="edge") if n else order
    blocks = np.ascontiguousarray(vectors[filled].reshape(n_blocks, BLOCK_ROWS, d).swapaxes(1, 2))
    low = np.full((n_groups * GROUP_BLOCKS, d), np.inf, np.float32)
    high = low.copy()
    low[:n_blocks], high[:n_blocks] = blocks.min(axis=2), blocks.max(axis=2)
    low, high = (side.reshape(n_groups, GROUP_BLOCKS, d) for side in (low, high))
    group_low, group_high = low.min(axis=1), np.where(np.isinf(high), -np.inf, high).max(axis=1)
    return Boxes(
        blocks,
        rows.reshape(n_blocks, BLOCK_ROWS),
        *(np.ascontiguousarray(side.swapaxes(1, 2)) for side in (low, high)),
        *(np.ascontiguousarray(side.T, dtype=np.float32) for side in (group_low, group_high)),
    )


def bytes_per_vector(dimension: int) -> int:
    """What one vector takes in boxes, rounded up: its components, its row, its share of the bounds."""
    return 4 * dimension + 4 + -(-8 * dimension // BLOCK_ROWS)


def of_arrays(arrays: dict[str, np.ndarray]) -> Boxes:
    """Return boxes from their fields by name, without a copy.

    Raises
    ------
    ValueError
        Names, types, shapes or rows are not those of boxes: a search would look at memory that is not theirs.
    """
    if arrays.keys() != set(Boxes._fields) or arrays["blocks"].ndim != 3:
        raise ValueError(f"expected the arrays {', '.join(Boxes._fields)}, found {', '.join(sorted(arrays))}")
    made = Boxes(**arrays)
    n_blocks, d, _ = made.blocks.shape
    n_groups = -(-n_blocks // GROUP_BLOCKS)
    bounds, outer_bounds = (n_groups, d, GROUP_BLOCKS), (d, n_groups)
    shapes = (n_blocks, d, BLOCK_ROWS), (n_blocks, BLOCK_ROWS), bounds, bounds, outer_bounds, outer_bounds
    for name, array, shape in zip(Boxes._fields, made, shapes, strict=True):
        dtype = np.int32 if name == "rows" else np.float32
        if array.dtype != dtype or array.shape != shape:
            raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")
    rows, filling = np.split(made.rows.ravel(), [made.n])
    known = rows[(rows >= 0) & (rows < made.n)]
    if (filling != -1).any() or (np.bincount(known, minlength=made.n) != 1).any():
        raise ValueError(f"rows: expected each number below {made.n} once, then -1 where the last block is filled up")
    return made


def bounding_box(boxes: Boxes) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each component over all vectors, two (d,) float32; (inf, -inf) for no vectors."""
    d = boxes.dimension
    return (
        boxes.group_low.min(axis=1, initial=np.inf).reshape(d),
        boxes.group_high.max(axis=1, initial=-np.inf).reshape(d),
    )


def lower_bounds(queries: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bound the L1 distance of each query to what a box holds, from below.

    Parameters
    ----------
    queries : (q, d) float32 array
    low, high : (s, d) float32 arrays
        Of s boxes; those with low = inf and high = -inf hold nothing.

    Returns
    -------
    (q, s) float32 array
        0 inside a box; inf for a box that holds nothing.
    """
    bounds = np.zeros((len(queries), len(low)), np.float32)
    for j in range(queries.shape[1]):
        value = queries[:, j, np.newaxis]
        bounds += np.maximum(np.maximum(low[:, j] - value, value - high[:, j]), _ZERO)
    return bounds


def slots_of(boxes: Boxes) -> np.ndarray:
    """Where each row's vector lies, (n,) int32: 128 times its block, plus its place there."""
    slots = np.empty(boxes.rows.size, np.int32)
    flat = boxes.rows.ravel()
    slots[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
    return slots[: boxes.n]


def vectors_of(boxes: Boxes, rows: np.ndarray, slots: np.ndarray | None = None) -> np.ndarray:
    """Take vectors back out by row: (m,) integers in [0, n) to (m, d) float32.

    With `slots_of` the boxes, which takes time in proportion to n, time is in proportion to m.
    """
    blocks, places = np.divmod((slots_of(boxes) if slots is None else slots)[rows], BLOCK_ROWS)
    return boxes.blocks[blocks, :, places]


def search(
    boxes: Boxes,
    queries: np.ndarray,
    k: int,
    limits: np.ndarray | None = None,
    left_out: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
    sky: Sky | None = None,
    n_threads: int = 1,
) -> Found:
    """Find the k nearest vectors of a shard to each query under L1, exactly.

    Parameters
    ----------
    boxes : Boxes
    queries : (q, d) float32 array
        Finite.
    k : int
        At least 1.
    limits : (q,) float32 array, optional
        Only vectors at this distance or nearer are wanted.
    left_out : (q,) int array, optional
        A row that is no answer to its query; -1 for none.
    allowed : (n,) bool array, optional
        Rows that may be answers.
    sky : Sky, optional
        Rows within its radius of the query are no answers.
    n_threads : int
        Threads that share the queries.

    Returns
    -------
    Found
        A distance is the float32 sum of |q - x| over the components in their order.

    Raises
    ------
    ValueError
        Queries and vectors differ in dimension.
    """
    q, found = len(queries), nothing_found(boxes, queries, k)
    order = kd_order(queries, GROUP_BLOCKS)  # Neighbouring queries look at the same blocks, which stay in the cache.
    arguments = (
        np.ascontiguousarray(queries, np.float32),
        np.full(q, _FARTHEST) if limits is None else np.minimum(limits, _FARTHEST, dtype=np.float32),
        np.full(q, -1, np.int32) if left_out is None else np.ascontiguousarray(left_out, np.int32),
        np.empty(0, np.bool_) if allowed is None else np.ascontiguousarray(allowed, np.bool_),
        np.empty((0, 3)) if sky is None else sky.objects,
        np.empty((0, 3)) if sky is None else sky.queries,
        chord_squared(sky.radius_rad) if sky else -1.0,
    )

    def run(part: np.ndarray) -> None:
        _search(part, *boxes, *arguments, *found)

    if n_threads == 1 or q <= _QUERIES_PER_TASK:
        run(order)
    else:
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(run, _pieces(order)))
    return found


def chord_squared(radius_rad: float) -> float:
    """Square of the chord between unit vectors that are `radius_rad` apart, which is in [0, pi]."""
    return float(4 * np.sin(radius_rad / 2) ** 2)


def nothing_found(boxes: Boxes, queries: np.ndarray, k: int) -> Found:
    """Make room for the answers to queries; it says that there are none.

    Raises
    ------
    ValueError
        Queries and vectors differ in dimension.
    """
    q, d = queries.shape
    if d != boxes.dimension:
        raise ValueError(f"expected queries of {boxes.dimension} components, found {d}")
    return Found(
        np.full((q, k), np.inf, np.float32),
        np.full((q, k), -1, np.int32),
        np.full(q, np.inf, np.float32),
        np.zeros(q, np.int64),
    )


def kd_order(vectors: np.ndarray, leaf: int) -> np.ndarray:
    """Order vectors, (n, d) float32, so that every run of `leaf` of them lies close together: (n,) int64.

    Halves, at multiples of `leaf`, along the component that varies most, until a part is no larger than `leaf`.
    """
    order = np.arange(len(vectors))
    _kd_sort(np.ascontiguousarray(vectors, np.float32), order, leaf)
    return order


def _pieces(order: np.ndarray) -> Iterator[np.ndarray]:
    return (order[start : start + _QUERIES_PER_TASK] for start in range(0, len(order), _QUERIES_PER_TASK))


@numba.njit(cache=True, nogil=True)
def _kd_sort(vectors, order, leaf):  # type: ignore[no-untyped-def]
    parts = [(0, len(order))]
    while parts:
        start, stop = parts.pop()
        n = stop - start
        if n <= leaf:
            continue
        most, axis = -1.0, 0
        for j in range(vectors.shape[1]):
            total, squares = 0.0, 0.0
            shift = np.float64(vectors[order[start], j])
            for i in range(start, stop):
                value = vectors[order[i], j] - shift
                total += value
                squares += value * value
            variance = squares / n - (total / n) ** 2
            if variance > most:
                most, axis = variance, j
        values = np.empty(n, np.float32)
        for i in range(n):
            values[i] = vectors[order[start + i], axis]
        order[start:stop] = order[start:stop][np.argsort(values, kind="mergesort")]
        middle = start + (n + leaf - 1) // leaf // 2 * leaf
        parts.append((middle, stop))
        parts.append((start, middle))


@numba.njit(inline="always")
def _bound(query, low, high, bounds):  # type: ignore[no-untyped-def]
    """Lower bounds of the distances to m boxes, (d, m) low and high."""
    d, m = low.shape
    for i in range(m):
        bounds[i] = _ZERO
    for j in range(d):
        value = query[j]
        for i in range(m):
            below, above = low[j, i] - value, value - high[j, i]
            outside = below if below > above else above
            bounds[i] += outside if outside > _ZERO else _ZERO


@numba.njit(inline="always")
def _compare(query, block, limit, distances):  # type: ignore[no-untyped-def]
    """Distances to the vectors of a block, (d, m); returns how many are within the limit."""
    d, m = block.shape
    for i in range(m):
        distances[i] = abs(block[0, i] - query[0])
    for j in range(1, d):
        value = query[j]
        for i in range(m):
            distances[i] += abs(block[j, i] - value)
    n = 0
    for i in range(m):
        n += distances[i] <= limit
    return n


@numba.njit(inline="always")
def _replace_worst(distances, rows, distance, row):  # type: ignore[no-untyped-def]
    """Put a pair in place of the largest of a max-heap of (distance, row)."""
    k, at = len(distances), 0
    while True:
        child = 2 * at + 1
        if child >= k:
            break
        if child + 1 < k and (
            distances[child + 1] > distances[child]
            or (distances[child + 1] == distances[child] and rows[child + 1] > rows[child])
        ):
            child += 1
        if distances[child] < distance or (distances[child] == distance and rows[child] < row):
            break
        distances[at], rows[at] = distances[child], rows[child]
        at = child
    distances[at], rows[at] = distance, row


@numba.njit(inline="always")
def _visit(  # type: ignore[no-untyped-def]
    number, group, blocks, rows, block_low, block_high,
    queries, left_out, allowed, directions, query_directions, chord,
    heap, heap_rows, bounds, distances,
):  # fmt: skip
    """Put what a group has to offer to a query into its heap.

    Returns the smallest bound of the blocks that were skipped, and how many vectors were compared.
    """
    query, unseen, n_compared = queries[number], np.float32(np.inf), 0
    _bound(query, block_low[group], block_high[group], bounds)
    # To begin with the nearest block pays while there is no distance to beat; later the order hardly matters.
    first = np.argmin(bounds) if heap_rows[0] == _NO_ROW else 0
    for step in range(GROUP_BLOCKS):
        place = (first + step) % GROUP_BLOCKS
        if bounds[place] > heap[0] or bounds[place] == np.inf:
            unseen = min(unseen, bounds[place])
            continue
        block = group * GROUP_BLOCKS + place
        n_compared += BLOCK_ROWS if block < len(blocks) - 1 else (rows[block] >= 0).sum()
        limit = heap[0]
        left, i = _compare(query, blocks[block], limit, distances), -1
        while left > 0:
            i += 1
            distance, row = distances[i], rows[block, i]
            if distance > limit:
                continue
            left -= 1
            if distance > heap[0] or row < 0 or row == left_out[number]:
                continue
            if distance == heap[0] and row > heap_rows[0]:
                continue
            if len(allowed) and not allowed[row]:
                continue
            if chord >= 0:
                apart = 0.0
                for j in range(3):
                    apart += (directions[row, j] - query_directions[number, j]) ** 2
                if apart <= chord:
                    continue
            _replace_worst(heap, heap_rows, distance, row)
    return unseen, n_compared


@numba.njit(cache=True, nogil=True)
def _search(  # type: ignore[no-untyped-def]
    order, blocks, rows, block_low, block_high, group_low, group_high,
    queries, limits, left_out, allowed, directions, query_directions, chord,
    out_distances, out_rows, out_unseen, out_compared,
):  # fmt: skip
    """Answer the queries numbered in `order`, some neighbouring ones together.

    Each visits its nearest group; then all of them go through the groups that are still within reach of any, by rising
    lower bound. A heap starts full of pairs at the limit, so that its worst is the distance to beat all along.
    """
    k, n_groups = out_distances.shape[1], len(block_low)
    group_bounds, least = np.empty((_TILE_QUERIES, n_groups), np.float32), np.empty(n_groups, np.float32)
    block_bounds, distances = np.empty(GROUP_BLOCKS, np.float32), np.empty(BLOCK_ROWS, np.float32)
    heaps, heap_rows = np.empty((_TILE_QUERIES, k), np.float32), np.empty((_TILE_QUERIES, k), np.int32)
    for start in range(0, len(order), _TILE_QUERIES):
        tile = order[start : start + _TILE_QUERIES]
        heap_rows[:] = _NO_ROW
        least[:] = np.inf
        for t, number in enumerate(tile):
            heaps[t] = limits[number]
            out_unseen[number], out_compared[number] = np.inf, 0
            if n_groups == 0:
                continue
            _bound(queries[number], group_low, group_high, group_bounds[t])
            nearest = np.argmin(group_bounds[t])
            if group_bounds[t, nearest] <= heaps[t, 0]:
                out_unseen[number], out_compared[number] = _visit(
                    number, nearest, blocks, rows, block_low, block_high,
                    queries, left_out, allowed, directions, query_directions, chord,
                    heaps[t], heap_rows[t], block_bounds, distances,
                )  # fmt: skip
                group_bounds[t, nearest] = np.inf
            for group in range(n_groups):
                if group_bounds[t, group] <= heaps[t, 0]:
                    least[group] = min(least[group], group_bounds[t, group])
                else:
                    out_unseen[number] = min(out_unseen[number], group_bounds[t, group])
        near = np.flatnonzero(least < np.inf)
        for group in near[np.argsort(least[near])]:
            for t, number in enumerate(tile):
                if group_bounds[t, group] > heaps[t, 0]:
                    out_unseen[number] = min(out_unseen[number], group_bounds[t, group])
                    continue
                unseen, n_compared = _visit(
                    number, group, blocks, rows, block_low, block_high,
                    queries, left_out, allowed, directions, query_directions, chord,
                    heaps[t], heap_rows[t], block_bounds, distances,
                )  # fmt: skip
                out_unseen[number] = min(out_unseen[number], unseen)
                out_compared[number] += n_compared
        for t, number in enumerate(tile):
            for at in range(k - 1, -1, -1):  # A heap is emptied from its worst.
                distance, row = heaps[t, 0], heap_rows[t, 0]
                _replace_worst(heaps[t], heap_rows[t], np.float32(-1), np.int32(-1))
                if row != _NO_ROW:
                    out_distances[number, at], out_rows[number, at] = distance, row
