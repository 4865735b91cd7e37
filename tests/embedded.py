"""Releases with everything that a finished one has, made of vectors directly, without an encoder and without Ray.

The plan is real; embeddings, their rejects, the PCA, components and index are what the stages would have written.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from engine.cluster.reduce import write_pca
from engine.compute.digest import id_digest
from engine.compute.pca import moments, project, solve
from engine.storage.artefacts import as_parent, components_identity, publish
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import as_vectors, read_table, write_table
from engine.storage.store import Store
from jobs import plan
from schemas import paths
from schemas.config import CatalogueConfig, PlanConfig
from schemas.manifest import Manifest, Release, identity_id
from schemas.partition import Partition, PartitionFile
from schemas.reject import RejectReason
from schemas.tables import (
    COMPONENTS,
    EMBEDDING,
    OBJECT_ID,
    REASON,
    rejects_schema,
    with_vectors,
)
from tests.generated import _finish, _index

TOOK = {
    "cutouts_per_s": 250.0,
    "gpu_s_per_million": None,
    "cpu_s_per_million": {"allocated": 7200.0, "busy": 6000.0},
}


def write_embedded(
    output: Path,
    objects: Mapping[str, Any],
    embeddings: np.ndarray,
    rejected: Mapping[int, RejectReason] | None = None,
    n_components: int = 4,
    rows_per_partition: int = 400,
    weights_sha256: str = "0" * 64,
) -> Release:
    """Write a finished release of objects (`object_id`, `ra_deg`, `dec_deg`), but for those that are rejected by id.

    Embeddings, (n, d) float32, are in the order of the objects.
    """
    rejected = rejected or {}
    store = Store(str(output))
    planned = _planned(output, objects, rows_per_partition)
    encoder = _finish(
        store,
        "encoder",
        {"architecture": "drawn", "bands": 1, "weights_sha256": weights_sha256},
        {"source": "/models/drawn.safetensors", "dimension": embeddings.shape[1]},
    )
    partitions = _partitions(store, planned)
    vectors = {object_id: row for row, object_id in enumerate(np.asarray(objects[OBJECT_ID]).tolist())}
    embedded = _write_embeddings(store, planned, encoder, partitions, vectors, embeddings, rejected)
    components, folder = _write_components(store, embedded, n_components)
    parts = [PartitionFile.model_validate(part) for part in components.detail["partitions"]]
    return publish(store, _index(store, components, folder, parts, 2, 8, "ivf-flat"))


def _planned(output: Path, objects: Mapping[str, Any], rows_per_partition: int) -> Manifest:
    source = output.parent / f"{output.name}-survey"
    source.mkdir()
    (source / "one.png").write_bytes(b"every cutout is this file")
    table = pa.table({**dict(objects), "cutout": ["one.png"] * len(objects[OBJECT_ID])})
    pacsv.write_csv(table, source / "catalogue.csv")
    settings = PlanConfig(rows_per_partition=rows_per_partition, rows_per_unit=rows_per_partition)
    return plan.run(CatalogueConfig(path=str(source / "catalogue.csv")), settings, Store(str(output)))


def _partitions(store: Store, planned: Manifest) -> list[Partition]:
    units = read_table(store.below(paths.artefact("plan", planned.id)), paths.UNITS).to_pylist()
    return list(dict.fromkeys(Partition(unit["order"], unit["pixel"]) for unit in units))


def _write_embeddings(
    store: Store,
    planned: Manifest,
    encoder: Manifest,
    partitions: list[Partition],
    row_of: Mapping[int, int],
    embeddings: np.ndarray,
    rejected: Mapping[int, RejectReason],
) -> Manifest:
    source = store.below(paths.artefact("plan", planned.id))
    identity = {
        "plan": planned.id,
        "encoder": encoder.id,
        "vectors": id_digest(embeddings.ravel().tolist()),
        "rejected": len(rejected),
    }
    folder = store.below(paths.artefact("embeddings", identity_id("embeddings", identity)))
    written, lost, kept = [], [], []
    for partition in partitions:
        table = read_table(source, partition.path)
        is_lost = np.isin(table[OBJECT_ID].to_numpy(), list(rejected))
        lost.append(table.filter(pa.array(is_lost)))
        table = table.filter(pa.array(~is_lost))
        if not len(table):
            continue
        kept += table[OBJECT_ID].to_pylist()
        rows = embeddings[[row_of[one] for one in table[OBJECT_ID].to_pylist()]]
        schema = with_vectors(table.schema, EMBEDDING, embeddings.shape[1])
        table = pa.table([*table.select(schema.names[:-1]).columns, as_vectors(rows)], schema=schema)
        file = write_table(folder, partition.path, table)
        written.append(PartitionFile(partition=partition, n_rows=len(table), file=file))
    files = [part.file for part in written]
    files += write_hats_metadata(folder, "embeddings", [part.partition for part in written], len(kept))
    rejects = pa.concat_tables([*lost])
    ids = rejects[OBJECT_ID].to_pylist()
    schema = rejects_schema(rejects.schema.field(OBJECT_ID).type)
    columns = {name: rejects[name] for name in schema.names[:4]}
    columns |= {REASON: [rejected[one].value for one in ids], "detail": pa.nulls(len(ids), pa.string())}
    files.append(write_table(folder, paths.REJECTS, pa.table(columns, schema=schema)))
    return _finish(
        store,
        "embeddings",
        identity,
        {
            "preset": "drawn",
            "preset_sha256": "1" * 64,
            "dimension": embeddings.shape[1],
            "rejected_by_reason": dict(Counter(rejected[one].value for one in ids)),
            "embedded_digest": id_digest(kept),
            "rejected_digest": id_digest(ids),
            "device": "cpu",
            "workers": 2,
            "took": TOOK,
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        {"plan": as_parent(planned), "encoder": as_parent(encoder)},
        {"planned": planned.counts["planned"], "embedded": len(kept), "rejected": len(ids)},
        files,
    )


def _write_components(store: Store, embedded: Manifest, n_components: int) -> tuple[Manifest, Store]:
    source = store.below(paths.artefact("embeddings", embedded.id))
    parts = [PartitionFile.model_validate(part) for part in embedded.detail["partitions"]]
    tables = [read_table(source, part.partition.path) for part in parts]
    rows = [table[EMBEDDING].combine_chunks() for table in tables]
    matrices = [one.flatten().to_numpy().reshape(len(one), -1) for one in rows]
    pca = solve(moments(np.concatenate(matrices)), n_components)
    identity = components_identity(embedded.id, "search", n_components, "exact")
    folder = store.below(paths.artefact("components", identity_id("components", identity)))
    written = []
    for part, table, matrix in zip(parts, tables, matrices, strict=True):
        schema = with_vectors(table.schema, COMPONENTS, n_components)
        vectors = as_vectors(project(matrix, pca))
        projected = pa.table([*table.select(schema.names[:-1]).columns, vectors], schema=schema)
        file = write_table(folder, part.partition.path, projected)
        written.append(PartitionFile(partition=part.partition, n_rows=part.n_rows, file=file))
    n_rows = sum(part.n_rows for part in written)
    files = [part.file for part in written] + write_pca(folder, pca)
    files += write_hats_metadata(folder, "components", [part.partition for part in written], n_rows)
    made = _finish(
        store,
        "components",
        identity,
        {
            "space": "search",
            "n_components": n_components,
            "explained_variance_ratio": pca.explained_variance_ratio.tolist(),
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        {"embeddings": as_parent(embedded)},
        {"components": n_rows},
        files,
    )
    return made, folder
