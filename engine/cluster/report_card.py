"""What a report card needs of a release, over Dask: a partition or a shard at a time. Only sums of tiles come back.

Two passes over the components: the moments of all objects, which say how to whiten, then the sums of every tile in
whitened space. A tile lies in one partition. The driver holds some 300 bytes for each tile.
"""

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from dask import delayed

from engine.cluster.dask_graph import Advance, compute
from engine.cluster.opened import open_release
from engine.cluster.reduce import MERGE_FAN_IN, read_pca
from engine.compute import sky
from engine.compute.pca import PCA, Moments, merge, moments, project
from engine.compute.repeats import repeated_rows
from engine.compute.report_tiles import tiles_of_positions
from engine.compute.tile_drift import UNCHANGED, Groups, TileSums, Whitening, join, sum_groups, sum_tiles, whiten
from engine.storage.artefacts import partitions_of
from engine.storage.parquet import as_matrix, read_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Manifest, Release
from schemas.partition import Partition, PartitionFile
from schemas.tables import COMPONENTS, EMBEDDING, HEALPIX, OBJECT_ID

MOST_EXAMPLES = 5
"""Groups of equal vectors that are named, and ids of each."""


class Previous(NamedTuple):
    """Where the vectors of a previous release are."""

    folder: Store
    partitions: list[PartitionFile]
    """In order of position."""
    pca: PCA | None
    """That projects its embeddings; None where its components have the basis of this release's already."""


class Compared(NamedTuple):
    """A previous release, of the same encoder."""

    release: Release
    sha256: str
    """Of its record."""
    n_objects: int
    vectors: Previous


class Changes(NamedTuple):
    """What changed in tiles since the previous release, in whitened space."""

    matched: Groups
    """Movements of the objects that both have."""
    n_unchanged: np.ndarray
    """(t,) int64: of these, the objects that did not move."""
    before: Groups
    """All objects of the previous release that lie in the tile."""


class Tiles(NamedTuple):
    """The tiles of a release, in order of position."""

    orders: np.ndarray
    """(t,) int64."""
    pixels: np.ndarray
    """(t,) int64, nested."""
    sums: TileSums
    changes: Changes | None


class Repeated(NamedTuple):
    """Objects of the same vector as another."""

    n_objects: int
    n_groups: int
    largest: int
    examples: list[tuple[str, ...]]
    """Ids, of the largest groups first."""


def measure_tiles(
    components: Store,
    partitions: Sequence[PartitionFile],
    most_objects: int,
    previous: Previous | None,
    scheduler: str,
    advance: Advance,
) -> Tiles:
    """Sum up all tiles of a release.

    Parameters
    ----------
    components : Store
        Folder of the components.
    partitions : sequence of PartitionFile
        All of them, at least one.
    most_objects : int
        Of a tile.
    previous : Previous, optional
    scheduler : str
        As of `engine.cluster.dask_graph.compute`.
    advance : callable
        Told of every partition that was read, twice.

    Raises
    ------
    IntegrityError
        A file is damaged.
    """
    whitening = delayed(whiten(_moments(components, partitions, scheduler, advance)), traverse=False)
    tasks = []
    for part in sorted(partitions, key=lambda part: part.partition.first_healpix):
        around = delayed(_around(previous, part), traverse=False)
        tasks.append(delayed(_measure_partition)(components, part, whitening, most_objects, around))
    parts = compute(tasks, _measure_partition.__name__, scheduler, advance)
    changes = [part.changes for part in parts if part.changes]
    return Tiles(
        np.concatenate([part.orders for part in parts]),
        np.concatenate([part.pixels for part in parts]),
        join([part.sums for part in parts]),
        _joined(changes) if changes else None,
    )


def previous_of(store: Store, components: Manifest, embeddings: Manifest, current: Manifest, folder: Store) -> Previous:
    """Say where the vectors of a previous release are, and how they come into the basis of the current components.

    Parameters
    ----------
    store : Store
        Output of the previous release.
    components, embeddings : Manifest
        Of the previous release.
    current : Manifest
        Of the current components.
    folder : Store
        Of the current components.
    """
    own, others = ({file.path: file.sha256 for file in made.files} for made in (current, components))
    if paths.PCA_TENSORS in own and own[paths.PCA_TENSORS] == others.get(paths.PCA_TENSORS):
        made, pca = components, None
    else:
        made, pca = embeddings, read_pca(folder)
    in_order = sorted(partitions_of(made), key=lambda part: part.partition.first_healpix)
    return Previous(store.below(paths.artefact(made.kind, made.id)), in_order, pca)


def count_repeats(output: Store, release_id: str, n_shards: int, scheduler: str, advance: Advance) -> Repeated:
    """Count the objects whose components are equal to those of another, bit by bit.

    Equal vectors are in one shard: it is chosen by the vector alone.
    """
    tasks = [delayed(_repeats_of_shard)(output, release_id, number) for number in range(n_shards)]
    parts = compute(tasks, _repeats_of_shard.__name__, scheduler, advance)
    examples = sorted((one for part in parts for one in part.examples), key=lambda one: (-one[0], one[1]))
    return Repeated(
        sum(part.n_objects for part in parts),
        sum(part.n_groups for part in parts),
        max((part.largest for part in parts), default=0),
        [ids for _, ids in examples[:MOST_EXAMPLES]],
    )


