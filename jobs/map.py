"""Job: map. Every object of a release gets a place in two dimensions, near those that are like it."""

from collections.abc import Sequence
from importlib.metadata import version
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cluster.map import (
    FIT,
    N_PLACED_BY,
    MapTask,
    column_of,
    fit_layout,
    place_partitions,
    read_points,
    sample_vectors,
)
from engine.cluster.protocol import read_commits
from engine.cluster.session import connect
from engine.compute import layout as layouts
from engine.compute.digest import add_digests
from engine.compute.layout import Layout
from engine.compute.map_points import fair_order, spread_rows
from engine.storage.artefacts import as_parent, find, finish, library_versions, utc_now
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.lease import Held, lease
from engine.storage.parquet import write_table
from engine.storage.store import Store
from jobs.atlas import check_columns, check_figure, draw_atlas
from jobs.report import note, progress, reused
from jobs.space import SpaceOf, space_of
from schemas import paths
from schemas.errors import DataError, IntegrityError
from schemas.manifest import Commit, Manifest, identity_id
from schemas.map import MapDetail, MapJob
from schemas.partition import PartitionFile
from schemas.space import SpaceName
from schemas.tables import MAP_X, MAP_Y, OBJECT_ID

SPACE: SpaceName = "map"
_POINTS_SEED = 1
"""Added to the seed: the points of a page are another sample than the one that is fitted."""
_ROWS_PER_GROUP = 131_072


def run(job: MapJob) -> Manifest:
    """Make the map of a release, go on where an earlier run stopped, or confirm that it is there; then draw its figure.

    Raises
    ------
    ConfigError
        What fits maps is not installed, or the figure's name or condition is none.
    InputNotFoundError
        There is no finished release.
    DataError
        There are too few objects for a map of these neighbours, or components are not finite.
    BusyError
        Another run works on the release.
    IntegrityError
        The components are not those of the release.
    """
    layouts.check_installed(job.device)
    check_figure(job.figure)
    space = space_of(job.release, SPACE, job.ray)
    check_columns(job.figure, space)
    store = Store(job.release)
    identity = _identity(job, space)
    map_id = identity_id("map", identity)
    with lease(store) as held:
        done = find(store, "map", map_id)
        made = reused(done) if done else _made(job, space, identity, store, held)
    note("map", f"{made.counts['mapped']:,} objects in {store.uri(paths.artefact('map', map_id))}")
    if job.figure.path:
        draw_atlas(made, job.figure, space, store)
    return made


def _identity(job: MapJob, space: SpaceOf) -> dict[str, Any]:
    settings = job.model_dump(include={"sample", "neighbours", "min_distance", "seed", "points"})
    return {
        "engine": library_versions()["voorwerp"],
        "components": space.components.id,
        "method": "umap-learn" if job.device == "cpu" else "cuml",
        "placed_by": N_PLACED_BY,
        **settings,
    }


def _made(job: MapJob, space: SpaceOf, identity: dict[str, Any], store: Store, held: Held) -> Manifest:
    if space.n_objects <= job.neighbours:
        raise DataError(
            f"{store.uri()}: expected more than {job.neighbours} objects for a map that keeps {job.neighbours} "
            f"neighbours of each near, found {space.n_objects:,}"
        )
    started = perf_counter()
    map_id = identity_id("map", identity)
    task = MapTask(output=store.uri(), components_id=space.components.id, map_id=map_id)
    connect(job.ray)
    layout, record = fit_layout(task, lambda: _fitted(job, space))
    held.check()
    fitted_s = perf_counter() - started
    commits = _place(job, space, layout, task, held)
    if add_digests(commit.ok_digest for commit in commits) != space.embeddings.detail["embedded_digest"]:
        raise IntegrityError(f"{store.uri()}: the objects on the map are not those that were embedded")
    points = _points(commits, task)
    written = [
        PartitionFile(partition=part.partition, n_rows=part.n_rows, file=commit.files[0])
        for part, commit in zip(space.partitions, commits, strict=True)
    ]
    n_rows = sum(commit.n_ok for commit in commits)
    files = [record, write_table(task.target, paths.POINTS, points, _ROWS_PER_GROUP), *(part.file for part in written)]
    files += write_hats_metadata(task.target, "map", [part.partition for part in written], n_rows)
    manifest = Manifest(
        kind="map",
        id=map_id,
        identity=identity,
        parents={"embeddings": as_parent(space.embeddings), "components": as_parent(space.components)},
        counts={"mapped": n_rows, "fitted": len(layout.vectors), "points": len(points)},
        detail={
            **_detail(layout, points).model_dump(mode="json"),
            "partitions": [part.model_dump(mode="json") for part in written],
        },
        files=files,
        versions=library_versions() | _version_of(job.device),
        durations_s={"fit": fitted_s, "place": perf_counter() - started - fitted_s},
        created_utc=utc_now(),
    )
    held.check()
    manifest = finish(store, manifest)
    store.delete_folder(paths.work(map_id))
    return manifest


def _fitted(job: MapJob, space: SpaceOf) -> Layout:
    rows = spread_rows(space.n_objects, job.sample, job.seed)
    with progress("sample", space.n_objects, "objects") as advance:
        vectors = sample_vectors(space.folder, space.partitions, rows, advance)
    try:
        with progress("fit map", len(rows), "objects") as advance:
            layout = layouts.fit(vectors, job.neighbours, job.min_distance, job.seed, job.device)
            advance(len(rows))
    except ValueError as error:
        raise DataError(f"space {SPACE}: {error}") from error
    return layout


def _place(job: MapJob, space: SpaceOf, layout: Layout, task: MapTask, held: Held) -> list[Commit]:
    """Place what is not placed yet; return the commit records of all partitions, in their order."""
    commits = {commit.unit: commit for commit in read_commits(task.store, task.map_id) if commit.unit != FIT}
    if commits:
        note("map", f"{len(commits):,} of {len(space.partitions):,} partitions already done")
    points = spread_rows(space.n_objects, job.points, job.seed + _POINTS_SEED)
    n_done = sum(commit.n_ok for commit in commits.values())
    with progress("place", space.n_objects, "objects", done=n_done) as advance:
        for commit in place_partitions(space.partitions, points, set(commits), layout, task):
            commits[commit.unit] = commit
            advance(commit.n_ok)
            held.check()
    return [commits[part.partition.name] for part in space.partitions]


def _points(commits: Sequence[Commit], task: MapTask) -> pa.Table:
    """Points for a page, in the order in which it shows them."""
    points = read_points(commits, task)
    positions = np.column_stack([points[name].to_numpy() for name in (MAP_X, MAP_Y)])
    return points.take(pa.array(fair_order(positions)))


def _detail(layout: Layout, points: pa.Table) -> MapDetail:
    # Every object lies between fitted ones, which are objects themselves.
    low, high = layout.positions.min(axis=0).tolist(), layout.positions.max(axis=0).tolist()
    names = [name for name in points.column_names if name not in (OBJECT_ID, MAP_X, MAP_Y)]
    return MapDetail(
        x_min=low[0],
        y_min=low[1],
        x_max=high[0],
        y_max=high[1],
        columns=tuple(column_of(name, points[name]) for name in names),
        n_points=len(points),
    )


def _version_of(device: str) -> dict[str, str]:
    if device == "cpu":
        return {"umap-learn": version("umap-learn")}
    import cuml

    return {"cuml": str(cuml.__version__)}
