"""Assembling: committed rows of units become the partitions of the embeddings catalogue. Nothing else counts."""

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from engine.cluster.stream import stream
from engine.storage.artefacts import decode, encode
from engine.storage.parquet import parse_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Commit, FileRecord
from schemas.partition import Partition, PartitionFile


def read_commits(store: Store, embeddings_id: str) -> dict[str, Commit]:
    """Read the commit records of a run that are there already, by unit."""
    found = store.list(paths.commits(embeddings_id))
    commits = (decode(Commit, store.read(path), store.uri(path)) for path in found if path.endswith(".json"))
    return {commit.unit: commit for commit in commits}


def assemble(
    store: Store, embeddings_id: str, partitions: dict[Partition, list[Commit]], advance: Callable[[int], None]
) -> list[PartitionFile]:
    """Write every partition that has rows, from its units' committed rows in the order given; one Ray task each."""

    def write(record: dict[str, Any]) -> dict[str, Any]:
        commits = [decode(Commit, data, "commit record") for data in record["commits"]]
        written = assemble_partition(store, embeddings_id, Partition(record["order"], record["pixel"]), commits)
        return {"files": [encode(written)] if written else []}

    records = [
        {"order": partition.order, "pixel": partition.pixel, "commits": [encode(commit) for commit in commits]}
        for partition, commits in partitions.items()
    ]
    written = []
    for record in stream(records, write):
        advance(1)
        written += [decode(PartitionFile, data, "partition record") for data in record["files"]]
    return sorted(written, key=lambda file: file.partition.first_healpix)


def assemble_partition(
    store: Store, embeddings_id: str, partition: Partition, commits: Sequence[Commit]
) -> PartitionFile | None:
    """Write one partition from its units' committed rows; None where every row was rejected."""
    work = store.below(paths.work(embeddings_id))
    table = pa.concat_tables([_committed_table(work, commit.files[0]) for commit in commits])
    if table.num_rows == 0:
        return None
    record = write_table(store.below(paths.artefact("embeddings", embeddings_id)), partition.path, table)
    return PartitionFile(partition=partition, n_rows=table.num_rows, file=record)


def collect_rejects(store: Store, embeddings_id: str, commits: Sequence[Commit], planned: pa.Table) -> pa.Table:
    """Join the rejects of planning with those of every unit."""
    work = store.below(paths.work(embeddings_id))
    units = [_committed_table(work, commit.files[1]) for commit in commits if commit.rejected]
    return pa.concat_tables([planned, *units])


def _committed_table(work: Store, record: FileRecord) -> pa.Table:
    return parse_table(work.read_verified(record), work.uri(record.path))
