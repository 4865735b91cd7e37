"""Job: pack. The cutouts of a catalogue become one HATS catalogue that holds them: fewer, larger reads later."""

from collections import Counter
from time import perf_counter
from typing import Any

import pyarrow as pa

from engine.cluster.assemble import check_accounting
from engine.cluster.pack import PackTask, pack
from engine.cluster.protocol import read_commits
from engine.cluster.session import connect
from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import as_parent, claim, find, finish, library_versions, utc_now
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.lease import Held, lease
from engine.storage.parquet import parse_table, read_table, write_table
from engine.storage.store import Store
from jobs import plan
from jobs.report import accounting, note, progress, reused, unit_done
from schemas import paths
from schemas.config import PackJob
from schemas.manifest import Commit, Manifest
from schemas.partition import Partition, Unit
from schemas.tables import OBJECT_ID, REASON


def run(job: PackJob) -> Manifest:
    """Pack a catalogue's cutouts, or go on where an earlier run of the same job stopped.

    Raises
    ------
    InputNotFoundError, DataError
        The catalogue is missing or cannot be used as a whole, or its cutouts are stacks, which need no packing.
    OutputError
        The output belongs to another catalogue.
    BusyError
        Another run works on this output.
    """
    store = Store(job.output)
    with lease(store) as held:
        planned = plan.run(job.catalogue, job.plan, store)
        packed = _run(planned, job, store, held)
    note("packed", store.uri(paths.artefact("packed", packed.id)))
    return packed


def _run(planned: Manifest, job: PackJob, store: Store, held: Held) -> Manifest:
    identity = {
        "plan": planned.id,
        "rows_per_group": job.pack.rows_per_group,
        "cutouts": job.cutouts.model_dump(mode="json", include={"max_bytes", "check_md5"}),
    }
    packed_id = claim(store, "packed", identity)
    if done := find(store, "packed", packed_id):
        return reused(done)
    started = perf_counter()
    task = PackTask(
        output=store.uri(),
        plan_id=planned.id,
        packed_id=packed_id,
        cutouts=job.cutouts,
        rows_per_group=job.pack.rows_per_group,
    )
    commits = _pack_missing(planned, task, job, store, held)
    manifest = _assembled(planned, identity, packed_id, commits, store, started)
    note("accounting", accounting(manifest))
    held.check()
    manifest = finish(store, manifest)
    store.delete_folder(paths.work(packed_id))
    return manifest


def _pack_missing(planned: Manifest, task: PackTask, job: PackJob, store: Store, held: Held) -> list[Commit]:
    units = read_table(store.below(paths.artefact("plan", planned.id)), paths.UNITS).to_pylist()
    partitions = list(dict.fromkeys(Unit(**unit).partition for unit in units))
    commits = list(read_commits(store, task.packed_id))
    done = {commit.unit for commit in commits}
    if done:
        note("pack", f"{len(done):,} of {len(partitions):,} partitions already done")
    connect(job.ray)
    n_objects, n_done = planned.counts["planned"] - planned.counts["rejected"], sum(c.n_planned for c in commits)
    with progress("pack", n_objects, "cutouts", done=n_done) as advance:
        for commit in pack([part for part in partitions if part.name not in done], task):
            commits.append(commit)
            unit_done("pack", commit)
            advance(commit.n_planned)
            held.check()
    places = {partition.name: partition.first_healpix for partition in partitions}
    return sorted(commits, key=lambda commit: places[commit.unit])


def _assembled(
    planned: Manifest, identity: dict[str, Any], packed_id: str, commits: list[Commit], store: Store, started: float
) -> Manifest:
    folder, work = store.below(paths.artefact("packed", packed_id)), store.below(paths.work(packed_id))
    tables = [read_table(store.below(paths.artefact("plan", planned.id)), paths.REJECTS)]
    tables += [parse_table(work.read_verified(file), work.uri(file.path)) for c in commits for file in c.files[1:]]
    rejects = pa.concat_tables(tables)
    files = [commit.files[0] for commit in commits] + [write_table(folder, paths.REJECTS, rejects)]
    if commits:
        partitions = [Partition.of(commit.unit) for commit in commits]
        files += write_hats_metadata(folder, "packed", partitions, sum(commit.n_planned for commit in commits))
    counts = {
        "planned": planned.counts["planned"],
        "packed": sum(commit.n_ok for commit in commits),
        "rejected": len(rejects),
    }
    rejected_digest = id_digest(rejects[OBJECT_ID].to_pylist())
    check_accounting(
        planned, counts["packed"], len(rejects), add_digests([*(c.ok_digest for c in commits), rejected_digest])
    )
    return Manifest(
        kind="packed",
        id=packed_id,
        identity=identity,
        parents={"plan": as_parent(planned)},
        counts=counts,
        detail={"rejected_by_reason": dict(Counter(rejects[REASON].to_pylist()))},
        files=files,
        versions=library_versions(),
        durations_s={"pack": perf_counter() - started, "unit_sum": sum(c.durations_s["total"] for c in commits)},
        created_utc=utc_now(),
    )
