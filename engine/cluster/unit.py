"""One unit of embedding, start to commit: storage and compute joined. Ray carries it and is not needed to run it.

    begin ---> load views ---> encode ---> write rows and rejects ---> commit
    (mark)     (threads)                   (names of this attempt)     (create-only)

A worker that dies anywhere leaves a mark and perhaps files that no commit names. The third attempt at a unit takes its
rows one by one in a process of their own, so that a cutout that kills processes is found and rejected.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa

from engine.cluster.protocol import begin, commit, describe, find_commit
from engine.compute.rejects import Reject, rejects_table
from engine.compute.stretch import display_image
from engine.compute.views import make_views
from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.parquet import as_vectors, read_row_group, write_table
from engine.storage.pins import pin_of
from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig, Section
from schemas.manifest import Commit
from schemas.partition import Unit
from schemas.preset import Preset
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, EMBEDDING, OBJECT_ID, with_vectors

DECODE_THREADS = 4
"""Reading and decoding run while the encoder works, and most of a read is waiting."""
ATTEMPTS_TOGETHER = 2
"""Attempts at a unit as a whole; later ones take its rows one by one."""

Encoder = Callable[[np.ndarray], np.ndarray]
"""(n, bands, crop, crop) float32 views to (n, dimension) float32 vectors."""
Loaded = list[np.ndarray | Reject]
"""Per row its views, (views, bands, crop, crop) float32, or why there are none."""
Loader = Callable[[pa.Table], Callable[[], Loaded]]
"""Starts to load some objects; what it returns waits for them."""


class EmbedTask(Section):
    """What every unit of a run shares: where things are, and how pixels become vectors."""

    output: str
    plan_id: str
    encoder_id: str
    embeddings_id: str
    holder: str
    """Of the lease: the run that these workers work for."""
    architecture: str
    dimension: int
    preset: Preset
    views: int
    batch_size: int
    precision: str
    runtime: str
    cutouts: CutoutConfig
    device: str
    batches_ahead: int = 1
    """Batches that are read and decoded while the encoder works on one."""


class Embedded(NamedTuple):
    """A unit's rows, each with a vector or a reject."""

    vectors: np.ndarray
    """(n, dimension) float32; of rejected rows, anything."""
    rejects: Mapping[int, Reject]
    encode_s: float


class StuckError(Exception):
    """A cutout takes longer than allowed, and its thread cannot be stopped: the process has to end."""


def open_encoder(task: EmbedTask, threads: int) -> Encoder:
    """Load the run's encoder into this process."""
    from engine.compute.encoder import load_encoder
    from engine.storage.weights import read_tensors

    weights = f"{paths.artefact('encoder', task.encoder_id)}/{paths.WEIGHTS}"
    tensors = read_tensors(Store(task.output), weights)
    return load_encoder(
        task.architecture,
        task.preset.n_bands,
        tensors,
        task.preset.crop,
        task.device,
        task.precision,
        task.runtime,
        threads,
    ).encode


def is_draining(task: EmbedTask) -> bool:
    """Whether this run was told to begin no further unit."""
    return Store(task.output).exists(paths.drain(task.embeddings_id, task.holder))


def embed_unit(
    unit: Unit,
    task: EmbedTask,
    encoder: Encoder,
    loader: Loader,
    one_by_one: Callable[[pa.Table, EmbedTask], Embedded],
) -> Commit:
    """Embed one unit and commit it; if another attempt was first, return that one's record.

    Parameters
    ----------
    unit : Unit
        One row group of the plan.
    task : EmbedTask
        Shared by all units of the run.
    encoder : Encoder
    loader : Loader
        Of batches of the unit's objects, the next while the encoder works on this one.
    one_by_one : callable
        `one_by_one(objects, task)` embeds the objects of a unit that two attempts did not survive.

    Raises
    ------
    StoreError
        A store failed. Nothing is committed; the unit can be tried again.
    StuckError
        A cutout took too long. Nothing is committed; the process has to end.
    """
    started = perf_counter()
    store = Store(task.output)
    number = begin(store, task.embeddings_id, unit.name)
    if number > 1 and (record := find_commit(store, task.embeddings_id, unit.name)):
        return record
    plan_partition = f"{paths.artefact('plan', task.plan_id)}/{unit.partition.path}"
    objects = read_row_group(store, plan_partition, unit.row_group)
    together = number <= ATTEMPTS_TOGETHER
    found = embed_objects(objects, task, encoder, loader) if together else one_by_one(objects, task)
    rows, rejects = _unit_tables(objects, found, task)
    work, attempt = store.below(paths.work(task.embeddings_id)), uuid4().hex[:12]
    files = [write_table(work, paths.part(unit.name, attempt), rows)]
    if len(rejects):
        files.append(write_table(work, paths.part_rejects(unit.name, attempt), rejects))
    durations_s = {"total": perf_counter() - started, "encode": found.encode_s}
    mine = describe(unit.name, number, rows[OBJECT_ID], rejects, files, durations_s)
    counted = commit(store, task.embeddings_id, mine)
    if counted != mine:
        for file in files:
            work.delete(file.path)
    return counted


