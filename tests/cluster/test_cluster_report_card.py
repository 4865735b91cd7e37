"""Measuring a release a partition at a time, against everything at once."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from engine.cluster.dask_graph import THREADS
from engine.cluster.opened import open_release
from engine.cluster.reduce import read_pca
from engine.cluster.report_card import Tiles, count_repeats, measure_tiles, previous_of
from engine.compute import sky
from engine.compute.pca import moments, project
from engine.compute.tile_drift import sum_tiles, whiten
from engine.storage.artefacts import current_manifest, partitions_of
from engine.storage.parquet import as_matrix, read_table
from engine.storage.store import Store
from schemas import paths
from schemas.tables import COMPONENTS, HEALPIX, OBJECT_ID
from tests.embedded import write_embedded
from tests.generated import clustered

N = 600


class Two(NamedTuple):
    """A release and the one before it: some objects are gone, some are new, some look different."""

    now: Path
    before: Path
    ids: np.ndarray
    embeddings: np.ndarray
    ids_before: np.ndarray
    embeddings_before: np.ndarray


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Two:
    folder = tmp_path_factory.mktemp("two")
    random = np.random.default_rng(4)
    ra_deg, dec_deg = random.uniform(350, 370, N) % 360, random.uniform(-8, 12, N)
    embeddings = clustered(N, 6, 8)
    embeddings[11] = embeddings[12] = embeddings[400]
    ids = np.arange(N) + 50
    was, changed = np.arange(N) >= 20, embeddings.copy()
    changed[100:140] += 1
    for name, rows, vectors in (("now", np.arange(N) < N - 30, embeddings), ("before", was, changed)):
        objects = {"object_id": ids[rows], "ra_deg": ra_deg[rows], "dec_deg": dec_deg[rows]}
        per_partition = 150 if name == "now" else 90
        write_embedded(folder / name, objects, vectors[rows], n_components=4, rows_per_partition=per_partition)
    kept = np.arange(N) < N - 30
    return Two(folder / "now", folder / "before", ids[kept], embeddings[kept], ids[was], changed[was])


def measure(output: Path, scheduler: str = THREADS, against: Path | None = None) -> tuple[Tiles, list[int]]:
    store = Store(str(output))
    components = current_manifest(store, "components")
    folder = store.below(paths.artefact("components", components.id))
    previous = None
    if against:
        other = Store(str(against))
        theirs = [current_manifest(other, kind) for kind in ("components", "embeddings")]
        previous = previous_of(other, *theirs, components, folder)
    told: list[int] = []
    return measure_tiles(folder, partitions_of(components), 40, previous, scheduler, told.append), told


def everything(output: Path) -> dict[str, np.ndarray]:
    store = Store(str(output))
    components = current_manifest(store, "components")
    folder = store.below(paths.artefact("components", components.id))
    tables = [read_table(folder, part.partition.path) for part in partitions_of(components)]
    columns = {name: np.concatenate([table[name].to_numpy() for table in tables]) for name in (OBJECT_ID, HEALPIX)}
    vectors = np.concatenate([as_matrix(table[COMPONENTS]) for table in tables])
    order = np.argsort(columns[HEALPIX], kind="stable")
    return {**{name: column[order] for name, column in columns.items()}, COMPONENTS: vectors[order]}


def test_tiles_are_those_of_all_objects_at_once(two: Two) -> None:
    found, told = measure(two.now)
    rows = everything(two.now)
    starts = np.searchsorted(rows[HEALPIX], found.pixels << 2 * (29 - found.orders))
    assert found.sums.n.sum() == len(two.ids)
    assert found.sums.n.max() <= 40
    expected = sum_tiles(whiten(moments(rows[COMPONENTS]))(rows[COMPONENTS]), starts)
    np.testing.assert_array_equal(found.sums.n, expected.n)
    # Moments are merged in another order, and whitening turns as it likes: lengths are what counts.
    lengths = [np.linalg.norm(one.mean, axis=1) for one in (found.sums, expected)]
    np.testing.assert_allclose(*lengths, rtol=1e-4)
    np.testing.assert_allclose(found.sums.spread, expected.spread, rtol=1e-4)
    n_partitions = len(partitions_of(current_manifest(Store(str(two.now)), "components")))
    assert sum(told) == 2 * n_partitions


def test_changes_are_those_of_every_object_in_the_basis_of_this_release(two: Two) -> None:
    found, _ = measure(two.now, against=two.before)
    assert found.changes is not None
    store = Store(str(two.now))
    folder = store.below(paths.artefact("components", current_manifest(store, "components").id))
    pca, rows = read_pca(folder), everything(two.now)
    whitening = whiten(moments(rows[COMPONENTS]))
    both, at, at_before = np.intersect1d(two.ids, two.ids_before, return_indices=True)
    moved = project(two.embeddings[at], pca) - project(two.embeddings_before[at_before], pca)
    length = np.linalg.norm(moved.astype(np.float64) @ whitening.matrix, axis=1)
    changes = found.changes
    # A partition of the one release may hold an object that lies in none of the other.
    assert changes.matched.n.sum() == len(both) == N - 50
    assert changes.n_unchanged.sum() == (length < 1e-3).sum() == N - 50 - 40
    mean_square = (changes.matched.variance + changes.matched.mean**2).sum(axis=1)
    assert (mean_square * changes.matched.n).sum() == pytest.approx((length**2).sum(), rel=1e-4)
    assert len(both) <= changes.before.n.sum() <= len(two.ids_before)


def test_releases_of_one_basis_need_no_embeddings(two: Two) -> None:
    store = Store(str(two.now))
    components = current_manifest(store, "components")
    folder = store.below(paths.artefact("components", components.id))
    own = previous_of(store, components, current_manifest(store, "embeddings"), components, folder)
    assert own.pca is None
    assert own.folder.uri() == folder.uri()
    found, _ = measure(two.now, against=two.now)
    assert found.changes is not None
    assert found.changes.n_unchanged.sum() == found.changes.matched.n.sum() == len(two.ids)
    np.testing.assert_array_equal(found.changes.matched.mean, 0)
    np.testing.assert_allclose(found.changes.before.mean, found.sums.mean, atol=1e-9)


def test_equal_vectors_are_counted_whatever_shard_they_are_in(two: Two) -> None:
    opened = open_release(Store(str(two.now)))
    told: list[int] = []
    found = count_repeats(opened.store, opened.id, len(opened.shards), THREADS, told.append)
    assert (found.n_objects, found.n_groups, found.largest) == (3, 1, 3)
    assert found.examples == [("61", "62", "450")]
    assert sum(told) == len(opened.shards)


@pytest.mark.cluster
def test_a_cluster_measures_what_this_process_does(two: Two, ray_session: None) -> None:
    (found, told), (expected, _) = (measure(two.now, scheduler, two.before) for scheduler in ("ray", THREADS))
    np.testing.assert_array_equal(found.sums.n, expected.sums.n)
    np.testing.assert_allclose(found.sums.spread, expected.sums.spread)
    assert found.changes is not None
    assert expected.changes is not None
    np.testing.assert_array_equal(found.changes.matched.n, expected.changes.matched.n)
    assert sum(told) > 0


def test_the_pixels_of_tiles_follow_each_other_on_the_sky(two: Two) -> None:
    found, _ = measure(two.now)
    first = found.pixels << 2 * (sky.HEALPIX_ORDER - found.orders)
    assert (np.diff(first) > 0).all()
