"""Indexing over Ray: components are cut into pieces by cell, and each shard is built of its part of every piece.

    partitions --train--> cells.safetensors --cut--> pieces, a row group per shard --build--> shards --measure--> recall

When a killed build runs again, cells and shards that were done are kept; pieces are cut again, and are the same.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.cluster.opened import OpenShard
from engine.cluster.stream import stream
from engine.compute import approximate, boxes
from engine.compute.digest import table_digest
from engine.compute.quantiser import SAMPLE_PER_CELL, nearest_cells, share_out, train
from engine.compute.search import nearest, nearly_nearest
from engine.storage.arrays import read_arrays, write_arrays
from engine.storage.artefacts import decode, encode
from engine.storage.faiss_index import write_index
from engine.storage.parquet import as_matrix, read_row_group, read_table, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError
from schemas.index import IndexKind, Known, Setting, ShardRecord
from schemas.manifest import FileRecord
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, HEALPIX, OBJECT_ID

RECALL_K = 50
EFFORTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_HELD_OUT = 256
_HOLD_OUT_EVERY = 64
_READ_FOR_SAMPLE = 4
"""Times the sample's rows that are read for it, so that it comes from many places of the sky."""
_PIECE_ROWS = 500_000
_ROWS_PER_GROUP = 16_384
_KNOWN = (3, 5)
"""Questions that a shard is tested with, and answers to each."""


class Before(NamedTuple):
    """An index with the same cells, whose shards may be taken over."""

    folder: Store
    cells: FileRecord
    shards: dict[int, ShardRecord]


def train_cells(
    components: Store, index: Store, partitions: Sequence[PartitionFile], n_cells: int, n_shards: int
) -> FileRecord:
    """Place the cells and share them out over the shards; keep both, and queries that took no part in it."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return {"file": encode(_train(components, index, record["paths"], n_cells, n_shards))}

    n_rows = sum(part.n_rows for part in partitions)
    needed = min(1.0, _READ_FOR_SAMPLE * SAMPLE_PER_CELL * n_cells / n_rows)
    chosen = np.unique(np.linspace(0, len(partitions) - 1, max(1, round(needed * len(partitions)))).astype(int))
    (done,) = stream([{"paths": [partitions[at].partition.path for at in chosen]}], {"fn": run})
    return decode(FileRecord, done["file"], "file record")


def cut_pieces(
    components: Store, index: Store, work: Store, partitions: Sequence[PartitionFile], advance: Callable[[int], None]
) -> list[list[tuple[int, int]]]:
    """Sort all objects by shard, some partitions at a time.

    Returns
    -------
    list
        For each shard the (piece, row group) pairs that hold its objects.
    """

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"shards": cut_piece(components, index, work, record["number"], record["paths"])}

    records: list[dict[str, Any]] = []
    for part in partitions:
        if not records or records[-1]["n_rows"] + part.n_rows > _PIECE_ROWS:
            records.append({"number": len(records), "paths": [], "n_rows": 0})
        records[-1]["paths"].append(part.partition.path)
        records[-1]["n_rows"] += part.n_rows
    groups: list[list[tuple[int, int]]] = [[] for _ in range(read_cells(index)["n_shards"].item())]
    for record in stream(records, {"fn": run}):
        advance(record["n_rows"])
        for group, shard in enumerate(record["shards"]):
            groups[shard].append((record["number"], group))
    return [sorted(found) for found in groups]


def build_shards(
    index: Store,
    work: Store,
    groups: Sequence[Sequence[tuple[int, int]]],
    kind: IndexKind,
    advance: Callable[[int], None],
    before: Before | None = None,
) -> list[ShardRecord]:
    """Build every shard that is not built yet, or take it over; return what all of them are."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return {"shard": encode(build_shard(index, work, record["number"], record["groups"], kind, before))}

    records = [{"number": number, "groups": [list(pair) for pair in found]} for number, found in enumerate(groups)]
    shards = []
    for record in stream(records, {"fn": run}):
        shards.append(decode(ShardRecord, record["shard"], "shard record"))
        advance(shards[-1].n_rows)
    return sorted(shards, key=lambda shard: shard.number)


