"""A finished release, opened: shards and objects in one order, or a refusal."""

import numpy as np
import pyarrow as pa
import pytest

from engine.storage import artefacts
from engine.storage.faiss_index import write_flat_shard
from engine.storage.parquet import write_table
from engine.storage.release import open_release
from engine.storage.store import Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError
from schemas.manifest import Kind, Manifest, Parent, identity_id

SIZES = (4, 3)


def finish(store: Store, kind: Kind, identity: dict, parents: dict[str, Manifest], files: list) -> Manifest:
    references: dict[str, Parent] = {name: artefacts.as_parent(parent) for name, parent in parents.items()}
    made = Manifest(
        kind=kind,
        id=identity_id(kind, identity),
        identity=identity,
        parents=references,
        counts={"shards": len(SIZES)} if kind == "index" else {},
        detail={"catalogue": "c.csv", "source": "w.pt", "preset": "walmsley2022", "preset_sha256": "00"},
        files=files,
        versions={},
        durations_s={},
        created_utc=artefacts.utc_now(),
    )
    return artefacts.finish(store, made)


def published(store: Store) -> Store:
    """Publish a release with an index of two shards; return the index's folder."""
    encoder, plan = (
        finish(store, "encoder", {"architecture": "b0", "weights_sha256": "00"}, {}, []),
        finish(store, "plan", {}, {}, []),
    )
    embeddings = finish(store, "embeddings", {}, {"encoder": encoder, "plan": plan}, [])
    components = finish(store, "components", {}, {"embeddings": embeddings}, [])
    folder = store.below(paths.artefact("index", identity_id("index", {})))
    files, first = [], 0
    for number, size in enumerate(SIZES):
        rows = np.arange(first, first + size)
        table = pa.table({"object_id": rows, "ra_deg": rows * 1.0, "dec_deg": rows * 1.0})
        files.append(write_flat_shard(folder, paths.shard(number), rows[:, None].astype(np.float32)))
        files.append(write_table(folder, paths.shard_objects(number), table))
        first += size
    artefacts.publish(store, finish(store, "index", {}, {"components": components}, files))
    return folder


def test_a_release_opens_with_objects_in_the_order_of_the_vectors(store: Store) -> None:
    published(store)
    release = open_release(store)
    assert [shard.ntotal for shard in release.shards] == list(SIZES)
    assert release.objects["object_id"].to_pylist() == list(range(sum(SIZES)))
    for row, object_id in enumerate(release.objects["object_id"].to_pylist()[: SIZES[0]]):
        assert release.shards[0].reconstruct(row) == object_id


def test_an_output_without_a_release_says_so(store: Store) -> None:
    with pytest.raises(InputNotFoundError, match="no finished release here"):
        open_release(store)


def test_a_changed_shard_is_refused(local_store: Store) -> None:
    folder = published(local_store)
    write_flat_shard(folder, paths.shard(1), np.zeros((3, 1), np.float32))
    with pytest.raises(IntegrityError, match=r"shard-00001\.faiss: expected SHA-256"):
        open_release(local_store)


def test_objects_that_were_changed_are_refused(local_store: Store) -> None:
    # As many objects as vectors, in another order: every answer would name the wrong galaxies.
    folder = published(local_store)
    table = pa.table({"object_id": [6, 5, 4], "ra_deg": [6.0, 5, 4], "dec_deg": [6.0, 5, 4]})
    write_table(folder, paths.shard_objects(1), table)
    with pytest.raises(IntegrityError, match=r"objects-00001\.parquet"):
        open_release(local_store)


def test_missing_files_of_an_index_are_a_fault_of_the_release(local_store: Store) -> None:
    folder = published(local_store)
    for path in (paths.shard(1), paths.shard_objects(0)):
        data = folder.read(path)
        folder.filesystem.delete_file(folder.full_path(path))
        with pytest.raises((IntegrityError, InputNotFoundError), match=path):
            open_release(local_store)
        folder.write(path, data)
    assert open_release(local_store)
