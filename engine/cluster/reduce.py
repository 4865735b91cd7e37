"""Reduction over Dask: moments per partition, merged as a tree; one fit per space; then every partition projected."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
from dask import delayed
from dask.delayed import Delayed

from engine.cluster.dask_graph import Advance, compute
from engine.compute.pca import PCA, Counted, Moments, merge_counted, moments, project, solve, solve_sequentially
from engine.storage.arrays import read_arrays, write_arrays, write_json
from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError, IntegrityError
from schemas.manifest import FileRecord
from schemas.partition import Partition, PartitionFile
from schemas.space import SpaceName
from schemas.tables import COMPONENTS, EMBEDDING, with_vectors

MERGE_FAN_IN = 8
REFERENCE_BATCH_ROWS = 10_000
SAMPLE_PARTITIONS, SAMPLE_ROWS = 4, 4_000


def count(
    embeddings: Store, embeddings_id: str, partitions: Sequence[PartitionFile], scheduler: str, advance: Advance
) -> Counted:
    """Take the moments of all partitions, each read and counted once.

    Partitions are named with the id of their embeddings: other embeddings have some of the same pixels.

    Raises
    ------
    IntegrityError
        What came back is not of exactly these partitions.
    """
    tree = counting(embeddings, embeddings_id, [part.partition.name for part in partitions])
    (state,) = compute([tree], _count_partition.__name__, scheduler, advance)
    planned = {_qualified(embeddings_id, part.partition.name) for part in partitions}
    if state.names != planned:
        wrong = min(state.names ^ planned)
        raise IntegrityError(f"{embeddings.uri()}: expected every partition once, found {wrong} missing or foreign")
    return state


def counting(embeddings: Store, embeddings_id: str, names: Sequence[str]) -> Delayed:
    """Make the graph that counts partitions and merges their moments as a tree."""
    level = [delayed(_count_partition)(embeddings, embeddings_id, name) for name in names]
    while len(level) > 1:
        level = [delayed(merge_counted)(level[at : at + MERGE_FAN_IN]) for at in range(0, len(level), MERGE_FAN_IN)]
    return level[0]


def fit(state: Moments, space: SpaceName, n_components: int, unit_variance: bool) -> PCA:
    """Solve for a space.

    Raises
    ------
    DataError
        There are too few embeddings for this many components.
    """
    try:
        return solve(state, n_components, unit_variance)
    except ValueError as error:
        raise DataError(f"space {space}: {error}") from error


def fit_sequentially(
    embeddings: Store,
    partitions: Sequence[PartitionFile],
    space: SpaceName,
    n_components: int,
    unit_variance: bool,
    scheduler: str,
) -> PCA:
    """Fit as the paper did: scikit-learn's algorithm over the partitions in order, in one task.

    Raises
    ------
    DataError
        There are too few embeddings for this many components.
    """
    paths_in_order = [part.partition.path for part in partitions]
    task = delayed(_fit_sequentially)(embeddings, paths_in_order, n_components, unit_variance)
    try:
        (pca,) = compute([task], _fit_sequentially.__name__, scheduler, lambda n: None)
    except ValueError as error:
        raise DataError(f"space {space}: {error}") from error
    return pca


def project_partitions(
    embeddings: Store,
    targets: Mapping[SpaceName, tuple[Store, PCA]],
    partitions: Sequence[PartitionFile],
    scheduler: str,
    advance: Advance,
) -> dict[SpaceName, list[PartitionFile]]:
    """Write the components of every partition beside its objects' other columns, for all spaces; return the files."""
    shared = delayed(dict(targets), traverse=False)
    tasks = [delayed(_project_partition)(embeddings, shared, part) for part in partitions]
    written = compute(tasks, _project_partition.__name__, scheduler, advance)
    return {space: [files[space] for files in written] for space in targets}


