"""Job: reduce. Embeddings become components of the spaces asked for; moments and fits are kept beside them."""

from collections.abc import Sequence
from time import perf_counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.reduce import (
    count,
    fit,
    fit_sequentially,
    project_partitions,
    read_moments,
    write_moments,
    write_pca,
)
from engine.cluster.session import connect
from engine.compute.pca import PCA, Moments
from engine.storage.artefacts import (
    as_parent,
    components_identity,
    find,
    finish,
    library_versions,
    partitions_of,
    utc_now,
)
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.store import Store
from jobs.report import console, note, progress, reused
from jobs.scree import scree_plot
from schemas import paths
from schemas.config import RayConfig, ReduceConfig
from schemas.errors import DataError
from schemas.manifest import Manifest, identity_id
from schemas.partition import PartitionFile
from schemas.space import SPACES, SpaceName

_MOST_LINES = 15


def run(embeddings: Manifest, config: ReduceConfig, ray: RayConfig, store: Store) -> Manifest:
    """Fit and apply a PCA for every space asked for, or confirm that it is there; return the search space's components.

    Raises
    ------
    DataError
        There are too few embeddings for this many components.
    """
    spaces: list[SpaceName] = ["search", *(space for space in config.spaces if space != "search")]
    return _made(embeddings, config, spaces, ray, store)["search"]


def make(embeddings: Manifest, config: ReduceConfig, space: SpaceName, ray: RayConfig, store: Store) -> Manifest:
    """Make, or confirm, the components of one space; raises as `run`."""
    return _made(embeddings, config, [space], ray, store)[space]


def _made(
    embeddings: Manifest, config: ReduceConfig, spaces: list[SpaceName], ray: RayConfig, store: Store
) -> dict[SpaceName, Manifest]:
    found = {space: find(store, "components", components_id(embeddings.id, config, space)) for space in spaces}
    done = {space: reused(manifest) for space, manifest in found.items() if manifest}
    missing = [space for space in spaces if space not in done]
    if missing:
        if config.scheduler == "ray":
            connect(ray)
        done |= _reduce(embeddings, config, missing, store)
    return done


def components_id(embeddings_id: str, config: ReduceConfig, space: SpaceName = "search") -> str:
    """Name the components that these settings make of these embeddings in a space."""
    return identity_id("components", _identity(embeddings_id, config, space))


def _identity(embeddings_id: str, config: ReduceConfig, space: SpaceName) -> dict[str, Any]:
    n_components = SPACES[space].n_components
    if space == "search" and config.n_components:
        n_components = config.n_components
    return components_identity(embeddings_id, space, n_components, config.method)


def _reduce(
    embeddings: Manifest, config: ReduceConfig, spaces: Sequence[SpaceName], store: Store
) -> dict[SpaceName, Manifest]:
    partitions = partitions_of(embeddings)
    if not partitions:
        raise DataError(
            f"no object was embedded, so there is nothing to reduce: {embeddings.detail['rejected_by_reason']}"
        )
    source = store.below(paths.artefact("embeddings", embeddings.id))
    started = perf_counter()
    identities = {space: _identity(embeddings.id, config, space) for space in spaces}
    fits = _fits(embeddings, partitions, identities, config, source, store)
    fitted_s = perf_counter() - started
    folders = {
        space: store.below(paths.artefact("components", identity_id("components", identity)))
        for space, identity in identities.items()
    }
    targets = {space: (folders[space], fits[space]) for space in spaces}
    with progress("project", len(partitions), "partitions") as advance:
        written = project_partitions(source, targets, partitions, config.scheduler, advance)
    durations_s = {"fit": fitted_s, "project": perf_counter() - started - fitted_s}
    return {
        space: _finish(embeddings, identities[space], fits[space], written[space], folders[space], durations_s, store)
        for space in spaces
    }


def _fits(
    embeddings: Manifest,
    partitions: Sequence[PartitionFile],
    identities: dict[SpaceName, dict[str, Any]],
    config: ReduceConfig,
    source: Store,
    store: Store,
) -> dict[SpaceName, PCA]:
    shapes = {space: (identity["n_components"], identity["unit_variance"]) for space, identity in identities.items()}
    if config.method == "exact":
        state = _moments(embeddings, partitions, config, source, store)
        return {space: fit(state, space, *shape) for space, shape in shapes.items()}
    fits = {}
    for space, shape in shapes.items():
        with progress(f"fit {space}", 1, "task") as advance:
            fits[space] = fit_sequentially(source, partitions, space, *shape, config.scheduler)
            advance(1)
    return fits


def _moments(
    embeddings: Manifest, partitions: Sequence[PartitionFile], config: ReduceConfig, source: Store, store: Store
) -> Moments:
    """Take the moments of the embeddings, or read those that were kept."""
    identity = {"embeddings": embeddings.id}
    moments_id = identity_id("moments", identity)
    folder = store.below(paths.artefact("moments", moments_id))
    if kept := find(store, "moments", moments_id):
        return read_moments(folder, embeddings.id, kept.detail["partitions"]).moments
    started = perf_counter()
    with progress("fit PCA", len(partitions), "partitions") as advance:
        state = count(source, embeddings.id, partitions, config.scheduler, advance)
    manifest = Manifest(
        kind="moments",
        id=moments_id,
        identity=identity,
        parents={"embeddings": as_parent(embeddings)},
        counts={"embeddings": state.moments.n},
        detail={"partitions": [part.partition.name for part in partitions]},
        files=[write_moments(folder, state.moments)],
        versions=library_versions(),
        durations_s={"count": perf_counter() - started},
        created_utc=utc_now(),
    )
    finish(store, manifest)
    return state.moments


def _finish(
    embeddings: Manifest,
    identity: dict[str, Any],
    pca: PCA,
    written: list[PartitionFile],
    folder: Store,
    durations_s: dict[str, float],
    store: Store,
) -> Manifest:
    n_rows = sum(part.n_rows for part in written)
    files = [part.file for part in written] + write_pca(folder, pca)
    files.append(folder.write(paths.SCREE_PLOT, scree_plot(pca.explained_variance_ratio, identity["space"])))
    files += write_hats_metadata(folder, "components", [part.partition for part in written], n_rows)
    manifest = Manifest(
        kind="components",
        id=identity_id("components", identity),
        identity=identity,
        parents={"embeddings": as_parent(embeddings)},
        counts={"components": n_rows},
        detail={
            "space": identity["space"],
            "n_components": identity["n_components"],
            "explained_variance_ratio": pca.explained_variance_ratio.tolist(),
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        files=files,
        versions=library_versions(),
        durations_s=durations_s,
        created_utc=utc_now(),
    )
    explained = pca.explained_variance_ratio
    note("reduce", f"space {identity['space']}: {len(explained)} components hold {explained.sum():.1%} of the variance")
    _show(explained.tolist())
    return finish(store, manifest)


def _show(explained: list[float]) -> None:
    """Print how much of the variance each component holds; of many, some."""
    table = Table(box=SIMPLE_HEAD)
    for name in ("component", "variance", "cumulative"):
        table.add_column(name, justify="right")
    step = -(-len(explained) // _MOST_LINES)
    for number in range(1, len(explained) + 1):
        if number == 1 or number % step == 0:
            table.add_row(str(number), f"{explained[number - 1]:.2%}", f"{sum(explained[:number]):.2%}")
    console.print(table)
