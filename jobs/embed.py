"""Job: embed. Every planned object becomes a row of the embeddings catalogue or a reject with its reason."""

from collections.abc import Sequence
from time import perf_counter

from engine.cluster.assemble import assemble, read_commits
from engine.cluster.embed import embed, most_workers
from engine.cluster.session import Resources, connect
from engine.cluster.unit import EmbedTask
from engine.storage.artefacts import as_parent, claim, find, finish, library_versions, utc_now
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs.report import accounting, note, progress, reused
from schemas import paths
from schemas.config import CutoutConfig, EmbedConfig, RayConfig
from schemas.errors import ConfigError
from schemas.manifest import Commit, Manifest
from schemas.partition import Unit
from schemas.preset import load_preset


def run(
    plan: Manifest, network: Manifest, cutouts: CutoutConfig, config: EmbedConfig, ray: RayConfig, store: Store
) -> Manifest:
    """Embed a plan with an encoder, or go on where an earlier run of the same job stopped.

    Raises
    ------
    OutputError
        The output belongs to another encoder, preset or plan.
    IntegrityError
        The committed units do not account for every planned object.
    """
    preset = load_preset(config.preset)
    identity = {
        "plan": plan.id,
        "encoder": network.id,
        "architecture": network.identity["architecture"],
        "weights_sha256": network.identity["weights_sha256"],
        "preset": preset.settings,
        "views": config.views,
        "cutouts": cutouts.model_dump(mode="json"),
    }
    embeddings_id = claim(store, "embeddings", identity)
    done = find(store, "embeddings", embeddings_id)
    if done:
        return reused(done)
    started = perf_counter()
    resources = connect(ray)
    task = EmbedTask(
        output=store.uri(),
        plan_id=plan.id,
        encoder_id=network.id,
        embeddings_id=embeddings_id,
        architecture=network.identity["architecture"],
        dimension=network.detail["dimension"],
        preset=preset,
        views=config.views,
        batch_size=config.batch_size,
        cutouts=cutouts,
        device=_device(config.device, resources),
    )
    units = [Unit(**row) for row in read_table(store.below(paths.artefact("plan", plan.id)), paths.UNITS).to_pylist()]
    commits = _embed_missing(units, task, config.workers, resources, store)
    embedded_s = perf_counter() - started
    done_units = [(unit, commits[unit.name]) for unit in units]
    with progress("assemble", plan.counts["partitions"], "partitions") as advance:
        found = assemble(store, plan, embeddings_id, done_units, advance)
    manifest = Manifest(
        kind="embeddings",
        id=embeddings_id,
        identity=identity,
        parents={"plan": as_parent(plan), "encoder": as_parent(network)},
        counts={
            "planned": plan.counts["planned"],
            "embedded": found.n_embedded,
            "rejected": sum(found.rejected.values()),
        },
        detail={
            "dimension": network.detail["dimension"],
            "preset": config.preset,
            "preset_sha256": preset.sha256,
            "rejected_by_reason": found.rejected,
            "embedded_digest": found.embedded_digest,
            "rejected_digest": found.rejected_digest,
            "partitions": [part.model_dump(mode="json") for part in found.partitions],
        },
        files=found.files,
        versions=library_versions(),
        durations_s={
            "embed": embedded_s,
            "assemble": perf_counter() - started - embedded_s,
            "encode_sum": sum(commit.durations_s["encode"] for commit in commits.values()),
            "unit_sum": sum(commit.durations_s["total"] for commit in commits.values()),
        },
        created_utc=utc_now(),
    )
    note("accounting", accounting(manifest))
    manifest = finish(store, manifest)
    store.delete_folder(paths.work(embeddings_id))
    return manifest


def _embed_missing(
    units: Sequence[Unit], task: EmbedTask, workers: int | None, resources: Resources, store: Store
) -> dict[str, Commit]:
    commits = read_commits(store, task.embeddings_id)
    if commits:
        note("embed", f"{len(commits):,} of {len(units):,} units already done")
    missing = [unit for unit in units if unit.name not in commits]
    workers = workers or (resources.gpus if task.device == "cuda" else resources.cores)
    if workers > most_workers(task.device, resources):
        raise ConfigError(
            f"embed.workers: expected at most {most_workers(task.device, resources)} on this cluster, found {workers}"
        )
    already = sum(commit.n_planned for commit in commits.values())
    with progress("embed", sum(unit.n_rows for unit in units), "cutouts", done=already) as advance:
        for commit in embed(missing, task, min(workers, max(1, len(missing))), resources):
            commits[commit.unit] = commit
            advance(commit.n_planned)
    return commits


def _device(wanted: str, resources: Resources) -> str:
    if wanted == "cuda" and not resources.gpus:
        raise ConfigError("embed.device: expected a GPU for 'cuda', found none in the Ray cluster; use 'cpu' or 'auto'")
    return "cuda" if resources.gpus and wanted != "cpu" else "cpu"
