"""Assembling: committed rows of units become the partitions of the embeddings catalogue. Nothing else counts."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

from engine.cluster.changes import Carried, carried_rows, same_file
from engine.cluster.protocol import read_commit
from engine.cluster.stream import stream
from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import decode, encode
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import parse_table, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord, Manifest
from schemas.partition import Partition, PartitionFile, Unit
from schemas.tables import HEALPIX, OBJECT_ID, REASON


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


def assemble(
    store: Store,
    plan: Manifest,
    embeddings_id: str,
    run_id: str,
    units: Sequence[Unit],
    carried: Carried | None,
    advance: Callable[[int], None],
) -> Assembled:
    """Make the embeddings catalogue and its rejects from committed units, one Ray task per partition.

    Parameters
    ----------
    run_id : str
        Names the folder of work.
    units : sequence of Unit
        In the order of the plan; all are committed.
    carried : Carried, optional
        What is taken over from the release before.
    advance : callable
        Told of each partition that is written.

    Raises
    ------
    IntegrityError
        A committed file changed, or the units do not account for every planned object.
    """
    partitions: dict[Partition, list[str]] = {part: [] for part in (carried.partitions if carried else ())}
    for unit in units:
        partitions.setdefault(unit.partition, []).append(unit.name)
    objects = store.below(paths.artefact("plan", plan.id))
    folder = store.below(paths.artefact("embeddings", embeddings_id))
    written, digests, rejected = _write_partitions(
        lambda partition, units: assemble_partition(store, run_id, folder, partition, units, objects, carried),
        partitions,
        advance,
    )
    planned = read_table(objects, paths.REJECTS)
    work = store.below(paths.work(run_id))
    rejects = pa.concat_tables([planned, *(_committed_table(work, file) for file in rejected)])
    files = [part.file for part in written] + [write_table(folder, paths.REJECTS, rejects)]
    n_embedded = sum(part.n_rows for part in written)
    if written:
        files += write_hats_metadata(folder, "embeddings", [part.partition for part in written], n_embedded)
    assembled = Assembled(
        partitions=written,
        files=files,
        n_embedded=n_embedded,
        rejected=dict(Counter(rejects[REASON].to_pylist())),
        embedded_digest=add_digests(digests),
        rejected_digest=id_digest(rejects[OBJECT_ID].to_pylist()),
    )
    digest = add_digests([assembled.embedded_digest, assembled.rejected_digest])
    check_accounting(plan, n_embedded, len(rejects), digest)
    return assembled


def _write_partitions(
    assembled: Callable[[Partition, list[str]], "AssembledPartition"],
    partitions: dict[Partition, list[str]],
    advance: Callable[[int], None],
) -> tuple[list[PartitionFile], list[str], list[FileRecord]]:
    def write(record: dict[str, Any]) -> dict[str, Any]:
        made = assembled(Partition(record["order"], record["pixel"]), record["units"])
        return {
            "written": [encode(made.written)] if made.written else [],
            "embedded_digest": made.embedded_digest,
            "rejects": [encode(file) for file in made.rejects],
        }

    records = [
        {"order": partition.order, "pixel": partition.pixel, "units": units} for partition, units in partitions.items()
    ]
    written, digests, rejects = [], [], []
    for record in stream(records, {"fn": write}):
        advance(1)
        written += [decode(PartitionFile, data, "partition record") for data in record["written"]]
        rejects += [decode(FileRecord, data, "file record") for data in record["rejects"]]
        digests.append(record["embedded_digest"])
    return (
        sorted(written, key=lambda file: file.partition.first_healpix),
        digests,
        sorted(rejects, key=lambda file: file.path),
    )


class AssembledPartition(NamedTuple):
    """One partition of the embeddings catalogue."""

    written: PartitionFile | None
    """None where every row was rejected."""
    embedded_digest: str
    rejects: list[FileRecord]
    """Files of its units' rejects, in the work folder."""


def assemble_partition(
    store: Store,
    run_id: str,
    folder: Store,
    partition: Partition,
    units: Sequence[str],
    objects: Store,
    carried: Carried | None = None,
) -> AssembledPartition:
    """Write one partition: the committed rows of its units, and those that are carried over, in the plan's order.

    Where all of it is as in the release before, that file is taken over.
    """
    work = store.below(paths.work(run_id))
    commits = [read_commit(store, run_id, unit) for unit in units]
    tables = [_committed_table(work, commit.files[0]) for commit in commits]
    digests = [commit.ok_digest for commit in commits]
    rejects = [commit.files[1] for commit in commits if commit.rejected]
    if carried and partition in carried.partitions:
        taken = read_table(carried.changes, paths.carried(*partition))
        planned = read_table(objects, partition.path)
        digests.append(id_digest(taken[OBJECT_ID].to_pylist()))
        if not units and (same := same_file(planned, partition, carried.before)):
            folder.take_over(carried.before.folder, same.file)
            return AssembledPartition(same, add_digests(digests), rejects)
        tables.append(carried_rows(planned, taken, carried.before))
    table = pa.concat_tables(tables)
    if carried:
        table = table.sort_by([(HEALPIX, "ascending"), (OBJECT_ID, "ascending")])
    if table.num_rows == 0:
        return AssembledPartition(None, add_digests(digests), rejects)
    record = write_table(folder, partition.path, table)
    written = PartitionFile(partition=partition, n_rows=table.num_rows, file=record)
    return AssembledPartition(written, add_digests(digests), rejects)


def check_accounting(plan: Manifest, n_ok: int, n_rejected: int, digest: str) -> None:
    """Check that the rows that were made and the rejects are the objects that were planned.

    Raises
    ------
    IntegrityError
        They are not, by number or by the digest of their ids.
    """
    n_planned = plan.counts["planned"]
    if n_planned != n_ok + n_rejected or plan.detail["planned_digest"] != digest:
        raise IntegrityError(
            f"expected planned = done + rejected, found {n_planned} planned, {n_ok} done, {n_rejected} rejected, "
            f"id digests {plan.detail['planned_digest']} and {digest}; nothing was published"
        )


def _committed_table(work: Store, record: FileRecord) -> pa.Table:
    return parse_table(work.read_verified(record), work.uri(record.path))
