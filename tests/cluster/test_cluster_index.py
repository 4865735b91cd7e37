"""An index that is built: whole whatever stops it, the old one serving meanwhile; held-out queries held out."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster import index
from engine.cluster.index import build_shard, cut_piece, read_cells
from engine.cluster.opened import open_release
from engine.compute.quantiser import nearest_cells
from engine.storage.parquet import as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError
from schemas.index import ShardRecord
from schemas.tables import COMPONENTS, DEC, HEALPIX, OBJECT_ID, RA
from tests.generated import clustered, positions, write_release

N, N_SHARDS, N_CELLS = 500, 3, 9
FILES = ("a.parquet", "b.parquet")


def components(folder: Path, n: int = N, dimension: int = 4) -> Store:
    store, vectors = Store(str(folder)), clustered(n, dimension)
    ids, half = np.random.default_rng(3).permutation(n), n // 2
    for name, rows in zip(FILES, (slice(0, half), slice(half, n)), strict=True):
        columns = {HEALPIX: ids[rows], OBJECT_ID: ids[rows], RA: ids[rows] * 0.1, DEC: ids[rows] * 0.01}
        write_table(store, name, pa.table(columns | {COMPONENTS: as_vectors(vectors[rows])}))
    return store


def build(source: Store, target: Store, work: Store) -> list[ShardRecord]:
    """Build an index as the job does, in this process."""
    if not target.exists(paths.CELLS):
        index._train(source, target, FILES, N_CELLS, N_SHARDS)
    groups: list[list[tuple[int, int]]] = [[] for _ in range(N_SHARDS)]
    for number, name in enumerate(FILES):
        for group, shard in enumerate(cut_piece(source, target, work, number, [name])):
            groups[shard].append((number, group))
    return [build_shard(target, work, number, found, "ivf-flat") for number, found in enumerate(groups)]


class CrashError(Exception):
    """What kills a build."""


@pytest.mark.fault(32, "a crash at every write of a build")
def test_a_build_that_is_killed_at_any_write_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = components(tmp_path / "components")
    calm = Store(str(tmp_path / "calm"))
    expected = build(source, calm, Store(str(tmp_path / "calm-work")))
    write, n_writes = Store.writing, 0

    def counted(self: Store, path: str):  # type: ignore[no-untyped-def]
        nonlocal n_writes
        n_writes += 1
        if n_writes == deadly:
            raise CrashError
        return write(self, path)

    deadly, crashes = 0, 0
    for deadly in range(1, 30):
        target, work = Store(str(tmp_path / f"{deadly}")), Store(str(tmp_path / f"{deadly}-work"))
        n_writes = 0
        with monkeypatch.context() as patch:
            patch.setattr(Store, "writing", counted)
            try:
                build(source, target, work)
            except CrashError:
                crashes += 1
        assert build(source, target, work) == expected
        for path in calm.list():
            assert target.read(path) == calm.read(path)
        if n_writes < deadly:
            break
    assert crashes == deadly - 1 > 10


@pytest.mark.fault(32, "a half-built index beside a release")
def test_the_old_release_serves_while_a_new_index_is_half_built(tmp_path: Path) -> None:
    ra_deg, dec_deg = positions(200)
    objects = {"object_id": np.arange(200), "ra_deg": ra_deg, "dec_deg": dec_deg}
    write_release(tmp_path, objects, clustered(200, 4))
    store = Store(str(tmp_path))
    before = open_release(store)
    half = store.below(paths.artefact("index", "0" * 16))
    index._train(before.components_folder, half, _partitions(before), 4, 2)
    after = open_release(store)
    assert after.id == before.id
    assert sum(shard.boxes.n for shard in after.shards) == 200


def _partitions(release) -> list[str]:  # type: ignore[no-untyped-def]
    return [path for path in release.components_folder.list() if path.endswith(".parquet") and "Npix" in path]


def test_shards_hold_every_object_once_in_order_of_id_and_near_ones_together(tmp_path: Path) -> None:
    source, target, work = (Store(str(tmp_path / name)) for name in ("components", "index", "work"))
    components(tmp_path / "components")
    records = build(source, target, work)
    assert sum(record.n_rows for record in records) == N
    cells, seen = read_cells(target), []
    for record in records:
        table = read_table(target, paths.shard_objects(record.number))
        assert table[OBJECT_ID].to_pylist() == sorted(table[OBJECT_ID].to_pylist())
        assert COMPONENTS not in table.column_names
        seen += table[OBJECT_ID].to_pylist()
        assert np.isin(record.number, cells["shards"])
    assert sorted(seen) == list(range(N))


def test_held_out_queries_took_no_part_in_placing_the_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = components(tmp_path / "components"), Store(str(tmp_path / "index"))
    samples = []
    train = index.train
    monkeypatch.setattr(index, "train", lambda sample, n: samples.append(sample.copy()) or train(sample, n))
    index._train(source, target, FILES, N_CELLS, N_SHARDS)
    held_out = read_cells(target)["held_out"]
    assert len(held_out) == -(-N // 64)
    trained = {row.tobytes() for row in samples[0]}
    assert not any(row.tobytes() in trained for row in held_out)


@pytest.mark.parametrize("n", [2, 3, 70])
def test_small_catalogues_are_indexed_too(tmp_path: Path, n: int) -> None:
    source = components(tmp_path / "components", n)
    records = build(source, Store(str(tmp_path / "index")), Store(str(tmp_path / "work")))
    assert sum(record.n_rows for record in records) == n


def test_components_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    source = components(tmp_path / "components")
    table = read_table(source, FILES[1])
    vectors = clustered(len(table), 4)
    vectors[7, 2] = np.nan
    write_table(source, FILES[1], table.set_column(4, COMPONENTS, as_vectors(vectors)))
    with pytest.raises(DataError, match="expected finite components, found NaN or infinity"):
        build(source, Store(str(tmp_path / "index")), Store(str(tmp_path / "work")))


def test_recall_is_measured_by_rising_effort_until_every_cell_is_probed(tmp_path: Path) -> None:
    source, target = components(tmp_path / "components"), Store(str(tmp_path / "index"))
    records = build(source, target, Store(str(tmp_path / "work")))
    settings = index._measure(target, records, "ivf-flat", 4)
    efforts, recalls = [one.effort for one in settings], [one.recall for one in settings]
    assert efforts == sorted(efforts)
    assert recalls == sorted(recalls)
    assert recalls[-1] == 1.0
    assert efforts[-1] >= N_CELLS
    assert nearest_cells(clustered(3, 4), read_cells(target)["centroids"], 2).shape == (3, 2)