class _RepeatedInShard(NamedTuple):
    n_objects: int
    n_groups: int
    largest: int
    examples: list[tuple[int, tuple[str, ...]]]


def _moments(folder: Store, partitions: Sequence[PartitionFile], scheduler: str, advance: Advance) -> Moments:
    level = [delayed(_moments_of_partition)(folder, part) for part in partitions]
    while len(level) > 1:
        level = [delayed(_merged)(level[at : at + MERGE_FAN_IN]) for at in range(0, len(level), MERGE_FAN_IN)]
    (state,) = compute(level, _moments_of_partition.__name__, scheduler, advance)
    return state


def _moments_of_partition(folder: Store, part: PartitionFile) -> Moments:
    return moments(as_matrix(read_table(folder, part.partition.path, [COMPONENTS])[COMPONENTS]))


def _merged(parts: Sequence[Moments]) -> Moments:
    return reduce(merge, parts)


def _measure_partition(
    folder: Store, file: PartitionFile, whitening: Whitening, most_objects: int, previous: Previous | None
) -> Tiles:
    part = file.partition
    columns = [HEALPIX, COMPONENTS] if previous is None else [HEALPIX, OBJECT_ID, COMPONENTS]
    table = read_table(folder, part.path, columns)
    vectors = as_matrix(table[COMPONENTS])
    slices = sky.partition(table[HEALPIX].to_numpy(), most_objects, [part])
    orders, pixels, starts, _ = (np.array(column, np.int64) for column in zip(*slices, strict=True))
    sums = sum_tiles(whitening(vectors), starts)
    changes = None
    if previous is not None:
        changes = _changes(table[OBJECT_ID], vectors, Tiles(orders, pixels, sums, None), whitening, previous, part)
    return Tiles(orders, pixels, sums, changes)


def _changes(
    ids: pa.ChunkedArray, vectors: np.ndarray, tiles: Tiles, whitening: Whitening, previous: Previous, part: Partition
) -> Changes:
    n_tiles = len(tiles.orders)
    old_ids, old_healpix, old_vectors = _previous_rows(previous, part, vectors.shape[1])
    old_tile = tiles_of_positions(old_healpix, tiles.orders, tiles.pixels)
    inside = old_tile >= 0
    before = sum_groups(whitening(old_vectors[inside]), old_tile[inside], n_tiles)
    place = pc.index_in(ids.cast(pa.string()), value_set=old_ids.cast(pa.string()))
    rows = np.flatnonzero(place.is_valid().to_numpy())
    moved = (vectors[rows].astype(np.float64) - old_vectors[place.drop_null().to_numpy()]) @ whitening.matrix
    tile = np.repeat(np.arange(n_tiles), tiles.sums.n)[rows]
    is_unchanged = np.linalg.norm(moved, axis=1) < UNCHANGED
    return Changes(
        sum_groups(moved, tile, n_tiles), np.bincount(tile[is_unchanged], minlength=n_tiles).astype(np.int64), before
    )


def _previous_rows(
    previous: Previous, part: Partition, dimension: int
) -> tuple[pa.ChunkedArray, np.ndarray, np.ndarray]:
    """Ids, pixels at order 29 and vectors of the previous objects in a pixel, in the basis of this release."""
    column = COMPONENTS if previous.pca is None else EMBEDDING
    tables = []
    for old in previous.partitions:
        table = read_table(previous.folder, old.partition.path, [OBJECT_ID, HEALPIX, column])
        healpix = table[HEALPIX].to_numpy()
        here = (healpix >= part.first_healpix) & (healpix < part.end_healpix)
        tables.append(table.filter(pa.array(here)))
    if not tables:
        return pa.chunked_array([], pa.string()), np.empty(0, np.int64), np.empty((0, dimension), np.float32)
    table = pa.concat_tables(tables)
    vectors = as_matrix(table[column])
    if previous.pca is not None:
        vectors = project(vectors, previous.pca)
    return table[OBJECT_ID], table[HEALPIX].to_numpy(), vectors


def _around(previous: Previous | None, part: PartitionFile) -> Previous | None:
    """Keep of a previous release the partitions that have a part of the sky in common with one of this release."""
    if previous is None:
        return None
    first = np.array([old.partition.first_healpix for old in previous.partitions])
    end = np.array([old.partition.end_healpix for old in previous.partitions])
    near = np.flatnonzero((first < part.partition.end_healpix) & (end > part.partition.first_healpix))
    return previous._replace(partitions=[previous.partitions[at] for at in near])


def _joined(parts: Sequence[Changes]) -> Changes:
    def groups(several: Sequence[Groups]) -> Groups:
        return Groups(*(np.concatenate(columns) for columns in zip(*several, strict=True)))

    return Changes(
        groups([part.matched for part in parts]),
        np.concatenate([part.n_unchanged for part in parts]),
        groups([part.before for part in parts]),
    )


def _repeats_of_shard(output: Store, release_id: str, number: int) -> _RepeatedInShard:
    shard = open_release(output, release_id).shards[number]
    if shard.n_rows == 0:
        return _RepeatedInShard(0, 0, 0, [])
    found = repeated_rows(shard.vectors(np.arange(shard.n_rows)), MOST_EXAMPLES, MOST_EXAMPLES)
    examples = [(size, tuple(str(one) for one in shard.ids(rows))) for size, rows in found.examples]
    return _RepeatedInShard(found.n_rows, found.n_groups, found.largest, examples)
