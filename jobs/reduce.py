"""Job: reduce. Embeddings become components; the fitted PCA is kept beside them."""

from time import perf_counter
from typing import Any

from engine.cluster.reduce import fit, project_partitions, write_pca
from engine.cluster.session import connect
from engine.storage.artefacts import as_parent, find, finish, library_versions, utc_now
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.store import Store
from jobs.report import note, progress, reused
from schemas import paths
from schemas.config import RayConfig, ReduceConfig
from schemas.errors import DataError
from schemas.manifest import Manifest, identity_id
from schemas.partition import PartitionFile


def run(embeddings: Manifest, config: ReduceConfig, ray: RayConfig, store: Store) -> Manifest:
    """Fit and apply a PCA, or confirm that it is there.

    Raises
    ------
    DataError
        There are too few embeddings for this many components.
    """
    identity = _identity(embeddings.id, config)
    artefact_id = components_id(embeddings.id, config)
    done = find(store, "components", artefact_id)
    if done:
        return reused(done)
    started = perf_counter()
    partitions = [PartitionFile.model_validate(part) for part in embeddings.detail["partitions"]]
    if not partitions:
        raise DataError(
            f"no object was embedded, so there is nothing to reduce: {embeddings.detail['rejected_by_reason']}"
        )
    source = store.below(paths.artefact("embeddings", embeddings.id))
    target = store.below(paths.artefact("components", artefact_id))
    if config.scheduler == "ray":
        connect(ray)
    with progress("fit PCA", len(partitions), "partitions") as advance:
        pca = fit(source, partitions, config.n_components, config.scheduler, advance)
    fitted_s = perf_counter() - started
    with progress("project", len(partitions), "partitions") as advance:
        written = project_partitions(source, target, partitions, pca, config.scheduler, advance)
    n_rows = sum(part.n_rows for part in written)
    files = [part.file for part in written] + write_pca(target, pca)
    files += write_hats_metadata(target, "components", [part.partition for part in written], n_rows)
    explained = pca.explained_variance_ratio
    manifest = Manifest(
        kind="components",
        id=artefact_id,
        identity=identity,
        parents={"embeddings": as_parent(embeddings)},
        counts={"components": n_rows},
        detail={
            "n_components": config.n_components,
            "explained_variance_ratio": explained.tolist(),
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        files=files,
        versions=library_versions(),
        durations_s={"fit": fitted_s, "project": perf_counter() - started - fitted_s},
        created_utc=utc_now(),
    )
    note("reduce", f"{config.n_components} components hold {explained.sum():.1%} of the variance")
    return finish(store, manifest)


def components_id(embeddings_id: str, config: ReduceConfig) -> str:
    """Name the components that these settings make of these embeddings."""
    return identity_id("components", _identity(embeddings_id, config))


def _identity(embeddings_id: str, config: ReduceConfig) -> dict[str, Any]:
    return {"embeddings": embeddings_id, "n_components": config.n_components}
