"""Assembling: committed rows of units become the partitions of the embeddings catalogue. Nothing else counts."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from engine.cluster.stream import stream
from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import decode, encode
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import parse_table, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import Commit, FileRecord, Manifest
from schemas.partition import Partition, PartitionFile, Unit
from schemas.tables import OBJECT_ID, REASON


class Assembled(NamedTuple):
    """The embeddings catalogue of a run, accounted for."""

    partitions: list[PartitionFile]
    """In order of position; partitions whose every row was rejected have no file."""
    files: list[FileRecord]
    """Every file of the catalogue, the rejects table among them."""
    n_embedded: int
    rejected: dict[str, int]
    """Rows by reason, those that planning rejected included."""
    embedded_digest: str
    rejected_digest: str


def read_commits(store: Store, embeddings_id: str) -> dict[str, Commit]:
    """Read the commit records of a run that are there already, by unit."""
    found = store.list(paths.commits(embeddings_id))
    commits = (decode(Commit, store.read(path), store.uri(path)) for path in found if path.endswith(".json"))
    return {commit.unit: commit for commit in commits}


def assemble(
    store: Store,
    plan: Manifest,
    embeddings_id: str,
    done: Sequence[tuple[Unit, Commit]],
    advance: Callable[[int], None],
) -> Assembled:
    """Make the embeddings catalogue and its rejects from committed units, one Ray task per partition.

    Parameters
    ----------
    done : sequence of (Unit, Commit)
        Every unit of the plan, in the plan's order.
    advance : callable
        Told of each partition that is written.

    Raises
    ------
    IntegrityError
        A committed file changed, or the units do not account for every planned object.
    """
    partitions: dict[Partition, list[Commit]] = defaultdict(list)
    for unit, commit in done:
        partitions[unit.partition].append(commit)
    written = _write_partitions(store, embeddings_id, partitions, advance)
    folder = store.below(paths.artefact("embeddings", embeddings_id))
    rejects = _collect_rejects(store, plan, embeddings_id, [commit for _, commit in done])
    files = [part.file for part in written] + [write_table(folder, paths.REJECTS, rejects)]
    n_embedded = sum(part.n_rows for part in written)
    if written:
        files += write_hats_metadata(folder, "embeddings", [part.partition for part in written], n_embedded)
    assembled = Assembled(
        partitions=written,
        files=files,
        n_embedded=n_embedded,
        rejected=dict(Counter(rejects[REASON].to_pylist())),
        embedded_digest=add_digests(commit.embedded_digest for _, commit in done),
        rejected_digest=id_digest(rejects[OBJECT_ID].to_pylist()),
    )
    _check_accounting(plan, assembled)
    return assembled


def _write_partitions(
    store: Store, embeddings_id: str, partitions: dict[Partition, list[Commit]], advance: Callable[[int], None]
) -> list[PartitionFile]:
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


def _collect_rejects(store: Store, plan: Manifest, embeddings_id: str, commits: Sequence[Commit]) -> pa.Table:
    planned = read_table(store.below(paths.artefact("plan", plan.id)), paths.REJECTS)
    work = store.below(paths.work(embeddings_id))
    return pa.concat_tables(
        [planned, *(_committed_table(work, commit.files[1]) for commit in commits if commit.rejected)]
    )


def _check_accounting(plan: Manifest, found: Assembled) -> None:
    n_planned, n_rejected = plan.counts["planned"], sum(found.rejected.values())
    digest = add_digests([found.embedded_digest, found.rejected_digest])
    if n_planned != found.n_embedded + n_rejected or plan.detail["planned_digest"] != digest:
        raise IntegrityError(
            f"expected planned = embedded + rejected, found {n_planned} planned, {found.n_embedded} embedded, "
            f"{n_rejected} rejected, id digests {plan.detail['planned_digest']} and {digest}; nothing was published"
        )


def _committed_table(work: Store, record: FileRecord) -> pa.Table:
    return parse_table(work.read_verified(record), work.uri(record.path))
