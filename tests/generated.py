"""Releases made of vectors directly, without an encoder and without Ray.

Components and index are real, and so is the plan where one is given; nothing else is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster import index
from engine.cluster.map import column_of
from engine.compute import sky
from engine.compute.digest import id_digest
from engine.storage.artefacts import (
    as_parent,
    components_identity,
    current_manifest,
    finish,
    library_versions,
    partitions_of,
    publish,
    utc_now,
)
from engine.storage.parquet import as_vectors, read_table, write_table
from engine.storage.store import Store, file_record
from schemas import paths
from schemas.config import CutoutConfig
from schemas.index import IndexDetail, IndexKind
from schemas.manifest import Kind, Manifest, Release, identity_id
from schemas.map import MapDetail
from schemas.partition import Partition, PartitionFile
from schemas.space import SPACES, SpaceName
from schemas.tables import COMPONENTS, DEC, HEALPIX, MAP_X, MAP_Y, OBJECT_ID, RA


def positions(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the sky, (n,) degrees each."""
    random = np.random.default_rng(seed)
    return random.uniform(0, 360, n), np.degrees(np.arcsin(random.uniform(-1, 1, n)))


def clustered(n: int, dimension: int, seed: int = 0) -> np.ndarray:
    """Vectors like components: a few clouds, the first components widest. (n, dimension) float32."""
    random = np.random.default_rng(seed)
    scale = 10 * 0.8 ** np.arange(dimension)
    centres = random.normal(0, 1, (12, dimension))
    return ((centres[random.integers(0, 12, n)] + random.normal(0, 0.5, (n, dimension))) * scale).astype(np.float32)


def write_release(
    output: Path,
    objects: Mapping[str, Any],
    vectors: np.ndarray,
    n_shards: int = 3,
    n_cells: int = 12,
    kind: IndexKind = "ivf-flat",
    rows_per_partition: int = 100,
    plan: Manifest | None = None,
) -> Release:
    """Write a finished release of objects (`object_id`, `ra_deg`, `dec_deg` and others) and their vectors.

    With a plan of these objects, in the same output and partitioned as it says, their cutouts can be shown.
    """
    store = Store(str(output))
    table = pa.table(dict(objects))
    healpix = sky.healpix_29(table[RA].to_numpy(), table[DEC].to_numpy())
    order = np.argsort(healpix, kind="stable")
    table = table.add_column(0, pa.field(HEALPIX, pa.int64(), nullable=False), pa.array(healpix))
    table = table.append_column(pa.field(COMPONENTS, as_vectors(vectors).type, nullable=False), as_vectors(vectors))
    table, healpix = table.take(pa.array(order)), healpix[order]

    encoder = _finish(store, "encoder", {"architecture": "none", "bands": 1, "weights_sha256": "0"}, {"source": "none"})
    identity = {"catalogue": "generated", "rows_per_partition": rows_per_partition}
    digest = id_digest(table["object_id"].to_pylist())
    counts = {"planned": len(table), "rejected": 0, "units": 1, "partitions": 1}
    planned = {"catalogue": "/somewhere/generated.csv", "planned_digest": digest}
    plan = plan or _finish(store, "plan", identity, planned, counts=counts)
    cutouts = CutoutConfig().model_dump(mode="json", exclude={"max_seconds"})
    embeddings = _finish(
        store,
        "embeddings",
        {"plan": plan.id, "encoder": encoder.id, "architecture": "none", "cutouts": cutouts},
        {
            "preset": "none",
            "preset_sha256": "0",
            "rejected_by_reason": {},
            "embedded_digest": digest,
            "rejected_digest": id_digest([]),
        },
        {"plan": as_parent(plan), "encoder": as_parent(encoder)},
        {"planned": len(table), "embedded": len(table), "rejected": 0},
    )
    variance = vectors.var(axis=0)
    identity = {"embeddings": embeddings.id, "space": "search", "n_components": vectors.shape[1], "method": "exact"}
    folder = store.below(paths.artefact("components", identity_id("components", identity)))
    partitions = []
    for part in sky.partition(healpix, plan.identity["rows_per_partition"]):
        partition = Partition(part.order, part.pixel)
        rows = table.slice(part.start, part.stop - part.start)
        partitions.append(
            PartitionFile(partition=partition, n_rows=len(rows), file=write_table(folder, partition.path, rows))
        )
    components = _finish(
        store,
        "components",
        identity,
        {
            "n_components": vectors.shape[1],
            "explained_variance_ratio": (variance / max(variance.sum(), 1e-30)).tolist(),
            "partitions": [part.model_dump(mode="json") for part in partitions],
        },
        {"embeddings": as_parent(embeddings)},
        {"components": len(table)},
        [part.file for part in partitions],
    )
    return publish(store, _index(store, components, folder, partitions, n_shards, n_cells, kind))


