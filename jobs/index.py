"""Job: index. Components become FAISS shards, and the finished chain becomes the current release."""

from time import perf_counter

from engine.cluster.index import build_shards, plan_shards
from engine.cluster.session import connect
from engine.storage.artefacts import as_parent, find, finish, library_versions, publish, utc_now
from engine.storage.lease import Held
from engine.storage.store import Store
from jobs.report import note, progress, reused
from schemas import paths
from schemas.config import IndexConfig, RayConfig
from schemas.manifest import Manifest, identity_id
from schemas.partition import PartitionFile


def run(components: Manifest, config: IndexConfig, ray: RayConfig, store: Store, held: Held) -> Manifest:
    """Build the index, or confirm that it is there; then publish the release that ends in it.

    Raises
    ------
    BusyError
        Another run took over the lease.
    """
    identity = {"components": components.id, "kind": config.kind, "rows_per_shard": config.rows_per_shard}
    index_id = identity_id("index", identity)
    done = find(store, "index", index_id)
    manifest = reused(done) if done else _build(components, config, ray, index_id, identity, store)
    held.check()
    release = publish(store, manifest)
    note("release", f"{release.id} is current in {store.uri()}")
    for kind in ("embeddings", "components"):
        note(kind, store.uri(paths.artefact(kind, release.artefacts[kind].id)))
    return manifest


def _build(
    components: Manifest, config: IndexConfig, ray: RayConfig, index_id: str, identity: dict[str, object], store: Store
) -> Manifest:
    started = perf_counter()
    shards = plan_shards(
        [PartitionFile.model_validate(part) for part in components.detail["partitions"]], config.rows_per_shard
    )
    source = store.below(paths.artefact("components", components.id))
    target = store.below(paths.artefact("index", index_id))
    connect(ray)
    with progress("index", components.counts["components"], "objects") as advance:
        files = build_shards(source, target, shards, advance)
    manifest = Manifest(
        kind="index",
        id=index_id,
        identity=identity,
        parents={"components": as_parent(components)},
        counts={"indexed": components.counts["components"], "shards": len(shards)},
        detail={"metric": "L1", "kind": config.kind, "exact": True},
        files=files,
        versions=library_versions(),
        durations_s={"index": perf_counter() - started},
        created_utc=utc_now(),
    )
    return finish(store, manifest)
