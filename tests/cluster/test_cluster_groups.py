"""Groups of shards that are asked together answer as one release does."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster.answer import Question
from engine.cluster.batching import MOST_TOGETHER, Batches
from engine.cluster.bulk import Asked, answer_each, found_for
from engine.cluster.filters import Filter
from engine.cluster.groups import Groups, ShardGroup, knowing
from engine.cluster.opened import OpenRelease, open_release
from engine.storage.store import Store
from tests.generated import clustered, positions, write_release

N, DIMENSION, SHARDS = 600, 4, 5
ALL = Filter()


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """A release in which one vector in ten is that of another object, so that distances tie across shards."""
    output = tmp_path_factory.mktemp("grouped")
    ra_deg, dec_deg = positions(N)
    vectors = clustered(N, DIMENSION)
    vectors[::10] = vectors[5::10]
    vectors[300:312] = vectors[300]
    objects = {
        "object_id": np.random.default_rng(3).permutation(N) + 10**12,
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "magnitude": np.arange(N) / 10,
    }
    write_release(output, objects, vectors, n_shards=SHARDS)
    return open_release(Store(str(output)))


def groups_of(release: OpenRelease, shares: Sequence[Sequence[int]]) -> Groups:
    return Groups([ShardGroup(release, numbers) for numbers in shares])


def some_ids(release: OpenRelease) -> pa.Array:
    ids = pa.concat_arrays([shard.column("object_id").slice(0, 30) for shard in release.shards if shard.n_rows])
    twins = release.take(release.find(ids), ["object_id"])["object_id"].combine_chunks()
    return pa.concat_arrays([ids, twins.slice(3, 2)])


@pytest.mark.parametrize("shares", [[[0, 1, 2, 3, 4]], [[0, 2], [1, 3, 4]], [[0], [1], [2], [3], [4]]])
@pytest.mark.parametrize(
    ("how", "passing"),
    [
        (Question(7), ALL),
        (Question(13, include_self=True), ALL),
        (Question(1, include_self=True), ALL),
        (Question(5, exclusion_radius_arcsec=60_000.0), ALL),
        (Question(5), Filter(where="magnitude < 20")),
        (Question(5), Filter(cone=(10.0, 0.0, 200_000.0))),
        (Question(N + 10), ALL),
    ],
)
def test_groups_answer_as_the_whole_release(
    release: OpenRelease, shares: list[list[int]], how: Question, passing: Filter
) -> None:
    ids = some_ids(release)
    groups = groups_of(release, shares)
    places, found = groups.find(ids)
    assert places.rows.min() >= 0
    whole = found_for(release, Asked(np.arange(len(ids)), release.find(ids)), how, passing.on(release))
    grouped = groups.search(knowing(Asked(np.arange(len(ids)), places), found), how, passing)
    assert grouped.drop_columns(["unseen_distance"]).equals(whole.drop_columns(["unseen_distance"]))
    last = np.maximum.reduceat(grouped["distance"].to_numpy(), np.flatnonzero(grouped["rank"].to_numpy() == 1))
    full = np.bincount(grouped["query"].to_numpy(), minlength=len(ids)) == how.k
    unseen = grouped["unseen_distance"].fill_null(np.inf).to_numpy()[grouped["rank"].to_numpy() == 1]
    assert (unseen[full] >= last[full]).all()  # What proves that the answers are exact holds for the merged ones too.


def test_vectors_are_asked_of_every_group_and_what_nobody_holds_is_nowhere(release: OpenRelease) -> None:
    groups = groups_of(release, [[0, 1], [2, 3, 4]])
    vectors = clustered(5, DIMENSION, seed=8)
    asked = Asked(np.array([3, 9, 11, 12, 20]), None, vectors)
    whole = found_for(release, asked, Question(6))
    assert (
        groups.search(asked, Question(6), ALL)
        .drop_columns(["unseen_distance"])
        .equals(whole.drop_columns(["unseen_distance"]))
    )
    places, found = groups.find(pa.array([1, int(some_ids(release)[0].as_py())]))
    assert places.rows[0] == -1 == places.shards[0]
    assert len(found) == 1


def test_queries_of_several_are_answered_in_one_search_as_each_alone(release: OpenRelease) -> None:
    ids = some_ids(release)
    several = [
        Asked(np.array([0, 4]), release.find(ids.slice(0, 2))),
        Asked(np.array([7]), release.find(ids.slice(50, 1)), None, np.array([3.5])),
        Asked(np.array([1, 2, 3]), release.find(ids.slice(80, 3))),
    ]
    alone = [found_for(release, one, Question(9)) for one in several]
    for one, expected in zip(answer_each(release, several, Question(9)), alone, strict=True):
        assert one.equals(expected)


def test_calls_that_wait_are_answered_together_and_each_gets_its_own_result() -> None:
    batches_of: list[tuple[str, int]] = []
    begun, go_on = threading.Event(), threading.Event()

    def answer(kind: str, items: Sequence[int]) -> list[int]:
        begun.set()
        go_on.wait(20)
        batches_of.append((kind, len(items)))
        return [item * 10 for item in items]

    together: Batches[int, int] = Batches(answer)
    results: dict[int, int] = {}

    def call(kind: str, item: int) -> None:
        results[item] = together(kind, item)

    threads = [threading.Thread(target=call, args=("odd" if item % 2 else "even", item)) for item in range(40)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    deadline = time.monotonic() + 20
    while len(together._waiting) < 39:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert results == {item: item * 10 for item in range(40)}
    assert sorted(batches_of) == [("even", 1), ("even", 19), ("odd", 20)]
    assert MOST_TOGETHER >= 20


def test_questions_of_several_queries_that_wait_get_their_own_answers(release: OpenRelease) -> None:
    group, ids = ShardGroup(release, range(SHARDS)), some_ids(release)
    several = [Asked(np.arange(4), release.find(ids.slice(4 * (number % 20), 4))) for number in range(60)]
    expected = [found_for(release, one, Question(5)) for one in several]
    with ThreadPoolExecutor(30) as threads:
        found = list(threads.map(lambda one: group.search(one, Question(5), ALL), several))
    for one, known in zip(found, expected, strict=True):
        assert one.equals(known)


def test_one_bad_call_fails_for_its_caller_alone() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def answer(kind: None, items: Sequence[int]) -> list[float]:
        begun.set()
        go_on.wait(20)
        return [1 / item for item in items]

    together: Batches[int, float] = Batches(answer)
    results: dict[int, float | str] = {}

    def call(item: int) -> None:
        try:
            results[item] = together(None, item)
        except ZeroDivisionError:
            results[item] = "bad"

    threads = [threading.Thread(target=call, args=(item,)) for item in (8, 0, 2, 4)]
    threads[0].start()
    assert begun.wait(20)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert results == {8: 1 / 8, 0: "bad", 2: 0.5, 4: 0.25}