def write_space(output: Path, space: SpaceName, ids: np.ndarray, vectors: np.ndarray) -> Manifest:
    """Write the components of another space beside those that a release searches: vectors in the order of ids."""
    store = Store(str(output))
    searched = current_manifest(store, "components")
    identity = components_identity(searched.identity["embeddings"], space, SPACES[space].n_components, "exact")
    source = store.below(paths.artefact("components", searched.id))
    folder = store.below(paths.artefact("components", identity_id("components", identity)))
    partitions = []
    for part in partitions_of(searched):
        table = read_table(source, part.partition.path)
        own = as_vectors(vectors[pc.index_in(table["object_id"], value_set=pa.array(ids)).to_numpy()])
        table = table.drop_columns([COMPONENTS]).append_column(pa.field(COMPONENTS, own.type, nullable=False), own)
        file = write_table(folder, part.partition.path, table)
        partitions.append(PartitionFile(partition=part.partition, n_rows=len(table), file=file))
    return _finish(
        store,
        "components",
        identity,
        {"n_components": vectors.shape[1], "partitions": [part.model_dump(mode="json") for part in partitions]},
        {"embeddings": searched.parents["embeddings"]},
        {"components": len(ids)},
        [part.file for part in partitions],
    )


def write_map(
    output: Path, points: pa.Table, seed: int = 0, created_utc: str = "2026-01-01T00:00:00+00:00"
) -> Manifest:
    """Write what a service needs of a map of a release: points (`object_id`, position, `map_x`, `map_y`, numbers)."""
    store = Store(str(output))
    components = current_manifest(store, "components")
    identity = {"components": components.id, "seed": seed}
    folder = store.below(paths.artefact("map", identity_id("map", identity)))
    x, y = (points[name].to_numpy() for name in (MAP_X, MAP_Y))
    names = [name for name in points.column_names if name not in (OBJECT_ID, MAP_X, MAP_Y)]
    detail = MapDetail(
        x_min=x.min(),
        x_max=x.max(),
        y_min=y.min(),
        y_max=y.max(),
        columns=tuple(column_of(name, points[name]) for name in names),
        n_points=len(points),
    )
    return _finish(
        store,
        "map",
        identity,
        detail.model_dump(mode="json"),
        {"embeddings": components.parents["embeddings"], "components": as_parent(components)},
        dict.fromkeys(("mapped", "fitted", "points"), len(points)),
        [write_table(folder, paths.POINTS, points)],
        created_utc,
    )


def _index(
    store: Store,
    components: Manifest,
    folder: Store,
    partitions: list[PartitionFile],
    n_shards: int,
    n_cells: int,
    kind: IndexKind,
) -> Manifest:
    identity = {"components": components.id, "kind": kind, "n_shards": n_shards, "n_cells": n_cells}
    index_id = identity_id("index", identity)
    target, work = store.below(paths.artefact("index", index_id)), store.below(paths.work(index_id))
    names = [part.partition.path for part in partitions]
    index._train(folder, target, names, n_cells, n_shards)
    groups: list[list[tuple[int, int]]] = [[] for _ in range(n_shards)]
    for number, start in enumerate(range(0, len(names), 500)):
        for group, shard in enumerate(index.cut_piece(folder, target, work, number, names[start : start + 500])):
            groups[shard].append((number, group))
    shards = [index.build_shard(target, work, number, found, kind) for number, found in enumerate(groups)]
    dimension = components.detail["n_components"]
    detail = IndexDetail(
        kind=kind,
        dimension=dimension,
        n_cells=len(index.read_cells(target)["centroids"]),
        shards=shards,
        settings=index._measure(target, shards, kind, dimension) if kind != "flat" else [],
        recall_k=index.RECALL_K,
        n_held_out=len(index.read_cells(target)["held_out"]),
    )
    files = [file_record(paths.CELLS, target.read(paths.CELLS)), *(file for shard in shards for file in shard.files)]
    made = _finish(
        store,
        "index",
        identity,
        detail.model_dump(mode="json"),
        {"components": as_parent(components)},
        {"indexed": sum(shard.n_rows for shard in shards), "shards": n_shards},
        files,
    )
    work.delete_folder("")
    return made


def _finish(
    store: Store,
    kind: Kind,
    identity: dict[str, Any],
    detail: dict[str, Any],
    parents: dict[str, Any] | None = None,
    counts: dict[str, int] | None = None,
    files: list[Any] | None = None,
    created_utc: str | None = None,
) -> Manifest:
    manifest = Manifest(
        kind=kind,
        id=identity_id(kind, identity),
        identity=identity,
        parents=parents or {},
        counts=counts or {},
        detail=detail,
        files=files or [],
        versions=library_versions(),
        durations_s={},
        created_utc=created_utc or utc_now(),
    )
    return finish(store, manifest)
