from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute import brute_force
from engine.compute.boxes import (
    BLOCK_ROWS,
    GROUP_BLOCKS,
    Sky,
    bounding_box,
    build,
    kd_order,
    lower_bounds,
    of_arrays,
    search,
    vectors_of,
)
from engine.compute.sky import separation_arcsec, unit_vectors


def clustered(n: int, d: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(20, d)) * 3
    return (centres[random.integers(20, size=n)] + random.normal(size=(n, d))).astype(np.float32)


def plain_distances(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    total = np.zeros(len(vectors), np.float32)
    for j in range(vectors.shape[1]):
        total += np.abs(vectors[:, j] - query[j])
    return total


def plain_nearest(vectors: np.ndarray, query: np.ndarray, k: int, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distances = plain_distances(vectors, query)
    order = [row for row in np.lexsort((np.arange(len(vectors)), distances)) if allowed[row]][:k]
    return distances[order], np.array(order)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3 * BLOCK_ROWS),
    d=st.integers(1, 12),
    k=st.integers(1, 40),
    levels=st.sampled_from([2, 5, 10_000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_answers_equal_comparing_everything_to_the_bit_also_among_ties(
    n: int, d: int, k: int, levels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    vectors = (random.integers(levels, size=(n, d)) / np.float32(7)).astype(np.float32)
    queries = (random.integers(levels, size=(5, d)) / np.float32(7)).astype(np.float32)
    allowed = random.random(n) < 0.7
    found = search(build(vectors), queries, k, allowed=allowed)
    for number, query in enumerate(queries):
        distances, rows = plain_nearest(vectors, query, k, allowed)
        m = len(rows)
        assert np.array_equal(found.distances[number, :m], distances)
        assert np.array_equal(found.rows[number, :m], rows)
        assert (found.rows[number, m:] == -1).all()
        assert np.isinf(found.distances[number, m:]).all()


@pytest.mark.parametrize("d", [1, 10, 40])
def test_boxes_and_brute_force_agree_on_many_groups_while_few_vectors_are_compared(d: int) -> None:
    vectors = clustered(3 * GROUP_BLOCKS * BLOCK_ROWS + 17, d, 1)
    queries = clustered(300, d, 2)
    boxes = build(vectors)
    found = search(boxes, queries, 50, n_threads=2)
    compared = brute_force.search(boxes, queries, 50)
    assert np.array_equal(found.distances, compared.distances)
    assert np.array_equal(found.rows, compared.rows)
    assert (found.unseen >= found.distances[:, -1]).all()
    if d == 1:
        assert found.n_compared.mean() < 0.1 * len(vectors)


def test_every_vector_that_was_not_compared_is_as_far_as_the_answer_claims() -> None:
    vectors = clustered(GROUP_BLOCKS * BLOCK_ROWS * 2, 6, 3)
    queries = clustered(20, 6, 4)
    found = search(build(vectors), queries, 5)
    for number, query in enumerate(queries):
        nearer = (plain_distances(vectors, query) < found.unseen[number]).sum()
        assert nearer <= found.n_compared[number]
        assert found.n_compared[number] < len(vectors)


def test_a_limit_keeps_what_lies_exactly_on_it() -> None:
    vectors = np.arange(10, dtype=np.float32)[:, np.newaxis]
    found = search(build(vectors), np.zeros((1, 1), np.float32), 10, limits=np.array([3], np.float32))
    assert found.rows[0].tolist() == [0, 1, 2, 3, -1, -1, -1, -1, -1, -1]


def test_a_distance_that_overflows_is_no_answer() -> None:
    vectors = np.array([[3e38], [-3e38], [2e38]], np.float32)
    found = search(build(vectors), vectors[:1], 3, limits=np.array([np.inf], np.float32))
    assert found.rows[0].tolist() == [0, 2, -1]
    assert np.array_equal(found.rows, brute_force.search(build(vectors), vectors[:1], 3).rows)


def test_what_fills_up_the_last_block_is_not_counted_as_compared() -> None:
    vectors = clustered(BLOCK_ROWS + 5, 2, 10)
    assert search(build(vectors), vectors[:3], len(vectors)).n_compared.tolist() == [len(vectors)] * 3


def test_the_row_left_out_is_no_answer_but_its_duplicates_are() -> None:
    vectors = np.ones((300, 3), np.float32)
    found = search(build(vectors), vectors[:2], 4, left_out=np.array([1, -1]))
    assert found.rows.tolist() == [[0, 2, 3, 4], [0, 1, 2, 3]]


def test_objects_within_the_radius_on_the_sky_are_left_out() -> None:
    random = np.random.default_rng(5)
    ra_deg, dec_deg = random.uniform(0, 360, 500), random.uniform(89, 90, 500)
    vectors = clustered(500, 4, 6)
    directions = unit_vectors(ra_deg, dec_deg)
    radius_arcsec = 900.0
    sky = Sky(directions, directions[:20], np.radians(radius_arcsec / 3600))
    found = search(build(vectors), vectors[:20], 7, sky=sky)
    for number in range(20):
        far = separation_arcsec(ra_deg[number], dec_deg[number], ra_deg, dec_deg) > radius_arcsec
        assert 0 < far.sum() < 500
        assert np.array_equal(found.rows[number], plain_nearest(vectors, vectors[number], 7, far)[1])


@pytest.mark.parametrize("n", [0, 1, BLOCK_ROWS, BLOCK_ROWS * GROUP_BLOCKS + 1])
def test_vectors_come_back_by_row_and_lie_in_the_bounding_box(n: int) -> None:
    vectors = clustered(n, 3, n)
    boxes = build(vectors)
    low, high = bounding_box(boxes)
    assert boxes.n == n
    assert np.array_equal(vectors_of(boxes, np.arange(n)), vectors)
    assert ((vectors >= low) & (vectors <= high)).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 40), scale=st.sampled_from([1e-20, 1.0, 1e20]))
def test_a_lower_bound_is_never_above_a_distance_whatever_the_rounding(seed: int, d: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    vectors = (random.normal(size=(50, d)) * scale).astype(np.float32)
    query = (random.normal(size=(1, d)) * scale * 2).astype(np.float32)
    (bound,) = lower_bounds(query, vectors.min(axis=0)[np.newaxis], vectors.max(axis=0)[np.newaxis])
    assert bound[0] <= plain_distances(vectors, query[0]).min()


def test_a_box_of_nothing_is_infinitely_far() -> None:
    low, high = bounding_box(build(np.empty((0, 2), np.float32)))
    assert np.isinf(lower_bounds(np.zeros((1, 2), np.float32), low[np.newaxis], high[np.newaxis]))


def test_boxes_come_back_from_their_arrays_without_a_copy() -> None:
    for n in (0, 1, BLOCK_ROWS * GROUP_BLOCKS + 1):
        boxes = build(clustered(n, 3, n))
        again = of_arrays(boxes._asdict())
        assert all(one is other for one, other in zip(again, boxes, strict=True))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (
            "blocks",
            lambda array: array[:, :, :-1],
            r"blocks: expected float32 \(3, 4, 128\), found float32 \(3, 4, 127\)",
        ),
        ("blocks", lambda array: array.astype(np.float64), "blocks: expected float32"),
        ("blocks", lambda array: array[0], "expected the arrays blocks"),
        ("rows", lambda array: array[:-1], "rows: expected int32"),
        ("rows", lambda array: array.astype(np.int64), "rows: expected int32"),
        ("rows", lambda array: array + 1, "rows: expected each number below"),
        (
            "rows",
            lambda array: np.where(array == 5, 300, array).astype(np.int32),
            "rows: expected each number below",
        ),
        (
            "rows",
            lambda array: np.where(array == 5, -2, array).astype(np.int32),
            "rows: expected each number below",
        ),
        ("block_low", lambda array: array[:, :, :5], "block_low: expected float32"),
        ("group_high", lambda array: array.T, "group_high: expected float32"),
    ],
)
def test_arrays_that_are_no_boxes_are_refused_before_a_search_reads_beyond_them(
    name: str, change: Callable[[np.ndarray], np.ndarray], message: str
) -> None:
    arrays = build(clustered(300, 4, 7))._asdict()
    with pytest.raises(ValueError, match=message):
        of_arrays(arrays | {name: change(arrays[name])})


def test_missing_and_further_arrays_are_refused() -> None:
    arrays = build(clustered(300, 4, 7))._asdict()
    for others in ({"extra": np.zeros(1)} | arrays, {name: arrays[name] for name in ("blocks", "rows")}, {}):
        with pytest.raises(ValueError, match="expected the arrays blocks, rows, block_low"):
            of_arrays(others)


def test_queries_of_another_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match="expected queries of 3 components, found 2"):
        search(build(np.ones((5, 3), np.float32)), np.ones((1, 2), np.float32), 1)


def test_no_argument_is_written_into() -> None:
    vectors, queries = clustered(500, 4, 8), clustered(30, 4, 9)
    kept = vectors.copy(), queries.copy()
    search(build(vectors), queries, 3)
    assert np.array_equal(vectors, kept[0])
    assert np.array_equal(queries, kept[1])


@settings(max_examples=30, deadline=None)
@given(n=st.integers(0, 1000), leaf=st.integers(1, 200), seed=st.integers(0, 1000))
def test_a_kd_order_is_a_permutation(n: int, leaf: int, seed: int) -> None:
    vectors = clustered(n, 3, seed)
    assert np.array_equal(np.sort(kd_order(vectors, leaf)), np.arange(n))


def test_runs_of_a_kd_order_lie_close_together() -> None:
    vectors = np.random.default_rng(0).uniform(size=(4096, 2)).astype(np.float32)
    runs = vectors[kd_order(vectors, 64)].reshape(64, 64, 2)
    assert np.ptp(runs, axis=1).max() < 0.3
