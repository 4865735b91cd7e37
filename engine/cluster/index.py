"""Indexing over Ray: consecutive partitions of components become immutable FAISS shards, one task each."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from engine.cluster.stream import stream
from engine.storage.artefacts import decode, encode
from engine.storage.faiss_index import write_flat_shard
from engine.storage.parquet import as_matrix, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import FileRecord
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, CUTOUT, DEC, OBJECT_ID, RA


class Shard(NamedTuple):
    """A shard to build: its number, and the partitions whose rows it holds, in order."""

    number: int
    partitions: list[PartitionFile]


def plan_shards(partitions: Sequence[PartitionFile], rows_per_shard: int) -> list[Shard]:
    """Group consecutive partitions into shards of at most `rows_per_shard` rows; a larger partition stands alone."""
    groups: list[list[PartitionFile]] = []
    rows = 0
    for part in partitions:
        if not groups or rows + part.n_rows > rows_per_shard:
            groups.append([])
            rows = 0
        groups[-1].append(part)
        rows += part.n_rows
    return [Shard(number, group) for number, group in enumerate(groups)]


def build_shards(
    components: Store, index: Store, shards: Sequence[Shard], advance: Callable[[int], None]
) -> list[FileRecord]:
    """Build every shard: its vectors as FAISS, its objects as Parquet, in the same order; return both files of each."""

    def build(record: dict[str, Any]) -> dict[str, Any]:
        files = build_shard(components, index, int(record["number"]), list(record["paths"]))
        return {"files": [encode(file) for file in files], "n_rows": record["n_rows"]}

    records = [
        {
            "number": shard.number,
            "paths": [part.partition.path for part in shard.partitions],
            "n_rows": sum(part.n_rows for part in shard.partitions),
        }
        for shard in shards
    ]
    files = []
    for record in stream(records, {"fn": build}):
        advance(record["n_rows"])
        files += [decode(FileRecord, data, "file record") for data in record["files"]]
    return sorted(files, key=lambda file: file.path)


def build_shard(components: Store, index: Store, number: int, partition_paths: Sequence[str]) -> list[FileRecord]:
    """Build one shard from whole partitions."""
    objects = (OBJECT_ID, RA, DEC, CUTOUT)
    tables = [read_table(components, path) for path in partition_paths]
    table = pa.concat_tables(
        [part.select([c for c in (*objects, COMPONENTS) if c in part.column_names]) for part in tables]
    )
    return [
        write_flat_shard(index, paths.shard(number), as_matrix(table[COMPONENTS])),
        write_table(index, paths.shard_objects(number), table.drop_columns([COMPONENTS])),
    ]
