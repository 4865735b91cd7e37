"""A release that is opened: objects found and taken wherever they lie, and nothing that changed is used."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster.opened import OpenRelease, open_release
from engine.compute import boxes
from engine.compute.search import Places
from engine.storage.arrays import read_arrays, write_arrays
from engine.storage.artefacts import encode
from engine.storage.store import Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError
from schemas.manifest import Manifest
from tests.generated import clustered, positions, write_release

N, DIMENSION = 400, 5


def objects(n: int = N) -> dict[str, object]:
    ra_deg, dec_deg = positions(n)
    names = [f"g{number:04d}" for number in np.random.default_rng(1).permutation(n)]
    return {"object_id": names, "ra_deg": ra_deg, "dec_deg": dec_deg, "magnitude": np.arange(n) * 0.1}


@pytest.fixture
def release(tmp_path: Path) -> OpenRelease:
    write_release(tmp_path / "release", objects(), clustered(N, DIMENSION))
    return open_release(Store(str(tmp_path / "release")))


def test_every_object_is_in_one_shard_and_found_by_its_id(release: OpenRelease) -> None:
    assert sum(shard.n_rows for shard in release.shards) == N
    assert all(shard.n_rows > 0 for shard in release.shards)
    for ids in (objects()["object_id"], ["g0003", "g0399"]):  # Many are looked for in the column, few in row groups.
        places = release.find(pa.array(ids))
        assert release.take(places, ["object_id"])["object_id"].to_pylist() == list(ids)
    absent = release.find(pa.array(["g0001", "nobody", None]))
    assert absent.rows.tolist()[1:] == [-1, -1] == absent.shards.tolist()[1:]


def test_vectors_and_columns_are_those_of_the_object_in_the_order_of_the_places(release: OpenRelease) -> None:
    given = objects()
    order = np.random.default_rng(2).permutation(N)
    places = release.find(pa.array([given["object_id"][row] for row in order]))
    np.testing.assert_array_equal(release.vectors(places), clustered(N, DIMENSION)[order])
    np.testing.assert_array_equal(
        release.take(places, ["magnitude"])["magnitude"].to_numpy(), given["magnitude"][order]
    )
    nothing = release.take(Places(*np.empty((2, 0), np.int32)), ["object_id", "ra_deg"])
    assert (len(nothing), nothing.column_names) == (0, ["object_id", "ra_deg"])


def test_an_output_without_a_release_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no finished release"):
        open_release(Store(str(tmp_path)))


def changed(release: OpenRelease, kind: str, how: str) -> str:
    """Change a file of shard 1; return its name."""
    name = {"boxes": paths.boxes(1), "faiss": paths.shard(1), "objects": paths.shard_objects(1)}[kind]
    path = Path(release.folder.full_path(name))
    data = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-10])
    elif how == "swapped":
        path.write_bytes(Path(str(path).replace("00001", "00000")).read_bytes())
    else:
        path.write_bytes(data[:200] + bytes([data[200] ^ 1]) + data[201:])
    return name


@pytest.mark.fault(32, "a shard that was changed")
@pytest.mark.parametrize("how", ["missing", "truncated", "swapped", "bit flipped"])
@pytest.mark.parametrize("kind", ["boxes", "faiss", "objects"])
def test_a_shard_that_changed_is_refused_by_name(release: OpenRelease, kind: str, how: str) -> None:
    name = changed(release, kind, how)
    shard = release.shards[1]
    with pytest.raises(IntegrityError, match=name):
        {"boxes": lambda: shard.boxes, "faiss": lambda: shard.approximate, "objects": lambda: shard.column("ra_deg")}[
            kind
        ]()


@pytest.mark.fault(34, "a shard exchanged for another, hashes and all")
def test_boxes_that_give_other_answers_are_refused_even_with_a_right_hash(tmp_path: Path) -> None:
    write_release(tmp_path, objects(), clustered(N, DIMENSION))
    opened = open_release(Store(str(tmp_path)))
    arrays = read_arrays(opened.folder, paths.boxes(0))
    record = write_arrays(opened.folder, paths.boxes(0), arrays | {"blocks": arrays["blocks"][:, ::-1].copy()})
    shard = opened.shards[0]
    shard._files[record.path] = record
    with pytest.raises(IntegrityError, match=r"the objects nearest to row 0 should be"):
        _ = shard.boxes
    fewer = boxes.build(clustered(10, DIMENSION))
    record = write_arrays(opened.folder, paths.boxes(0), fewer._asdict())
    shard._files[record.path] = record
    with pytest.raises(IntegrityError, match=f"expected {shard.n_rows} vectors of 5 components, found 10 of 5"):
        _ = shard.boxes


def test_a_shard_is_not_opened_before_it_is_needed(release: OpenRelease) -> None:
    changed(release, "boxes", "missing")
    assert release.shards[0].boxes.n == release.shards[0].n_rows
    assert release.find(pa.array(["g0001"])).rows[0] >= 0


def test_an_index_whose_manifest_was_edited_is_refused(release: OpenRelease) -> None:
    store = release.store
    path = paths.manifest("index", release.index.id)
    manifest = Manifest.model_validate_json(store.read(path))
    store.write(path, encode(manifest.model_copy(update={"created_utc": "yesterday"})))
    with pytest.raises(IntegrityError, match="not the manifest that the release names"):
        open_release(store)


def test_shards_on_s3_are_copied_once_and_searched_there(
    s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_release(tmp_path / "local", objects(60), clustered(60, 3), n_shards=2)
    local, remote = Store(str(tmp_path / "local")), Store(f"{s3_server}/opened")
    for path in local.list():
        remote.write(path, local.read(path))
    here, there = open_release(local), open_release(remote)
    for shard, other in zip(here.shards, there.shards, strict=True):
        np.testing.assert_array_equal(shard.boxes.blocks, other.boxes.blocks)
        assert other.approximate.ntotal == shard.n_rows
    assert len(list((tmp_path / "cache" / "voorwerp").glob("*.safetensors"))) == 2
