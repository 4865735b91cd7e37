"""Job: embed. Every planned object becomes a row of the embeddings catalogue or a reject with its reason."""

import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from engine.cluster.assemble import assemble
from engine.cluster.embed import embed, most_workers
from engine.cluster.protocol import read_commits
from engine.cluster.session import Resources, connect
from engine.cluster.task import EmbedTask
from engine.compute.estimate import Machines, took
from engine.storage.artefacts import as_parent, claim, find, finish, library_versions, utc_now
from engine.storage.lease import Held
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs import changes
from jobs.previous import Previous, check_embedded_alike
from jobs.report import accounting, note, progress, reused, unit_done
from schemas import paths
from schemas.config import CutoutConfig, EmbedConfig, RayConfig
from schemas.errors import ConfigError, DataError
from schemas.manifest import Commit, Manifest
from schemas.partition import Unit
from schemas.preset import Preset, name_of

JUDGED_FROM = 1_000
"""Cutouts after which the fraction of rejects says something."""


class Done:
    """What a run has embedded so far. Its size grows with units, not with objects."""

    def __init__(self) -> None:
        self.units: set[str] = set()
        self.n_planned = 0
        self.n_here = 0
        self.rejected: Counter[str] = Counter()
        self.n_lost = 0
        self.durations_s: Counter[str] = Counter()
        self.runtimes: set[str] = set()
        self.at_work_s = 0.0

    def add(self, commit: Commit) -> None:
        """Count one committed unit."""
        self.units.add(commit.unit)
        self.n_planned += commit.n_planned
        self.rejected.update(commit.rejected)
        self.n_lost += commit.attempt - 1
        self.durations_s.update(commit.durations_s)
        if commit.runtime:
            self.runtimes.add(commit.runtime)


def run(
    plan: Manifest,
    network: Manifest,
    preset: Preset,
    cutouts: CutoutConfig,
    config: EmbedConfig,
    ray: RayConfig,
    store: Store,
    held: Held,
    previous: Previous | None = None,
) -> Manifest:
    """Embed a plan with an encoder, or go on where an earlier run of the same job stopped.

    Onto a previous release only what differs from it is embedded; the other vectors are taken from there.

    Raises
    ------
    OutputError
        The output belongs to another encoder, preset or plan.
    DataError
        More of the cutouts are rejected than the job allows. What is committed stays.
    IntegrityError
        The committed units do not account for every planned object.
    BusyError
        Another run took over the lease.
    SystemExit
        The process was told to terminate, and the units in work are committed.
    """
    identity = {
        "engine": library_versions()["voorwerp"],
        "plan": plan.id,
        "encoder": network.id,
        "architecture": network.identity["architecture"],
        "weights_sha256": network.identity["weights_sha256"],
        "preset": preset.settings,
        "views": config.views,
        "precision": config.precision,
        "cutouts": cutouts.model_dump(mode="json", exclude={"max_seconds"}),
    }
    if previous:
        check_embedded_alike(previous, identity)
    embeddings_id = claim(store, "embeddings", identity, previous is not None and previous.is_in(store))
    finished = find(store, "embeddings", embeddings_id)
    if finished:
        if previous:  # A run that died right after finishing leaves its work.
            store.delete_folder(paths.work(changes.changes_id(plan, previous)))
        return reused(finished)
    started = perf_counter()
    resources = connect(ray)
    machines = choose_machines(config, resources)
    changed = changes.run(plan, previous, store) if previous else None
    source = changed or plan
    run_id = changed.id if changed else embeddings_id
    task = make_task(source, network, preset, cutouts, config, store, run_id, held.holder, machines)
    units = read_units(source, store)
    done = _embed_missing(units, task, config, machines, resources, store, held)
    embedded_s = perf_counter() - started
    with progress("assemble", plan.counts["partitions"], "partitions") as advance:
        taken = changes.carried(changed, previous, store) if changed and previous else None
        found = assemble(store, plan, embeddings_id, run_id, units, taken, advance)
    manifest = Manifest(
        kind="embeddings",
        id=embeddings_id,
        identity=identity,
        parents={"plan": as_parent(plan), "encoder": as_parent(network)},
        counts={
            "planned": plan.counts["planned"],
            "embedded": found.n_embedded,
            "rejected": sum(found.rejected.values()),
            **({"carried": changed.counts["carried"]} if changed else {}),
        },
        detail={
            **({"onto": changed.detail["onto"] | {"changes": changed.id}} if changed else {}),
            "dimension": network.detail["dimension"],
            "preset": config.preset or name_of(preset),
            "preset_sha256": preset.sha256,
            "rejected_by_reason": found.rejected,
            "embedded_digest": found.embedded_digest,
            "rejected_digest": found.rejected_digest,
            "partitions": [part.model_dump(mode="json") for part in found.partitions],
            "device": machines.device,
            "workers": machines.workers,
            "runtimes": sorted(done.runtimes),
            "attempts_lost": done.n_lost,
            "took": took(
                machines.for_units(len(units)), done.n_here, done.at_work_s, done.n_planned, done.durations_s["encode"]
            ).model_dump(mode="json"),
        },
        files=found.files,
        versions=library_versions(),
        durations_s={
            "embed": embedded_s,
            "assemble": perf_counter() - started - embedded_s,
            "at_work": done.at_work_s,
            "encode_sum": done.durations_s["encode"],
            "unit_sum": done.durations_s["total"],
        },
        created_utc=utc_now(),
    )
    note("accounting", accounting(manifest))
    held.check()
    manifest = finish(store, manifest)
    store.delete_folder(paths.work(run_id))
    return manifest


