"""Reduction over Dask: moments per partition, merged as a tree, solved once; then every partition projected."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from dask import delayed

from engine.cluster.dask_graph import Advance, compute
from engine.compute.pca import PCA, merge_all, moments, project, solve
from engine.storage.arrays import read_arrays, write_arrays, write_json
from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileRecord
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, EMBEDDING, with_vectors

MERGE_FAN_IN = 8


def fit(
    embeddings: Store, partitions: Sequence[PartitionFile], n_components: int, scheduler: str, advance: Advance
) -> PCA:
    """Fit a PCA to the embeddings of all partitions, each read and counted once.

    Raises
    ------
    DataError
        There are too few embeddings for this many components.
    """
    level = [delayed(_partition_moments)(embeddings, part.partition.path) for part in partitions]
    while len(level) > 1:
        level = [delayed(merge_all)(level[at : at + MERGE_FAN_IN]) for at in range(0, len(level), MERGE_FAN_IN)]
    (state,) = compute(level, _partition_moments.__name__, scheduler, advance)
    try:
        return solve(state, n_components)
    except ValueError as error:
        raise DataError(f"reduce.n_components: {error}") from error


def project_partitions(
    embeddings: Store,
    components: Store,
    partitions: Sequence[PartitionFile],
    pca: PCA,
    scheduler: str,
    advance: Advance,
) -> list[PartitionFile]:
    """Write the components of every partition beside its objects' other columns; return the files."""
    shared = delayed(pca, traverse=False)
    tasks = [delayed(_project_partition)(embeddings, components, part, shared) for part in partitions]
    return compute(tasks, _project_partition.__name__, scheduler, advance)


def write_pca(components: Store, pca: PCA) -> list[FileRecord]:
    """Keep a fit beside its components: every field as safetensors, and a summary to read."""
    summary = {
        "n_components": len(pca.components),
        "n_embeddings": pca.n,
        "explained_variance": pca.explained_variance.tolist(),
        "explained_variance_ratio": pca.explained_variance_ratio.tolist(),
    }
    fields = {name: np.asarray(value) for name, value in pca._asdict().items()}
    return [write_arrays(components, paths.PCA_TENSORS, fields), write_json(components, paths.PCA_SUMMARY, summary)]


def read_pca(components: Store) -> PCA:
    """Read a fit; `engine.compute.pca.as_incremental_pca` hands it to scikit-learn."""
    fields = read_arrays(components, paths.PCA_TENSORS)
    n = int(fields.pop("n").item())
    return PCA(n=n, **fields)


def _partition_moments(embeddings: Store, path: str):  # type: ignore[no-untyped-def]
    return moments(as_matrix(read_table(embeddings, path, [EMBEDDING])[EMBEDDING]))


def _project_partition(embeddings: Store, components: Store, part: PartitionFile, pca: PCA) -> PartitionFile:
    table = read_table(embeddings, part.partition.path)
    vectors = project(as_matrix(table[EMBEDDING]), pca)
    schema = with_vectors(table.schema, COMPONENTS, vectors.shape[1])
    projected = pa.table([*table.select(schema.names[:-1]).columns, as_vectors(vectors)], schema=schema)
    record = write_table(components, part.partition.path, projected)
    return PartitionFile(partition=part.partition, n_rows=part.n_rows, file=record)