def embed_objects(objects: pa.Table, task: EmbedTask, encoder: Encoder, loader: Loader) -> Embedded:
    """Embed objects batch by batch; no bad cutout stops the others."""
    vectors = np.zeros((len(objects), task.dimension), np.float32)
    rejects: dict[int, Reject] = {}
    encode_s = 0.0
    for rows, loaded in _batches(objects, task, loader):
        rejects |= {row: result for row, result in zip(rows, loaded, strict=True) if isinstance(result, Reject)}
        good = [row for row in rows if row not in rejects]
        if good:
            views = np.concatenate([result for result in loaded if not isinstance(result, Reject)])
            started = perf_counter()
            found = encoder(views).reshape(len(good), task.views, task.dimension)
            encode_s += perf_counter() - started
            vectors[good] = found.mean(axis=1, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    rejects |= {int(row): Reject(RejectReason.NAN_EMBEDDING, "the encoder returned NaN or infinity") for row in broken}
    return Embedded(vectors, rejects, encode_s)


def load(objects: pa.Table, row: int, task: EmbedTask, reader: CutoutReader) -> np.ndarray | Reject:
    """Read the cutout of one object and make its views, (views, bands, crop, crop) float32."""
    try:
        pixels = decode_cutout(reader.read(objects[CUTOUT][row].as_py(), pin_of(objects, row)), task.cutouts)
        if pixels.full_scale is None and not np.isfinite(pixels.values).all():
            return Reject(RejectReason.NAN_PIXELS, "NaN or infinite pixels")
        image = display_image(pixels.values, pixels.full_scale, task.preset.bands, task.cutouts.stretch)
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    except ValueError as error:
        return Reject(RejectReason.SHAPE, str(error))
    return make_views(image, task.preset, task.views, objects[OBJECT_ID][row].as_py(), task.encoder_id)


@contextmanager
def threaded(task: EmbedTask) -> Iterator[Loader]:
    """Give a loader that reads and decodes in threads of this process."""
    threads, reader = ThreadPoolExecutor(DECODE_THREADS), CutoutReader(task.cutouts)

    def start(objects: pa.Table) -> Callable[[], Loaded]:
        futures = [threads.submit(load, objects, row, task, reader) for row in range(len(objects))]

        def wait() -> Loaded:
            try:
                return [future.result(task.cutouts.max_seconds) for future in futures]
            except TimeoutError as error:
                raise StuckError(f"a cutout took longer than {task.cutouts.max_seconds} s") from error

        return wait

    try:
        yield start
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _batches(objects: pa.Table, task: EmbedTask, loader: Loader) -> Iterator[tuple[range, Loaded]]:
    size = max(1, task.batch_size // task.views)
    ranges = [range(start, min(start + size, len(objects))) for start in range(0, len(objects), size)]
    pending: deque[tuple[range, Callable[[], Loaded]]] = deque()
    for rows in ranges:
        pending.append((rows, loader(objects.slice(rows.start, len(rows)))))
        if len(pending) > task.batches_ahead:
            ready, wait = pending.popleft()
            yield ready, wait()
    for ready, wait in pending:
        yield ready, wait()


def _unit_tables(objects: pa.Table, found: Embedded, task: EmbedTask) -> tuple[pa.Table, pa.Table]:
    bad = sorted(found.rejects)
    good = [row for row in range(len(objects)) if row not in found.rejects]
    schema = with_vectors(objects.schema, EMBEDDING, task.dimension)
    kept = objects.select(schema.names[:-1]).take(pa.array(good, pa.int64())).combine_chunks()
    rows = pa.table([*kept.columns, as_vectors(found.vectors[good])], schema=schema)
    rejected = objects.take(pa.array(bad, pa.int64()))
    return rows, rejects_table(rejected, [found.rejects[row] for row in bad])