def _embed_missing(
    units: Sequence[Unit],
    task: EmbedTask,
    config: EmbedConfig,
    machines: Machines,
    resources: Resources,
    store: Store,
    held: Held,
) -> Done:
    done = Done()
    for commit in read_commits(store, task.run_id):
        done.add(commit)
    if done.units:
        note("embed", f"{len(done.units):,} of {len(units):,} units already done")
    missing = [unit for unit in units if unit.name not in done.units]
    workers = machines.for_units(len(missing)).workers
    with (
        progress("embed", sum(unit.n_rows for unit in units), "cutouts", done=done.n_planned) as advance,
        _draining(store, task) as terminated,
    ):
        first_began: float | None = None
        for commit in embed(missing, task, workers, resources, machines.in_stages):
            if first_began is None:
                first_began = perf_counter() - commit.durations_s["total"]
            done.at_work_s = perf_counter() - first_began
            done.add(commit)
            unit_done("embed", commit)
            done.n_here += commit.n_planned
            advance(commit.n_planned)
            held.check()
            _check_rejects(done, config.max_reject_fraction)
    if terminated.is_set():
        note("embed", f"terminated with {len(done.units):,} of {len(units):,} units done; run again to go on")
        sys.exit(128 + signal.SIGTERM)
    if done.n_lost:
        note("embed", f"{done.n_lost:,} attempts lost to workers that died, and made again")
    return done


def _check_rejects(done: Done, most: float) -> None:
    n_rejected = done.rejected.total()
    if done.n_planned >= JUDGED_FROM and n_rejected > most * done.n_planned:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in done.rejected.most_common())
        raise DataError(
            f"{n_rejected:,} of the first {done.n_planned:,} cutouts were rejected ({reasons}), more than "
            f"embed.max_reject_fraction {most:g}. Correct the cause and run again, or allow more to go on from here."
        )


@contextmanager
def _draining(store: Store, task: EmbedTask) -> Iterator[threading.Event]:
    """On the first SIGTERM tell the workers to begin no further unit; a second one stops at once."""
    terminated = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield terminated
        return

    def drain(signum: int, frame: Any) -> None:
        terminated.set()
        signal.signal(signal.SIGTERM, before)
        mark = paths.drain(task.run_id, task.holder)
        threading.Thread(target=store.write, args=(mark, b""), daemon=True).start()
        note("embed", "told to terminate: units in work are finished first (terminate again to stop at once)")

    before = signal.signal(signal.SIGTERM, drain)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def make_task(
    source: Manifest,
    network: Manifest,
    preset: Preset,
    cutouts: CutoutConfig,
    config: EmbedConfig,
    store: Store,
    run_id: str,
    holder: str,
    machines: Machines,
) -> EmbedTask:
    """Compose what all units of a run share: of a plan, or of the changes of one."""
    return EmbedTask(
        output=store.uri(),
        objects=paths.artefact(source.kind, source.id),
        encoder_id=network.id,
        run_id=run_id,
        holder=holder,
        architecture=network.identity["architecture"],
        dimension=network.detail["dimension"],
        preset=preset,
        views=config.views,
        batch_size=config.batch_size,
        precision=config.precision,
        runtime=config.runtime,
        cutouts=cutouts,
        device=machines.device,
    )


def read_units(source: Manifest, store: Store) -> list[Unit]:
    """Read the units of a plan, or of its changes, in its order."""
    table = read_table(store.below(paths.artefact(source.kind, source.id)), paths.UNITS)
    return [Unit(**row) for row in table.to_pylist()]


def choose_machines(config: EmbedConfig, resources: Resources) -> Machines:
    """Choose the device and the number of encoder actors.

    Raises
    ------
    ConfigError
        GPUs are wanted, and there are none; or more actors than the cluster holds.
    """
    if config.device == "cuda" and not resources.gpus:
        raise ConfigError("embed.device: expected a GPU for 'cuda', found none in the Ray cluster; use 'cpu' or 'auto'")
    device = "cuda" if resources.gpus and config.device != "cpu" else "cpu"
    workers = config.workers or (resources.gpus if device == "cuda" else resources.cores)
    if workers > most_workers(device, resources):
        raise ConfigError(
            f"embed.workers: expected at most {most_workers(device, resources)} on this cluster, found {workers}"
        )
    return Machines(
        device=device,
        workers=workers,
        cores=resources.cores,
        in_stages=config.stages == "apart" or (config.stages == "auto" and device == "cuda"),
        is_local=resources.is_local,
    )
