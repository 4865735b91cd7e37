"""A finished release, opened for searching: shards checked by hash, objects in the same order."""

from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import pyarrow as pa

from engine.storage.artefacts import current_manifest
from engine.storage.faiss_index import read_flat_shard
from engine.storage.parquet import parse_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import IntegrityError


@dataclass(frozen=True)
class OpenRelease:
    """The current release of an output."""

    shards: Sequence[faiss.Index]
    objects: pa.Table
    """One row per vector, in the order of the shards' rows: object_id, ra_deg, dec_deg and perhaps cutout."""


def open_release(store: Store) -> OpenRelease:
    """Open the index that `current` points to.

    Raises
    ------
    InputNotFoundError
        The output holds no finished release.
    IntegrityError
        A shard is missing, changed, or disagrees with its objects.
    """
    manifest = current_manifest(store, "index")
    folder = store.below(paths.artefact("index", manifest.id))
    files = {record.path: record for record in manifest.files}
    shards, objects = [], []
    for number in range(manifest.counts["shards"]):
        shard = read_flat_shard(folder, files[paths.shard(number)])
        record = files[paths.shard_objects(number)]
        table = parse_table(folder.read_verified(record), folder.uri(record.path))
        if shard.ntotal != len(table):
            raise IntegrityError(f"{folder.uri(paths.shard(number))}: {shard.ntotal} vectors for {len(table)} objects")
        shards.append(shard)
        objects.append(table)
    return OpenRelease(shards, pa.concat_tables(objects))