def measure_recall(index: Store, shards: Sequence[ShardRecord], kind: IndexKind, dimension: int) -> list[Setting]:
    """Measure what approximate search finds at rising effort, by the queries that were held out."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        return {"settings": [encode(setting) for setting in _measure(index, shards, kind, dimension)]}

    if kind == "flat":
        return []
    (done,) = stream([{"index": index.uri()}], {"fn": run})
    return [decode(Setting, setting, "setting") for setting in done["settings"]]


def cut_piece(components: Store, index: Store, work: Store, number: int, partition_paths: Sequence[str]) -> list[int]:
    """Write the objects of some partitions, a row group for each shard; return the shards of the row groups."""
    cells = read_cells(index)
    table = pa.concat_tables([read_table(components, path) for path in partition_paths])
    vectors = as_matrix(table[COMPONENTS])
    _check_finite(vectors, components)
    shards = cells["shards"][nearest_cells(vectors, cells["centroids"], 1)[:, 0]]
    order = np.argsort(shards, kind="stable")
    table = table.drop_columns([HEALPIX]).take(pa.array(order))
    present, starts = np.unique(shards[order], return_index=True)
    with (
        work.writing(paths.piece(number)) as sink,
        pq.ParquetWriter(pa.PythonFile(sink, mode="w"), table.schema, compression="lz4") as writer,
    ):
        for start, stop in zip(starts, [*starts[1:], len(table)], strict=True):
            writer.write_table(table.slice(start, stop - start), row_group_size=len(table))
    return [int(shard) for shard in present]


def build_shard(
    index: Store,
    work: Store,
    number: int,
    groups: Sequence[Sequence[int]],
    kind: IndexKind,
    before: Before | None = None,
) -> ShardRecord:
    """Build one shard, unless it was built before: vectors as boxes and as a FAISS index, objects as Parquet.

    Where the index before has the same shard, its files are taken over.
    """
    done = paths.shard_record(number)
    if work.exists(done):
        record = decode(ShardRecord, work.read(done), work.uri(done))
        if all(index.exists(file.path) for file in record.files):
            return record
    if not groups:
        return ShardRecord(number=number, n_rows=0, low=[], high=[], known=[], files=[])
    table = pa.concat_tables([read_row_group(work, paths.piece(piece), group) for piece, group in groups])
    table = table.sort_by(OBJECT_ID)
    vectors = as_matrix(table[COMPONENTS])
    rows_sha256 = _digest(table, vectors)
    if before and (same := before.shards.get(number)) and same.rows_sha256 == rows_sha256:
        for file in same.files:
            index.take_over(before.folder, file)
        work.write(done, encode(same))
        return same
    made = boxes.build(vectors)
    low, high = boxes.bounding_box(made)
    cells = read_cells(index)
    faiss_index = approximate.build(vectors, kind, cells["centroids"][cells["shards"] == number])
    record = ShardRecord(
        number=number,
        n_rows=len(table),
        low=low.tolist(),
        high=high.tolist(),
        known=_known(made),
        files=[
            write_arrays(index, paths.boxes(number), made._asdict()),
            write_index(index, paths.shard(number), faiss_index),
            write_table(index, paths.shard_objects(number), table.drop_columns([COMPONENTS]), _ROWS_PER_GROUP),
        ],
        rows_sha256=rows_sha256,
    )
    work.write(done, encode(record))
    return record


def _digest(table: pa.Table, vectors: np.ndarray) -> str:
    objects = table_digest(table.drop_columns([COMPONENTS]))
    return hashlib.sha256(objects.encode() + np.ascontiguousarray(vectors).tobytes()).hexdigest()


def read_cells(index: Store) -> dict[str, np.ndarray]:
    """Read centroids (c, d), the shard of each (c,), the number of shards (1,) and the held-out queries (q, d)."""
    return read_arrays(index, paths.CELLS)


def _train(components: Store, index: Store, chosen: Sequence[str], n_cells: int, n_shards: int) -> FileRecord:
    tables = [read_table(components, path, [COMPONENTS]) for path in chosen]
    vectors = as_matrix(pa.concat_tables(tables)[COMPONENTS])
    _check_finite(vectors, components)
    random = np.random.default_rng(0)
    held_out = np.arange(len(vectors)) % _HOLD_OUT_EVERY == 0
    sample = vectors[~held_out]
    if len(sample) > SAMPLE_PER_CELL * n_cells:
        sample = sample[np.sort(random.choice(len(sample), SAMPLE_PER_CELL * n_cells, replace=False))]
    sample = sample if len(sample) else vectors
    centroids = train(sample, min(n_cells, len(sample)))
    weights = np.bincount(nearest_cells(sample, centroids, 1)[:, 0], minlength=len(centroids))
    queries = vectors[held_out]
    queries = queries[np.sort(random.choice(len(queries), min(_HELD_OUT, len(queries)), replace=False))]
    arrays = {
        "centroids": centroids,
        "shards": share_out(centroids, weights, n_shards),
        "n_shards": np.array([n_shards]),
        "held_out": queries,
    }
    return write_arrays(index, paths.CELLS, arrays)


def _measure(index: Store, records: Sequence[ShardRecord], kind: IndexKind, dimension: int) -> list[Setting]:
    cells = read_cells(index)
    shards = [OpenShard(index, record, kind, dimension) for record in records]
    queries, places = cells["held_out"], (cells["centroids"], cells["shards"])
    # One more than is counted, and the first dropped: a query is in the catalogue, and finding it is no feat.
    k = min(RECALL_K + 1, sum(shard.n_rows for shard in shards))
    exact = _identities(nearest(shards, queries, k).places)
    settings = []
    for effort in EFFORTS:
        found = _identities(nearly_nearest(shards, *places, queries, k, effort).places)
        settings.append(Setting(effort=effort, recall=approximate.recall(found[:, 1:], exact[:, 1:])))
        if kind == "ivf-flat" and effort >= len(cells["centroids"]):
            break
    return settings


def _identities(places: Any) -> np.ndarray:
    return np.where(places.rows < 0, -1, places.shards.astype(np.int64) << 32 | places.rows)


def _known(made: boxes.Boxes) -> list[Known]:
    n_questions, n_answers = _KNOWN
    rows = np.unique(np.linspace(0, made.n - 1, n_questions).astype(int))
    found = boxes.search(made, boxes.vectors_of(made, rows), min(n_answers, made.n))
    return [
        Known(row=int(row), rows=near.tolist(), distances=distances.tolist())
        for row, near, distances in zip(rows, found.rows, found.distances, strict=True)
    ]


def _check_finite(vectors: np.ndarray, components: Store) -> None:
    if not np.isfinite(vectors).all():
        raise DataError(f"{components.uri()}: expected finite components, found NaN or infinity; reduce again")
