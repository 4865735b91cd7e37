"""Job: embed. Every planned object becomes a row of the embeddings catalogue or a reject with its reason."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from time import perf_counter

from engine.cluster.assemble import assemble, collect_rejects, read_commits
from engine.cluster.embed import embed
from engine.cluster.session import Resources, connect
from engine.cluster.unit import EmbedTask
from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import as_parent, claim, find, finish, library_versions, utc_now
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import read_table, write_table
from engine.storage.store import Store
from jobs.report import note, progress, reused
from schemas import paths
from schemas.config import CutoutConfig, EmbedConfig, RayConfig
from schemas.errors import ConfigError, IntegrityError
from schemas.manifest import Commit, Manifest
from schemas.partition import Partition, Unit
from schemas.preset import load_preset
from schemas.tables import OBJECT_ID


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
    device = _device(config.device, resources)
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
        device=device,
    )
    workers = config.workers or (resources.gpus if device == "cuda" else resources.cores)
    units = [Unit(**row) for row in read_table(store.below(paths.artefact("plan", plan.id)), paths.UNITS).to_pylist()]
    commits = _embed_missing(units, task, workers, resources, store)
    embedded_s = perf_counter() - started
    manifest = _finalise(units, commits, plan, network, config.preset, embeddings_id, identity, embedded_s, store)
    store.delete_folder(paths.work(embeddings_id))
    return manifest


def _embed_missing(
    units: Sequence[Unit], task: EmbedTask, workers: int, resources: Resources, store: Store
) -> dict[str, Commit]:
    commits = read_commits(store, task.embeddings_id)
    if commits:
        note("embed", f"{len(commits):,} of {len(units):,} units already done")
    missing = [unit for unit in units if unit.name not in commits]
    already = sum(commit.n_planned for commit in commits.values())
    total = sum(unit.n_rows for unit in units)
    with progress("embed", total, "cutouts", done=already) as advance:
        for commit in embed(missing, task, min(workers, max(1, len(missing))), resources):
            commits[commit.unit] = commit
            advance(commit.n_planned)
    return commits


def _finalise(
    units: Sequence[Unit],
    commits: dict[str, Commit],
    plan: Manifest,
    network: Manifest,
    preset_name: str,
    embeddings_id: str,
    identity: dict[str, object],
    embedded_s: float,
    store: Store,
) -> Manifest:
    started = perf_counter()
    ordered = [commits[unit.name] for unit in units]
    partitions: dict[Partition, list[Commit]] = defaultdict(list)
    for unit in units:
        partitions[unit.partition].append(commits[unit.name])
    with progress("assemble", len(partitions), "partitions") as advance:
        written = assemble(store, embeddings_id, partitions, advance)
    folder = store.below(paths.artefact("embeddings", embeddings_id))
    planned_rejects = read_table(store.below(paths.artefact("plan", plan.id)), paths.REJECTS)
    rejects = collect_rejects(store, embeddings_id, ordered, planned_rejects)
    n_embedded = sum(part.n_rows for part in written)
    by_reason = Counter(rejects["reason"].to_pylist())
    embedded_digest = add_digests(commit.embedded_digest for commit in ordered)
    rejected_digest = id_digest(rejects[OBJECT_ID].to_pylist())
    _check_accounting(plan, n_embedded, len(rejects), add_digests([embedded_digest, rejected_digest]))
    files = [part.file for part in written] + [write_table(folder, paths.REJECTS, rejects)]
    if written:
        files += write_hats_metadata(folder, "embeddings", [part.partition for part in written], n_embedded)
    manifest = Manifest(
        kind="embeddings",
        id=embeddings_id,
        identity=identity,
        parents={"plan": as_parent(plan), "encoder": as_parent(network)},
        counts={"planned": plan.counts["planned"], "embedded": n_embedded, "rejected": len(rejects)},
        detail={
            "dimension": network.detail["dimension"],
            "preset": preset_name,
            "preset_sha256": load_preset(preset_name).sha256,
            "rejected_by_reason": dict(by_reason),
            "embedded_digest": embedded_digest,
            "rejected_digest": rejected_digest,
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        files=files,
        versions=library_versions(),
        durations_s={
            "embed": embedded_s,
            "assemble": perf_counter() - started,
            "encode_sum": sum(commit.durations_s["encode"] for commit in ordered),
            "unit_sum": sum(commit.durations_s["total"] for commit in ordered),
        },
        created_utc=utc_now(),
    )
    reasons = "".join(f", {count:,} {reason}" for reason, count in sorted(by_reason.items()))
    counts = manifest.counts
    note("accounting", f"{counts['planned']:,} planned = {n_embedded:,} embedded + {len(rejects):,} rejected{reasons}")
    return finish(store, manifest)


def _check_accounting(plan: Manifest, n_embedded: int, n_rejected: int, digest: str) -> None:
    if plan.counts["planned"] != n_embedded + n_rejected or plan.detail["planned_digest"] != digest:
        raise IntegrityError(
            f"expected planned = embedded + rejected, found {plan.counts['planned']} planned, {n_embedded} embedded, "
            f"{n_rejected} rejected, id digests {plan.detail['planned_digest']} and {digest}; nothing was published"
        )


def _device(wanted: str, resources: Resources) -> str:
    if wanted == "cuda" and not resources.gpus:
        raise ConfigError("embed.device: expected a GPU for 'cuda', found none in the Ray cluster; use 'cpu' or 'auto'")
    return "cuda" if resources.gpus and wanted != "cpu" else "cpu"
