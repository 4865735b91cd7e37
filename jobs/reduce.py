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
    read_sample,
    write_moments,
    write_pca,
)
from engine.cluster.session import connect
from engine.compute.basis_drift import Drift, drift
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
from jobs.previous import Previous, basis_in
from jobs.report import console, note, progress, reused, warn
from jobs.scree import scree_plot
from schemas import paths
from schemas.config import RayConfig, ReduceConfig
from schemas.errors import ConfigError, DataError
from schemas.manifest import Manifest, identity_id
from schemas.partition import Partition, PartitionFile
from schemas.space import SPACES, SpaceName

_MOST_LINES = 15
N_DRIFT_QUERIES = 200
MOST_VARIANCE_LOST = 0.01
"""Share of the variance from which kept components are called outgrown."""


def run(
    embeddings: Manifest, config: ReduceConfig, ray: RayConfig, store: Store, previous: Previous | None = None
) -> Manifest:
    """Fit and apply a PCA for every space asked for, or confirm that it is there; return the search space's components.

    Onto a previous release its basis is kept, unless the job says to refit.

    Raises
    ------
    DataError
        There are too few embeddings for this many components; or there is no basis to keep.
    """
    spaces: list[SpaceName] = ["search", *(space for space in config.spaces if space != "search")]
    return _made(embeddings, config, spaces, ray, store, basis_of(previous, config), previous)["search"]


def make(
    embeddings: Manifest,
    config: ReduceConfig,
    space: SpaceName,
    ray: RayConfig,
    store: Store,
    basis: str | None = None,
) -> Manifest:
    """Make, or confirm, the components of one space; raises as `run`.

    Parameters
    ----------
    embeddings, config, space, ray, store
    basis : str, optional
        Id of the embeddings whose fit is used; these when None.
    """
    return _made(embeddings, config, [space], ray, store, basis)[space]


def basis_of(previous: Previous | None, config: ReduceConfig) -> str | None:
    """Name the embeddings whose fit a release onto another keeps; None where it fits its own.

    Raises
    ------
    ConfigError
        Either release is fitted by the reference method, which leaves nothing that could be kept.
    """
    if previous is None or previous.config.basis == "refit":
        return None
    before = previous.components.identity
    if {config.method, before["method"]} != {"exact"}:
        raise ConfigError(
            "onto.basis keep: expected reduce.method exact in both releases, found "
            f"{config.method} and before {before['method']}; use onto.basis: refit"
        )
    return basis_in(before)


def _made(
    embeddings: Manifest,
    config: ReduceConfig,
    spaces: list[SpaceName],
    ray: RayConfig,
    store: Store,
    basis: str | None,
    previous: Previous | None = None,
) -> dict[SpaceName, Manifest]:
    found = {space: find(store, "components", components_id(embeddings.id, config, space, basis)) for space in spaces}
    done = {space: reused(manifest) for space, manifest in found.items() if manifest}
    missing = [space for space in spaces if space not in done]
    if missing:
        if config.scheduler == "ray":
            connect(ray)
        done |= _reduce(embeddings, config, missing, store, basis, previous)
    return done


def components_id(
    embeddings_id: str, config: ReduceConfig, space: SpaceName = "search", basis: str | None = None
) -> str:
    """Name the components that these settings make of these embeddings in a space."""
    return identity_id("components", _identity(embeddings_id, config, space, basis))


def _identity(embeddings_id: str, config: ReduceConfig, space: SpaceName, basis: str | None) -> dict[str, Any]:
    n_components = SPACES[space].n_components
    if space == "search" and config.n_components:
        n_components = config.n_components
    return components_identity(embeddings_id, space, n_components, config.method, basis)


