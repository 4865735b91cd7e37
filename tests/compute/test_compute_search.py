"""Neighbours over shards: exact ones as if there were none, to the bit; approximate ones that break no condition."""

from functools import cached_property

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute import approximate, boxes
from engine.compute.boxes import Boxes
from engine.compute.quantiser import nearest_cells, share_out, train
from engine.compute.search import ANY, Conditions, Neighbours, Places, nearest, nearly_nearest
from engine.compute.sky import separation_arcsec, unit_vectors
from schemas.index import IndexKind

KINDS: list[IndexKind] = ["flat", "ivf-flat", "hnsw-flat"]


class Shard:
    """A shard in memory, its objects in order of id."""

    def __init__(self, vectors: np.ndarray, ids: np.ndarray, kind: IndexKind, centroids: np.ndarray) -> None:
        self.n_rows, self.kind = len(ids), kind
        self.low, self.high = vectors.min(axis=0, initial=np.inf), vectors.max(axis=0, initial=-np.inf)
        self.directions = np.empty((0, 3))
        self._vectors, self._ids, self._centroids = vectors, ids, centroids

    @cached_property
    def boxes(self) -> Boxes:
        return boxes.build(self._vectors)

    @cached_property
    def approximate(self) -> faiss.Index:
        return approximate.build(self._vectors, self.kind, self._centroids)

    def ids(self, rows: np.ndarray) -> list:
        return self._ids[rows].tolist()


class Closed(Shard):
    """A shard whose files nobody may open."""

    @property
    def boxes(self) -> Boxes:
        raise AssertionError("opened")

    @property
    def approximate(self) -> faiss.Index:
        raise AssertionError("opened")