def read_sample(embeddings: Store, partitions: Sequence[PartitionFile]) -> np.ndarray:
    """Read about `SAMPLE_ROWS` embeddings from `SAMPLE_PARTITIONS` places of the sky: (n, d) float32."""
    chosen = np.unique(np.linspace(0, len(partitions) - 1, SAMPLE_PARTITIONS).astype(int))
    sample = []
    for at in chosen:
        rows = as_matrix(read_table(embeddings, partitions[at].partition.path, [EMBEDDING])[EMBEDDING])
        sample.append(rows[:: max(1, len(rows) * len(chosen) // SAMPLE_ROWS)].copy())
    return np.concatenate(sample)


def write_moments(folder: Store, state: Moments) -> FileRecord:
    """Keep moments as safetensors."""
    arrays = {"n": np.asarray(state.n), "mean": state.mean, "scatter": state.scatter}
    return write_arrays(folder, paths.MOMENTS, arrays)


def read_moments(folder: Store, embeddings_id: str, names: Sequence[str]) -> Counted:
    """Read kept moments of the partitions that a manifest names; `merge_counted` adds those of another release.

    Only embeddings of one encoder and preset have moments that mean anything together; the caller sees to it.
    """
    fields = read_arrays(folder, paths.MOMENTS)
    return Counted(
        frozenset(_qualified(embeddings_id, name) for name in names),
        Moments(int(fields["n"].item()), fields["mean"], fields["scatter"]),
    )


def write_pca(components: Store, pca: PCA) -> list[FileRecord]:
    """Keep a fit beside its components: every field as safetensors, and a summary to read."""
    summary = {
        "n_components": len(pca.components),
        "n_embeddings": pca.n,
        "explained_variance": pca.explained_variance.tolist(),
        "explained_variance_ratio": pca.explained_variance_ratio.tolist(),
        "scale": pca.scale.tolist(),
    }
    fields = {name: np.asarray(value) for name, value in pca._asdict().items()}
    return [write_arrays(components, paths.PCA_TENSORS, fields), write_json(components, paths.PCA_SUMMARY, summary)]


def read_pca(components: Store) -> PCA:
    """Read a fit; `engine.compute.pca.as_incremental_pca` hands it to scikit-learn."""
    fields = read_arrays(components, paths.PCA_TENSORS)
    n = int(fields.pop("n").item())
    return PCA(n=n, **fields)


def _count_partition(embeddings: Store, embeddings_id: str, name: str) -> Counted:
    rows = as_matrix(read_table(embeddings, Partition.of(name).path, [EMBEDDING])[EMBEDDING])
    return Counted(frozenset([_qualified(embeddings_id, name)]), moments(rows))


def _qualified(embeddings_id: str, name: str) -> str:
    return f"{embeddings_id}/{name}"


def _fit_sequentially(embeddings: Store, partition_paths: Sequence[str], n_components: int, unit_variance: bool) -> PCA:
    return solve_sequentially(_batches(embeddings, partition_paths, n_components), n_components, unit_variance)


def _batches(embeddings: Store, partition_paths: Sequence[str], fewest: int) -> Iterator[np.ndarray]:
    """Embeddings in batches of `REFERENCE_BATCH_ROWS`; what is left in the end joins the last where it is too few."""
    pending = np.empty((0, 0), np.float32)
    for path in partition_paths:
        rows = as_matrix(read_table(embeddings, path, [EMBEDDING])[EMBEDDING])
        pending = np.concatenate([pending, rows]) if len(pending) else rows
        while len(pending) >= REFERENCE_BATCH_ROWS + fewest:
            yield pending[:REFERENCE_BATCH_ROWS]
            pending = pending[REFERENCE_BATCH_ROWS:]
    yield pending


def _project_partition(
    embeddings: Store, targets: Mapping[SpaceName, tuple[Store, PCA]], part: PartitionFile
) -> dict[SpaceName, PartitionFile]:
    table = read_table(embeddings, part.partition.path)
    rows = as_matrix(table[EMBEDDING])
    written = {}
    for space, (store, pca) in targets.items():
        vectors = project(rows, pca)
        schema = with_vectors(table.schema, COMPONENTS, vectors.shape[1])
        projected = pa.table([*table.select(schema.names[:-1]).columns, as_vectors(vectors)], schema=schema)
        record = write_table(store, part.partition.path, projected)
        written[space] = PartitionFile(partition=part.partition, n_rows=part.n_rows, file=record)
    return written
