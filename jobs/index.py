"""Job: index. Components become searchable shards, and the finished chain becomes the current release."""

from time import perf_counter
from typing import Any

from engine.cluster.index import (
    RECALL_K,
    Before,
    build_shards,
    cut_pieces,
    measure_recall,
    read_cells,
    train_cells,
)
from engine.cluster.session import connect
from engine.compute.boxes import bytes_per_vector
from engine.compute.quantiser import n_cells_for
from engine.storage.artefacts import as_parent, find, finish, library_versions, partitions_of, publish, utc_now
from engine.storage.lease import Held
from engine.storage.store import Store, file_record
from jobs.previous import Previous, basis_in
from jobs.report import note, progress, reused
from schemas import paths
from schemas.config import IndexConfig, RayConfig
from schemas.errors import IntegrityError
from schemas.index import IndexDetail
from schemas.manifest import Manifest, identity_id

MOST_GROWTH = 1.5
"""Times `rows_per_shard` that kept shards may hold on average before they are cut anew."""


def run(
    components: Manifest,
    config: IndexConfig,
    ray: RayConfig,
    store: Store,
    held: Held,
    previous: Previous | None = None,
) -> Manifest:
    """Build the index, or confirm that it is there; then publish the release that ends in it.

    Onto a previous release whose basis is kept, its cells are kept too, and shards that did not change are taken over.

    Raises
    ------
    BusyError
        Another run took over the lease.
    DataError
        Components are not finite.
    IntegrityError
        The shards do not hold as many objects as there are components.
    """
    identity = _identity(components, config, previous)
    index_id = identity_id("index", identity)
    done = find(store, "index", index_id)
    keeps = previous and ("cells_of" in identity or identity == previous.index.identity)
    before = previous if keeps else None
    manifest = reused(done) if done else _build(components, config, ray, index_id, identity, store, before)
    held.check()
    release = publish(store, manifest)
    store.below(paths.work(index_id)).delete_folder("")
    note("release", f"{release.id} is current in {store.uri()}")
    for kind in ("embeddings", "components"):
        note(kind, store.uri(paths.artefact(kind, release.artefacts[kind].id)))
    return manifest


def _identity(components: Manifest, config: IndexConfig, previous: Previous | None) -> dict[str, Any]:
    n_rows, dimension = components.counts["components"], components.detail["n_components"]
    rows_per_shard = config.rows_per_shard or (config.shard_mib << 20) // bytes_per_vector(dimension)
    identity = {
        "components": components.id,
        "kind": config.kind,
        "n_shards": max(1, -(-n_rows // rows_per_shard)),
        "n_cells": config.cells or n_cells_for(n_rows),
    }
    if previous is None:
        return identity
    before = previous.index.identity
    if before["components"] == components.id and before["kind"] == config.kind:
        return before
    keeps = basis_in(components.identity) == basis_in(previous.components.identity)
    if not keeps or before["kind"] != config.kind or n_rows > MOST_GROWTH * rows_per_shard * before["n_shards"]:
        return identity
    kept = {name: before[name] for name in ("n_shards", "n_cells")}
    return identity | kept | {"cells_of": before.get("cells_of", previous.index.id)}


def _build(
    components: Manifest,
    config: IndexConfig,
    ray: RayConfig,
    index_id: str,
    identity: dict[str, Any],
    store: Store,
    previous: Previous | None,
) -> Manifest:
    started = perf_counter()
    partitions = partitions_of(components)
    n_rows, dimension = components.counts["components"], components.detail["n_components"]
    source = store.below(paths.artefact("components", components.id))
    target, work = store.below(paths.artefact("index", index_id)), store.below(paths.work(index_id))
    before = _before(previous) if previous else None
    connect(ray)
    if not target.exists(paths.CELLS):
        work.delete_folder("")  # Shards by other cells would lose objects and hold others twice.
        if before:
            target.take_over(before.folder, before.cells)
        else:
            with progress("place cells", 1, "task") as advance:
                train_cells(source, target, partitions, identity["n_cells"], identity["n_shards"])
                advance(1)
    with progress("sort into shards", n_rows, "objects") as advance:
        groups = cut_pieces(source, target, work, partitions, advance)
    with progress("index", n_rows, "objects") as advance:
        shards = build_shards(target, work, groups, config.kind, advance, before)
    with progress("measure recall", 1, "task") as advance:
        settings = measure_recall(target, shards, config.kind, dimension)
        advance(1)
    n_indexed = sum(shard.n_rows for shard in shards)
    if n_indexed != n_rows:
        raise IntegrityError(
            f"{target.uri()}: expected shards of {n_rows:,} objects, found {n_indexed:,}; "
            f"delete this folder and {work.uri()}, and run the same command again"
        )
    cells = read_cells(target)
    detail = IndexDetail(
        kind=config.kind,
        dimension=dimension,
        n_cells=len(cells["centroids"]),
        shards=shards,
        settings=settings,
        recall_k=RECALL_K,
        n_held_out=len(cells["held_out"]),
    )
    manifest = Manifest(
        kind="index",
        id=index_id,
        identity=identity,
        parents={"components": as_parent(components)},
        counts={"indexed": n_indexed, "shards": len(shards)},
        detail=detail.model_dump(mode="json"),
        files=[file_record(paths.CELLS, target.read(paths.CELLS)), *(file for shard in shards for file in shard.files)],
        versions=library_versions(),
        durations_s={"index": perf_counter() - started},
        created_utc=utc_now(),
    )
    return finish(store, manifest)


def _before(previous: Previous) -> Before:
    folder = previous.store.below(paths.artefact("index", previous.index.id))
    cells = next(file for file in previous.index.files if file.path == paths.CELLS)
    shards = IndexDetail.model_validate(previous.index.detail).shards
    return Before(folder, cells, {shard.number: shard for shard in shards if shard.rows_sha256})
