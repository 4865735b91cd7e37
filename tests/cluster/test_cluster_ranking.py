"""A space that is spread over actors answers as one in this process; what is written is what all scores are."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster.asking import ask, learn_from, place, rehearse
from engine.cluster.ranking import Ranked, SharedSpace, components_of, means_by_part, share, write_ranked
from engine.cluster.session import connect
from engine.cluster.space import OpenSpace, open_space
from engine.compute.acquisition import Acquisition, value_of
from engine.compute.gp import Kernel, mean_and_sd
from engine.compute.learning import learn
from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas.campaign import RankingConfig
from schemas.config import RayConfig
from schemas.errors import IntegrityError
from schemas.partition import Partition, PartitionFile

N, D = 3_000, 6


def written(folder: Path) -> tuple[Store, list[PartitionFile], np.ndarray]:
    """Components of 3,000 objects in five partitions of different sizes."""
    random, store = np.random.default_rng(0), Store(str(folder))
    vectors = random.normal(size=(N, D)).astype(np.float32)
    vectors[2_000:2_004] = vectors[10]
    partitions, start = [], 0
    for pixel, n_rows in enumerate([900, 5, 1_200, 95, 800]):
        rows = slice(start, start + n_rows)
        table = pa.table(
            {
                "_healpix_29": np.arange(start, start + n_rows) + (pixel << 50),
                "object_id": [f"g{row:04d}" for row in range(start, start + n_rows)],
                "ra_deg": np.full(n_rows, 10.0),
                "dec_deg": np.full(n_rows, 2.0),
                "components": as_vectors(vectors[rows]),
            }
        )
        partition = Partition(4, pixel)
        file = write_table(store, partition.path, table)
        partitions.append(PartitionFile(partition=partition, n_rows=n_rows, file=file))
        start += n_rows
    return store, partitions, vectors


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[PartitionFile], np.ndarray]:
    return written(tmp_path_factory.mktemp("components"))


@pytest.fixture(scope="module")
def spaces(components) -> Iterator[tuple[OpenSpace, SharedSpace]]:  # type: ignore[no-untyped-def]
    store, partitions, _ = components
    connect(RayConfig())
    shared = SharedSpace(store, partitions, workers=3)
    yield open_space(store, partitions, threads=2), shared
    shared.close()


RATINGS = {f"g{row:04d}": float(row % 6) for row in range(0, 600, 20)}


def test_shares_are_consecutive_and_about_equal(components) -> None:  # type: ignore[no-untyped-def]
    _, partitions, _ = components
    for workers in (1, 2, 3, 5, 50):
        shares = share(partitions, workers)
        assert [part for one in shares for part in one] == partitions
        assert all(shares)
        assert len(shares) <= workers


@pytest.mark.parametrize("n", [1, 3, 10, 500])
def test_a_question_is_rehearsed_in_a_space_of_any_size(n: int) -> None:
    space = OpenSpace(
        pa.array([str(row) for row in range(n)]), np.random.default_rng(n).normal(size=(n, D)).astype("f4")
    )
    rehearse(space, RankingConfig())


@pytest.mark.cluster
def test_rows_ids_and_vectors_are_those_of_the_files(spaces, components) -> None:  # type: ignore[no-untyped-def]
    _, _, vectors = components
    rows = np.array([2_999, 0, 900, 904, 905])
    for space in spaces:
        assert space.n == N
        assert space.ids(rows) == ["g2999", "g0000", "g0900", "g0904", "g0905"]
        assert space.find(["g0904", "nobody", "g0000", "g0904"]).tolist() == [904, -1, 0, 904]
        np.testing.assert_array_equal(space.vectors(rows), vectors[rows].astype(float))


@pytest.mark.cluster
@pytest.mark.parametrize("kind", ["top", "believer"])
@pytest.mark.parametrize("acquisition", ["expected-improvement", "thompson"])
def test_actors_choose_the_batch_that_one_process_chooses(spaces, kind, acquisition) -> None:  # type: ignore[no-untyped-def]
    config = RankingConfig(batch_kind=kind, acquisition=acquisition)
    chosen = []
    for space in spaces:
        placed = place(space, RATINGS, examples=["g2500", "nobody"])
        assert placed.unknown == ["nobody"]
        learned = learn_from(space, placed, Kernel(length=2.0))
        excluded = np.append(placed.rows, [7, 2_998])
        question = ask(space, learned, config, excluded, 12, seed=3)
        assert not np.isin(question.rows, excluded).any()
        chosen.append(question)
    np.testing.assert_array_equal(chosen[0].rows, chosen[1].rows)
    np.testing.assert_allclose(chosen[0].value, chosen[1].value, rtol=1e-9)
    assert len(set(chosen[0].rows)) == 12


@pytest.mark.cluster
def test_where_ratings_tell_no_object_from_another_the_next_batch_is_spread_again(spaces) -> None:  # type: ignore[no-untyped-def]
    far, found = Kernel(length=5_000.0, noise=2.0), []
    for space in spaces:
        placed = place(space, RATINGS)
        learned = learn_from(space, placed, far, refit=False)
        question = ask(space, learned, RankingConfig(), placed.rows, 12, seed=3)
        assert question.rows.tolist() == ask(space, None, RankingConfig(), placed.rows, 12, seed=3).rows.tolist()
        assert np.isfinite(question.value).all()
        assert np.ptp(question.mean) < 1e-3
        found.append(question)
        near = learn_from(space, placed, Kernel(length=2.0, noise=2.0), refit=False)
        assert ask(space, near, RankingConfig(), placed.rows, 12, seed=3).rows.tolist() != question.rows.tolist()
    np.testing.assert_allclose(found[0].value, found[1].value, rtol=1e-9)


@pytest.mark.cluster
@pytest.mark.parametrize("first", ["random", "spread"])
def test_a_first_batch_is_drawn_by_its_seed_from_what_is_not_excluded(spaces, first) -> None:  # type: ignore[no-untyped-def]
    config = RankingConfig(first=first)
    excluded = np.arange(2_950)
    found = [ask(space, None, config, excluded, 20, seed) for space in spaces for seed in (1, 2)]
    assert found[0].rows.tolist() == found[2].rows.tolist() != found[1].rows.tolist()
    assert all(question.rows.min() >= 2_950 and np.isnan(question.mean).all() for question in found)
    assert len(ask(spaces[0], None, config, np.arange(2_999), 20, 1).rows) == 1
    assert len(ask(spaces[0], None, config, np.arange(3_000), 20, 1).rows) == 0


@pytest.mark.cluster
def test_what_is_written_of_every_object_is_what_scoring_all_gives(components, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store, partitions, vectors = components
    connect(RayConfig())
    wanted = pa.array(sorted(RATINGS))
    ids, points = components_of(store, partitions, pa.concat_arrays([wanted, pa.array(["nobody"])]), lambda n: None)
    assert ids.equals(wanted)
    ratings = np.array([RATINGS[name] for name in ids.to_pylist()])
    learned = learn(points, ratings, Kernel())
    mean, sd = mean_and_sd(learned.posterior, vectors.astype(float))
    means = means_by_part(store, partitions, learned.posterior, lambda n: None)
    np.testing.assert_allclose(means, mean, rtol=1e-9, atol=1e-12)
    ranks = np.empty(N, np.int64)
    ranks[np.argsort(-means, kind="stable")] = np.arange(1, N + 1)
    target = Store(str(tmp_path))
    for acquisition in (Acquisition(), Acquisition("thompson", seed=5)):
        ranked = Ranked(learned.posterior, acquisition, learned.best, ids, ratings)
        parts = write_ranked(store, target, partitions, ranked, ranks, lambda n: None)
        table = pa.concat_tables([read_table(target, part.file.path) for part in parts])
        assert [part.partition for part in parts] == [part.partition for part in partitions]
        np.testing.assert_allclose(table["expected_rating"].to_numpy(), mean, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(table["expected_rating_sd"].to_numpy(), sd, rtol=1e-9)
        values = value_of(acquisition, learned.best).value(mean, sd, np.arange(N))
        np.testing.assert_allclose(table["acquisition"].to_numpy(), values, rtol=1e-7, atol=1e-9)
        np.testing.assert_array_equal(table["rank"].to_numpy(), ranks)
        given = dict(zip(table["object_id"].to_pylist(), table["rating"].to_pylist(), strict=True))
        assert {name: value for name, value in given.items() if value is not None} == RATINGS
        distances = np.linalg.norm(vectors[:, np.newaxis].astype(float) - points, axis=2)
        np.testing.assert_allclose(table["nearest_rated_distance"].to_numpy(), distances.min(axis=1), atol=1e-6)
        assert table["nearest_rated_id"].to_pylist()[20] == "g0020"


def test_components_that_were_changed_are_not_opened(tmp_path: Path) -> None:
    store, partitions, _ = written(tmp_path)
    path = tmp_path / partitions[1].file.path
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        open_space(store, partitions)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        open_space(store, partitions)
    assert as_matrix(read_table(store, partitions[0].file.path)["components"]).shape == (900, D)