class Catalogue:
    """Objects with ids, the shards that they were put into, and the answers of comparing everything."""

    def __init__(
        self,
        vectors: np.ndarray,
        ids: np.ndarray,
        shard_of: np.ndarray,
        n_shards: int,
        kind: IndexKind = "flat",
        centroids: np.ndarray | None = None,
        shard_of_cell: np.ndarray | None = None,
    ) -> None:
        self.vectors, self.ids, self.kind = vectors, ids, kind
        self.centroids = vectors[:1] if centroids is None else centroids
        self.shard_of_cell = np.zeros(len(self.centroids), np.int32) if shard_of_cell is None else shard_of_cell
        self.shards, self.members = [], []
        self.places = Places(np.full(len(ids), -1, np.int32), np.full(len(ids), -1, np.int32))
        for number in range(n_shards):
            at = np.flatnonzero(shard_of == number)
            at = at[np.argsort(ids[at], kind="stable")]
            self.shards.append(Shard(vectors[at], ids[at], kind, self.centroids[self.shard_of_cell == number]))
            self.members.append(at)
            self.places.shards[at], self.places.rows[at] = number, np.arange(len(at))

    def place(self, ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
        """Put the objects on the sky; return their directions."""
        directions = unit_vectors(ra_deg, dec_deg)
        for shard, at in zip(self.shards, self.members, strict=True):
            shard.directions = directions[at]
        return directions

    def own(self, objects: np.ndarray) -> Places:
        return Places(self.places.shards[objects], self.places.rows[objects])

    def allowing(self, mask: np.ndarray) -> Conditions:
        return Conditions(allowed=lambda number: mask[self.members[number]])

    def found(self, answer: Neighbours) -> list[list[tuple[float, object]]]:
        """Each query's (distance, id)s; the places behind them must be empty."""
        listed = []
        for distances, numbers, rows in zip(answer.distances, *answer.places, strict=True):
            n = int(np.isfinite(distances).sum())
            assert (numbers[n:] == -1).all()
            assert (rows[n:] == -1).all()
            assert np.isinf(distances[n:]).all()
            ids = [self.shards[number].ids(rows[at : at + 1])[0] for at, number in enumerate(numbers[:n])]
            listed.append(list(zip(distances[:n].tolist(), ids, strict=True)))
        return listed

    def distances(self, query: np.ndarray) -> np.ndarray:
        total = np.zeros(len(self.vectors), np.float32)
        for j in range(self.vectors.shape[1]):
            total += np.abs(self.vectors[:, j] - query[j])
        return total

    def compared(self, queries: np.ndarray, k: int, qualify: np.ndarray | None = None) -> list:
        """What comparing everything finds; `qualify` is (q, n) bool."""
        listed = []
        for number, query in enumerate(queries):
            distances = self.distances(query)
            good = range(len(self.ids)) if qualify is None else np.flatnonzero(qualify[number])
            listed.append(sorted((float(distances[at]), self.ids[at]) for at in good)[:k])
        return listed


def few_valued(random: np.random.Generator, n: int, d: int, levels: int) -> np.ndarray:
    """Vectors of few values: most distances are shared, and sevenths do not add up exactly."""
    return (random.integers(levels, size=(n, d)) / np.float32(7)).astype(np.float32)


def clustered(random: np.random.Generator, n: int, d: int) -> np.ndarray:
    centres = random.normal(size=(8, d)) * 5
    return (centres[random.integers(8, size=n)] + random.normal(size=(n, d))).astype(np.float32)


def some_ids(random: np.random.Generator, n: int, text: bool) -> np.ndarray:
    """Ids in no order; as text they sort otherwise than as numbers, and beyond ASCII."""
    numbers = random.permutation(3 * n)[:n]
    return np.array([f"{'é' * (number % 2)}{number}" for number in numbers], object) if text else numbers


def in_cells(
    vectors: np.ndarray, ids: np.ndarray, n_cells: int, n_shards: int, kind: IndexKind = "ivf-flat"
) -> Catalogue:
    """Shard a catalogue as the index does: cells, shared out."""
    centroids = train(vectors, min(n_cells, len(vectors)))
    cells = nearest_cells(vectors, centroids, 1)[:, 0]
    shard_of_cell = share_out(centroids, np.bincount(cells, minlength=len(centroids)), n_shards)
    return Catalogue(vectors, ids, shard_of_cell[cells], n_shards, kind, centroids, shard_of_cell)


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Catalogue, np.random.Generator]:
    """A catalogue in shards of any shape, some of them empty: by cells, or anyhow."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, d = draw(st.integers(1, 200)), draw(st.integers(1, 8))
    vectors = few_valued(random, n, d, draw(st.sampled_from([1, 2, 4, 10_000])))
    ids, n_shards = some_ids(random, n, draw(st.booleans())), draw(st.integers(1, 6))
    if draw(st.booleans()):
        return in_cells(vectors, ids, draw(st.integers(1, 12)), n_shards), random
    return Catalogue(vectors, ids, random.integers(n_shards, size=n), n_shards), random


def queries_of(catalogue: Catalogue, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of four objects, and their vectors."""
    objects = random.integers(len(catalogue.ids), size=4)
    return objects, catalogue.vectors[objects]


def assert_exact(catalogue: Catalogue, answer: Neighbours, expected: list) -> None:
    assert catalogue.found(answer) == expected
    assert (answer.unseen >= answer.distances[:, -1]).all()


any_k = st.integers(1, 250)
quick = settings(deadline=None, max_examples=60)


@quick
@given(catalogues(), any_k)
def test_shards_do_not_show_and_ties_come_in_order_of_id_to_the_bit(
    made: tuple[Catalogue, np.random.Generator], k: int
) -> None:
    catalogue, random = made
    queries = np.vstack([queries_of(catalogue, random)[1], few_valued(random, 3, catalogue.vectors.shape[1], 5)])
    expected = catalogue.compared(queries, k)
    assert_exact(catalogue, nearest(catalogue.shards, queries, k), expected)
    whole = Catalogue(catalogue.vectors, catalogue.ids, np.zeros(len(catalogue.ids), int), 1)
    assert_exact(whole, nearest(whole.shards, queries, k), expected)
    assert_exact(catalogue, nearest(catalogue.shards, queries, k, device="cpu"), expected)


@quick
@given(catalogues(), any_k)
def test_an_object_is_no_neighbour_of_itself_but_its_duplicates_are(
    made: tuple[Catalogue, np.random.Generator], k: int
) -> None:
    catalogue, random = made
    objects, queries = queries_of(catalogue, random)
    others = np.arange(len(catalogue.ids)) != objects[:, np.newaxis]
    answer = nearest(catalogue.shards, queries, k, Conditions(own=catalogue.own(objects)))
    assert_exact(catalogue, answer, catalogue.compared(queries, k, others))