def _reduce(
    embeddings: Manifest,
    config: ReduceConfig,
    spaces: Sequence[SpaceName],
    store: Store,
    basis: str | None,
    previous: Previous | None,
) -> dict[SpaceName, Manifest]:
    partitions = partitions_of(embeddings)
    if not partitions:
        raise DataError(
            f"no object was embedded, so there is nothing to reduce: {embeddings.detail['rejected_by_reason']}"
        )
    source = store.below(paths.artefact("embeddings", embeddings.id))
    started = perf_counter()
    identities = {space: _identity(embeddings.id, config, space, basis) for space in spaces}
    keeps = basis is not None and (previous is not None or basis != embeddings.id)
    if keeps:
        fits = _kept_fits(str(basis), identities, store, previous)
    else:
        fits = _fits(embeddings, partitions, identities, config, source, store)
    fitted_s = perf_counter() - started
    folders = {
        space: store.below(paths.artefact("components", identity_id("components", identity)))
        for space, identity in identities.items()
    }
    targets = {space: (folders[space], fits[space]) for space in spaces}
    taken = _taken_over(previous, embeddings, identities, folders) if keeps and previous else {}
    rest = [part for part in partitions if part.partition not in taken]
    with progress("project", len(partitions), "partitions", done=len(taken)) as advance:
        written = project_partitions(source, targets, rest, config.scheduler, advance)
    everything = {
        space: sorted([*files, *taken.values()], key=lambda part: part.partition.first_healpix)
        for space, files in written.items()
    }
    durations_s = {"fit": fitted_s, "project": perf_counter() - started - fitted_s}
    is_other = keeps and basis != embeddings.id
    drifts = _drifts(embeddings, partitions, fits, config, source, store) if is_other else {}
    return {
        space: _finish(
            embeddings,
            identities[space],
            fits[space],
            everything[space],
            folders[space],
            durations_s,
            drifts.get(space),
            store,
        )
        for space in spaces
    }


def _kept_fits(
    basis: str, identities: dict[SpaceName, dict[str, Any]], store: Store, previous: Previous | None
) -> dict[SpaceName, PCA]:
    """Solve the kept moments again, which gives the same bits; those of another output are copied here first."""
    moments_id = identity_id("moments", {"embeddings": basis})
    origin = store if previous is None or find(store, "moments", moments_id) else previous.store
    kept = find(origin, "moments", moments_id)
    if kept is None:
        raise DataError(
            f"{origin.uri()}: expected the moments of embeddings {basis}, whose basis is to be kept, found none; "
            "use onto.basis: refit"
        )
    folder = store.below(paths.artefact("moments", moments_id))
    if origin is not store:
        for file in kept.files:
            folder.take_over(origin.below(paths.artefact("moments", moments_id)), file)
        finish(store, kept)
    state = read_moments(folder, basis, kept.detail["partitions"]).moments
    return {
        space: fit(state, space, identity["n_components"], identity["unit_variance"])
        for space, identity in identities.items()
    }


def _taken_over(
    previous: Previous,
    embeddings: Manifest,
    identities: dict[SpaceName, dict[str, Any]],
    folders: dict[SpaceName, Store],
) -> dict[Partition, PartitionFile]:
    """Take over the components of partitions whose embeddings are one file with those before."""
    if set(identities) != {"search"} or not _same_fit(previous.components.identity, identities["search"]):
        return {}
    before = {part.partition: part for part in partitions_of(previous.embeddings)}
    same = {part.partition for part in partitions_of(embeddings) if before.get(part.partition) == part}
    origin = previous.store.below(paths.artefact("components", previous.components.id))
    taken = {part.partition: part for part in partitions_of(previous.components) if part.partition in same}
    for part in taken.values():
        folders["search"].take_over(origin, part.file)
    return taken


def _same_fit(before: dict[str, Any], now: dict[str, Any]) -> bool:
    def what(identity: dict[str, Any]) -> dict[str, Any]:
        return identity | {"embeddings": None, "basis": identity.get("basis", identity["embeddings"])}

    return what(before) == what(now)


def _drifts(
    embeddings: Manifest,
    partitions: Sequence[PartitionFile],
    kept: dict[SpaceName, PCA],
    config: ReduceConfig,
    source: Store,
    store: Store,
) -> dict[SpaceName, Drift]:
    """Say by how much a refit would change each space, and warn where that is much."""
    state = _moments(embeddings, partitions, config, source, store)
    sample = read_sample(source, partitions)
    found = {}
    for space, pca in kept.items():
        try:
            refit = fit(state, space, len(pca.components), unit_variance=bool((pca.scale != 1).any()))
        except DataError:  # Too few by now to fit so many components: nothing to compare with.
            continue
        found[space] = drift(state, pca, refit, sample, N_DRIFT_QUERIES)
        one = found[space]
        note(
            "drift",
            f"space {space}: kept components hold {one.variance_kept:.2%} of the variance, refitted ones would hold "
            f"{one.variance_refit:.2%}; {one.angle_deg:.1f} degrees apart at most; {one.neighbours_kept:.0%} of the "
            "nearest neighbours stay",
        )
        if one.variance_refit - one.variance_kept > MOST_VARIANCE_LOST:
            warn(
                f"space {space}: the catalogue has outgrown its components; "
                "the next release is better fitted anew (onto.basis: refit)"
            )
    return found


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
    drifted: Drift | None,
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
            **({"drift": drifted._asdict()} if drifted else {}),
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
