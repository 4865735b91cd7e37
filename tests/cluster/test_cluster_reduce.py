"""Reduction over partitions: each counted once, whoever dies, in every space that is asked for."""

import os
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster import reduce
from engine.cluster.reduce import (
    count,
    fit,
    fit_sequentially,
    project_partitions,
    read_moments,
    read_pca,
    write_moments,
)
from engine.compute.pca import merge_counted, moments, project, solve, solve_sequentially
from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas.errors import DataError, IntegrityError
from schemas.partition import Partition, PartitionFile
from schemas.tables import COMPONENTS, DEC, EMBEDDING, HEALPIX, OBJECT_ID, RA, with_vectors

N_PARTITIONS, ROWS, DIMENSION = 11, 60, 12


def vectors_of(pixel: int) -> np.ndarray:
    random = np.random.default_rng(pixel)
    return (random.normal(size=(ROWS, DIMENSION)) * np.linspace(4, 0.5, DIMENSION) + 3).astype(np.float32)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[PartitionFile]]:
    store = Store(str(tmp_path_factory.mktemp("embeddings")))
    parts = []
    for pixel in range(N_PARTITIONS):
        ids = np.arange(ROWS) + pixel * ROWS
        columns = {
            HEALPIX: ids,
            OBJECT_ID: ids,
            RA: ids * 0.1,
            DEC: ids * 0.01,
            EMBEDDING: as_vectors(vectors_of(pixel)),
        }
        plain = pa.table({name: column for name, column in columns.items() if name != EMBEDDING})
        table = pa.table(columns, schema=with_vectors(plain.schema, EMBEDDING, DIMENSION))
        partition = Partition(3, pixel)
        record = write_table(store, partition.path, table)
        parts.append(PartitionFile(partition=partition, n_rows=ROWS, file=record))
    return store, parts


def all_rows() -> np.ndarray:
    return np.concatenate([vectors_of(pixel) for pixel in range(N_PARTITIONS)])


def assert_whole(state) -> None:  # type: ignore[no-untyped-def]
    expected = moments(all_rows())
    assert state.n == expected.n
    np.testing.assert_allclose(state.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(state.scatter, expected.scatter, atol=1e-6 * expected.scatter.max())


@pytest.mark.cluster
def test_partitions_are_counted_once_in_any_order(embeddings, ray_session: None) -> None:  # type: ignore[no-untyped-def]
    store, parts = embeddings
    for order in (parts, parts[::-1]):
        told: list[int] = []
        state = count(store, "e", order, "ray", told.append)
        assert_whole(state.moments)
        assert state.names == {f"e/{part.partition.name}" for part in parts}
        assert sum(told) == N_PARTITIONS


@pytest.mark.fault(1, "SIGKILL to a worker that takes moments")
@pytest.mark.cluster
def test_a_killed_worker_changes_nothing(embeddings, ray_session: None, tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store, parts = embeddings
    mark, read = str(tmp_path / "killed"), reduce._count_partition

    def deadly(embeddings: Store, embeddings_id: str, name: str):  # type: ignore[no-untyped-def]
        if name == "3-5" and not os.path.exists(mark):
            with open(mark, "w") as file:
                file.write(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return read(embeddings, embeddings_id, name)

    deadly.__name__ = read.__name__
    monkeypatch.setattr(reduce, "_count_partition", deadly)
    state = count(store, "e", parts, "ray", lambda n: None)
    assert int(Path(mark).read_text()) != os.getpid()
    assert_whole(state.moments)


def test_what_is_not_of_the_planned_partitions_is_refused(embeddings, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store, parts = embeddings
    monkeypatch.setattr(reduce, "compute", lambda graph, *rest: [reduce._count_partition(store, "e", "3-1")])
    with pytest.raises(IntegrityError, match="found e/3-0 missing or foreign"):
        count(store, "e", parts, "ray", lambda n: None)


def test_kept_moments_of_two_releases_merge_into_those_of_both(embeddings, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store, _ = embeddings
    kept = []
    for name, pixels in (("first", range(7)), ("second", range(7, N_PARTITIONS))):
        folder, names = Store(str(tmp_path / name)), [f"3-{pixel}" for pixel in pixels]
        state = merge_counted([reduce._count_partition(store, "e", partition) for partition in names])
        write_moments(folder, state.moments)
        kept.append(read_moments(folder, "e", names))
    assert_whole(merge_counted(kept).moments)
    with pytest.raises(ValueError, match="counted twice"):
        merge_counted([kept[0], kept[0]])


@pytest.mark.cluster
def test_every_space_is_projected_in_one_reading(embeddings, ray_session: None, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    store, parts = embeddings
    state = moments(all_rows())
    fits = {"search": fit(state, "search", 3, False), "anomaly": fit(state, "anomaly", 6, True)}
    targets = {space: (Store(str(tmp_path / space)), pca) for space, pca in fits.items()}
    written = project_partitions(store, targets, parts, "ray", lambda n: None)
    for space, (folder, pca) in targets.items():
        reduce.write_pca(folder, pca)
        for name, value in read_pca(folder)._asdict().items():
            np.testing.assert_array_equal(value, getattr(pca, name))
        for part, source in zip(written[space], parts, strict=True):
            table = read_table(folder, part.partition.path)
            assert part.n_rows == len(table)
            rows = as_matrix(read_table(store, source.partition.path)[EMBEDDING])
            np.testing.assert_array_equal(as_matrix(table[COMPONENTS]), project(rows, pca))


@pytest.mark.cluster
def test_the_reference_goes_through_the_partitions_in_order(embeddings, ray_session: None, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    store, parts = embeddings
    pca = fit_sequentially(store, parts, "search", 4, False, "ray")
    expected = solve_sequentially([all_rows()], 4)
    np.testing.assert_allclose(pca.components, expected.components, atol=1e-9)
    monkeypatch.setattr(reduce, "REFERENCE_BATCH_ROWS", 100)
    sizes = [len(batch) for batch in reduce._batches(store, [part.partition.path for part in parts], 50)]
    assert sizes == [100] * 6 + [60]


def test_too_few_embeddings_name_the_space() -> None:
    with pytest.raises(DataError, match="space anomaly: 40 components need more than 40 rows"):
        fit(moments(all_rows()[:30]), "anomaly", 40, True)


def test_a_solver_gets_the_whole_state(embeddings) -> None:  # type: ignore[no-untyped-def]
    np.testing.assert_array_equal(
        fit(moments(all_rows()), "search", 3, False).components, solve(moments(all_rows()), 3).components
    )