@quick
@given(catalogues(), any_k, st.sampled_from([0.0, 0.1, 0.9]))
def test_objects_that_are_not_allowed_are_no_answers(
    made: tuple[Catalogue, np.random.Generator], k: int, share: float
) -> None:
    catalogue, random = made
    _, queries = queries_of(catalogue, random)
    mask = random.random(len(catalogue.ids)) < share
    expected = catalogue.compared(queries, k, np.tile(mask, (len(queries), 1)))
    assert_exact(catalogue, nearest(catalogue.shards, queries, k, catalogue.allowing(mask)), expected)


def test_a_shard_without_a_mask_is_allowed_as_a_whole() -> None:
    vectors = np.arange(6, dtype=np.float32)[:, np.newaxis]
    catalogue = Catalogue(vectors, np.arange(6), np.arange(6) % 2, 2)
    conditions = Conditions(allowed=lambda number: None if number == 0 else np.zeros(3, bool))
    answer = nearest(catalogue.shards, vectors[:1], 6, conditions)
    assert catalogue.found(answer) == [[(0, 0), (2, 2), (4, 4)]]


@quick
@given(catalogues(), any_k, st.sampled_from([1e-3, 0.3, 60.0, 180.0]))
def test_objects_within_the_radius_on_the_sky_are_no_answers_across_zero_and_at_the_pole(
    made: tuple[Catalogue, np.random.Generator], k: int, radius_deg: float
) -> None:
    catalogue, random = made
    objects, queries = queries_of(catalogue, random)
    n = len(catalogue.ids)
    ra_deg, dec_deg = random.uniform(-0.5, 0.5, n) % 360, np.where(random.random(n) < 0.5, 0, random.uniform(89, 90, n))
    directions = catalogue.place(ra_deg, dec_deg)[objects]
    far = [separation_arcsec(ra_deg[at], dec_deg[at], ra_deg, dec_deg) > 3600 * radius_deg for at in objects]
    conditions = Conditions(catalogue.own(objects), None, directions, np.radians(radius_deg))
    answer = nearest(catalogue.shards, queries, k, conditions)
    assert_exact(catalogue, answer, catalogue.compared(queries, k, np.array(far)))
    answer = nearest(catalogue.shards, queries, k, conditions, device="cpu")
    assert_exact(catalogue, answer, catalogue.compared(queries, k, np.array(far)))


def test_distances_are_sums_of_absolute_differences() -> None:
    catalogue = Catalogue(
        np.array([[0, 0], [3, 4], [-1, 1], [10, 10]], np.float32), np.array([7, 5, 3, 1]), np.array([0, 1, 0, 1]), 2
    )
    answer = nearest(catalogue.shards, np.zeros((1, 2), np.float32), 4)
    assert catalogue.found(answer) == [[(0, 7), (2, 3), (7, 5), (20, 1)]]


@pytest.mark.parametrize("text", [False, True])
def test_one_vector_that_many_objects_share_is_answered_by_id_over_all_shards(text: bool) -> None:
    random = np.random.default_rng(0)
    ids = some_ids(random, 1000, text)
    catalogue = Catalogue(np.ones((1000, 3), np.float32), ids, random.integers(5, size=1000), 5)
    answer = nearest(catalogue.shards, np.zeros((1, 3), np.float32), 40)
    assert catalogue.found(answer) == [[(3, value) for value in sorted(ids)[:40]]]


def test_no_shards_empty_shards_and_no_queries_give_no_neighbours() -> None:
    empty = Catalogue(np.empty((0, 3), np.float32), np.empty(0, int), np.empty(0, int), 2, "ivf-flat", np.ones((1, 3)))
    queries = np.ones((2, 3), np.float32)
    for shards in ([], empty.shards):
        answer = nearest(shards, queries, 4)
        assert empty.found(answer) == [[], []]
        assert (answer.unseen == np.inf).all()
        assert (answer.n_compared == 0).all()
        assert (answer.n_shards == 0).all()
    assert nearest(empty.shards, queries[:0], 4).distances.shape == (0, 4)
    cells = empty.centroids.astype(np.float32), empty.shard_of_cell
    assert empty.found(nearly_nearest(empty.shards, *cells, queries, 4, 1)) == [[], []]


def test_one_object_is_the_neighbour_of_any_query_but_its_own() -> None:
    catalogue = Catalogue(np.ones((1, 2), np.float32), np.array(["M31"], object), np.array([2]), 4)
    query = np.zeros((1, 2), np.float32)
    assert catalogue.found(nearest(catalogue.shards, query, 3)) == [[(2, "M31")]]
    own = Conditions(own=catalogue.own(np.array([0])))
    assert catalogue.found(nearest(catalogue.shards, catalogue.vectors, 3, own)) == [[]]


@quick
@given(catalogues(), st.integers(1, 20))
def test_every_object_nearer_than_what_was_not_seen_was_compared(
    made: tuple[Catalogue, np.random.Generator], k: int
) -> None:
    catalogue, random = made
    queries = few_valued(random, 5, catalogue.vectors.shape[1], 9)
    answer = nearest(catalogue.shards, queries, k)
    for number, query in enumerate(queries):
        assert (catalogue.distances(query) < answer.unseen[number]).sum() <= answer.n_compared[number]
    everything = answer.n_compared == len(catalogue.ids)
    np.testing.assert_array_equal(np.isinf(answer.unseen), everything)


def test_the_bound_counts_shards_that_were_not_asked_and_blocks_that_were_skipped() -> None:
    random = np.random.default_rng(1)
    vectors = random.uniform(size=(20_000, 2)).astype(np.float32)
    catalogue = in_cells(vectors, np.arange(20_000), 64, 6)
    queries = vectors[::500]
    answer = nearest(catalogue.shards, queries, 10)
    assert answer.n_compared.mean() < 2_000
    assert answer.n_shards.mean() < 2
    for number, query in enumerate(queries):
        distances = np.sort(catalogue.distances(query))
        assert answer.distances[number, -1] <= answer.unseen[number] <= distances[answer.n_compared[number]]


def test_a_shard_that_cannot_matter_is_never_opened() -> None:
    near, far = np.zeros((5, 2), np.float32), np.full((5, 2), 100, np.float32)
    shards = [Closed(far, np.arange(5), "flat", far[:1]), Shard(near, np.arange(5, 10), "flat", near[:1])]
    answer = nearest(shards, np.zeros((1, 2), np.float32), 5)
    assert answer.places.shards.tolist() == [[1] * 5]
    assert answer.unseen.tolist() == [200]
    assert answer.n_shards.tolist() == [1]
    with pytest.raises(AssertionError, match="opened"):
        nearest(shards, np.zeros((1, 2), np.float32), 6)


def test_a_shard_that_reaches_just_to_the_last_distance_is_asked_because_its_ids_may_be_smaller() -> None:
    near, edge = np.array([[0], [3]], np.float32), np.array([[-3]], np.float32)
    shards = [Shard(near, np.array([8, 9]), "flat", near[:1]), Shard(edge, np.array([1]), "flat", edge)]
    answer = nearest(shards, np.zeros((1, 1), np.float32), 2)
    assert answer.places.shards.tolist() == [[0, 1]]


def test_threads_and_the_other_queries_do_not_change_an_answer() -> None:
    random = np.random.default_rng(2)
    catalogue = in_cells(clustered(random, 3000, 5), np.arange(3000), 20, 4)
    queries = clustered(random, 700, 5)
    answer = nearest(catalogue.shards, queries, 7)
    threaded = nearest(catalogue.shards, queries, 7, n_threads=3)
    alone = nearest(catalogue.shards, queries[300:301], 7)
    np.testing.assert_array_equal(threaded.distances, answer.distances)
    np.testing.assert_array_equal(threaded.places, answer.places)
    np.testing.assert_array_equal(alone.distances[0], answer.distances[300])
    np.testing.assert_array_equal(np.array(alone.places)[:, 0], np.array(answer.places)[:, 300])


def test_no_argument_is_written_into() -> None:
    random = np.random.default_rng(3)
    catalogue = in_cells(clustered(random, 300, 3), np.arange(300), 4, 2)
    objects = np.arange(5)
    given = (catalogue.vectors[:5].copy(), *catalogue.own(objects), catalogue.centroids, catalogue.shard_of_cell)
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    conditions = Conditions(own=Places(given[1], given[2]))
    nearest(catalogue.shards, given[0], 3, conditions)
    nearly_nearest(catalogue.shards, given[3], given[4], given[0], 3, 2, conditions)
    for array, kept in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, kept)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), n=st.integers(1, 400), n_shards=st.integers(1, 4), k=st.integers(1, 60))
def test_approximate_search_finds_everything_where_all_cells_are_probed(
    kind: IndexKind, seed: int, n: int, n_shards: int, k: int
) -> None:
    random = np.random.default_rng(seed)
    catalogue = in_cells(clustered(random, n, 4), some_ids(random, n, False), 9, n_shards, kind)
    queries = clustered(random, 5, 4)
    effort = 400 if kind == "hnsw-flat" else len(catalogue.centroids)
    cells = catalogue.centroids, catalogue.shard_of_cell
    answer = nearly_nearest(catalogue.shards, *cells, queries, k, effort)
    exact = nearest(catalogue.shards, queries, k)
    if kind != "hnsw-flat":
        np.testing.assert_allclose(answer.distances, exact.distances, rtol=1e-5)
    found, expected = ([{value for _, value in line} for line in catalogue.found(part)] for part in (answer, exact))
    shares = [len(line & true) / len(true) for line, true in zip(found, expected, strict=True)]
    assert np.mean(shares) == 1 if kind != "hnsw-flat" else np.mean(shares) > 0.9
    assert np.isnan(answer.unseen).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), n=st.integers(1, 300), effort=st.integers(1, 12), k=st.integers(1, 60))
def test_approximate_answers_keep_every_condition(kind: IndexKind, seed: int, n: int, effort: int, k: int) -> None:
    random = np.random.default_rng(seed)
    catalogue = in_cells(few_valued(random, n, 3, 3), np.arange(n), 9, 3, kind)
    objects, queries = queries_of(catalogue, random)
    ra_deg, dec_deg = random.uniform(0, 1, n), random.uniform(0, 1, n)
    directions = catalogue.place(ra_deg, dec_deg)[objects]
    mask = random.random(n) < 0.5
    conditions = Conditions(catalogue.own(objects), catalogue.allowing(mask).allowed, directions, np.radians(0.3))
    cells = catalogue.centroids, catalogue.shard_of_cell
    answer = nearly_nearest(catalogue.shards, *cells, queries, k, effort, conditions)
    for line, at in zip(catalogue.found(answer), objects, strict=True):
        ids = np.array([value for _, value in line], int)
        assert len(np.unique(ids)) == len(ids) <= k
        assert at not in ids
        assert mask[ids].all()
        assert (separation_arcsec(ra_deg[at], dec_deg[at], ra_deg[ids], dec_deg[ids]) > 0.3 * 3600).all()
        assert line == sorted(line)


@pytest.mark.parametrize("kind", KINDS)
def test_approximate_search_widens_until_enough_qualify(kind: IndexKind) -> None:
    # The 250 objects nearest in components are the ones that are not allowed.
    vectors = np.linspace(0, 1, 300, dtype=np.float32)[:, np.newaxis]
    catalogue = in_cells(vectors, np.arange(300), 4, 2, kind)
    cells = catalogue.centroids, catalogue.shard_of_cell
    answer = nearly_nearest(catalogue.shards, *cells, vectors[:1], 5, 4, catalogue.allowing(np.arange(300) >= 250))
    assert [value for _, value in catalogue.found(answer)[0]] == [250, 251, 252, 253, 254]


def test_a_shard_none_of_whose_cells_are_probed_is_never_opened() -> None:
    near, far = np.zeros((5, 2), np.float32), np.full((5, 2), 100, np.float32)
    centroids, shard_of_cell = np.vstack([near[:1], far[:1]]), np.array([1, 0], np.int32)
    shards = [Closed(far, np.arange(5), "ivf-flat", far[:1]), Shard(near, np.arange(5, 10), "ivf-flat", near[:1])]
    answer = nearly_nearest(shards, centroids, shard_of_cell, near[:1], 9, 1)
    assert answer.n_shards.tolist() == [1]
    assert (answer.places.rows[0] >= 0).sum() == 5
    with pytest.raises(AssertionError, match="opened"):
        nearly_nearest(shards, centroids, shard_of_cell, near[:1], 9, 2)


def test_without_conditions_everything_may_be_an_answer() -> None:
    assert Conditions() == ANY
    assert ANY.own is ANY.allowed is ANY.directions is None
