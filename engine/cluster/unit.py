"""One unit of embedding, start to commit: storage and compute joined. Ray carries it and is not needed to run it."""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from uuid import uuid4

import numpy as np
import pyarrow as pa

from engine.compute.digest import id_digest
from engine.compute.rejects import Reject, rejects_table
from engine.compute.stretch import display_image
from engine.compute.views import make_views
from engine.storage.artefacts import decode, encode
from engine.storage.cutouts import read_cutout
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.parquet import as_vectors, read_row_group, write_table
from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig
from schemas.manifest import Commit
from schemas.partition import Unit
from schemas.preset import Preset
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, EMBEDDING, IMAGE, OBJECT_ID, with_vectors

DECODE_THREADS = 4
"""Reading and decoding run while the encoder works, and most of a read is waiting."""


@dataclass(frozen=True)
class EmbedTask:
    """What every unit of a run shares: where things are, and how pixels become vectors."""

    output: str
    plan_id: str
    encoder_id: str
    embeddings_id: str
    architecture: str
    dimension: int
    preset: Preset
    views: int
    batch_size: int
    cutouts: CutoutConfig
    device: str


def embed_unit(unit: Unit, task: EmbedTask, encoder: Callable[[np.ndarray], np.ndarray]) -> Commit:
    """Embed one unit and commit it; if another attempt was first, return that one's record.

    Parameters
    ----------
    unit : Unit
        One row group of the plan.
    task : EmbedTask
        Shared by all units of the run.
    encoder : callable
        (n, bands, crop, crop) float32 views to (n, dimension) float32 vectors.

    Raises
    ------
    StoreError
        A store failed. Nothing is committed; the unit can be tried again.
    """
    started = perf_counter()
    store = Store(task.output)
    plan_partition = f"{paths.artefact('plan', task.plan_id)}/{unit.partition.path}"
    objects = read_row_group(store, plan_partition, unit.row_group)
    embeddings = np.zeros((len(objects), task.dimension), np.float32)
    rejects: dict[int, Reject] = {}
    encode_s = 0.0
    with ThreadPoolExecutor(DECODE_THREADS) as threads:
        for rows, loaded in _batches(objects, task, threads):
            rejects |= {row: result for row, result in zip(rows, loaded, strict=True) if isinstance(result, Reject)}
            good = [row for row in rows if row not in rejects]
            if good:
                views = np.concatenate([result for result in loaded if not isinstance(result, Reject)])
                encode_started = perf_counter()
                vectors = encoder(views).reshape(len(good), task.views, task.dimension)
                encode_s += perf_counter() - encode_started
                embeddings[good] = vectors.mean(axis=1, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    rejects |= {int(row): Reject(RejectReason.NAN_EMBEDDING, "the encoder returned NaN or infinity") for row in broken}
    durations_s = {"total": perf_counter() - started, "encode": encode_s}
    return _commit(unit, objects, embeddings, rejects, task, store, durations_s)


def load_views(object_id: int | str, cutout: str | bytes | None, task: EmbedTask) -> np.ndarray | Reject:
    """Read one cutout, given by URI or as bytes, and make its views, (views, bands, crop, crop) float32."""
    try:
        data = cutout if isinstance(cutout, bytes) else read_cutout(cutout, task.cutouts.max_bytes)
        pixels = decode_cutout(data, task.cutouts)
        if not np.isfinite(pixels.values).all():
            return Reject(RejectReason.NAN_PIXELS, "NaN or infinite pixels")
        image = display_image(pixels.values, pixels.full_scale, task.preset.bands, task.cutouts.stretch)
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    except ValueError as error:
        return Reject(RejectReason.SHAPE, str(error))
    return make_views(image, task.preset, task.views, object_id, task.encoder_id)


def _batches(
    objects: pa.Table, task: EmbedTask, threads: ThreadPoolExecutor
) -> Iterator[tuple[range, list[np.ndarray | Reject]]]:
    """Load batch after batch, the next one while the caller works on this one."""
    ids = objects[OBJECT_ID].to_pylist()
    cutouts = objects[IMAGE if IMAGE in objects.column_names else CUTOUT].to_pylist()
    size = max(1, task.batch_size // task.views)
    ranges = [range(start, min(start + size, len(ids))) for start in range(0, len(ids), size)]

    def submit(rows: range) -> list[Future[np.ndarray | Reject]]:
        return [threads.submit(load_views, ids[row], cutouts[row], task) for row in rows]

    pending = submit(ranges[0])
    for rows, following in zip(ranges, [*ranges[1:], range(0)], strict=True):
        loaded, pending = pending, submit(following)
        yield rows, [future.result() for future in loaded]


def _commit(
    unit: Unit,
    objects: pa.Table,
    embeddings: np.ndarray,
    rejects: dict[int, Reject],
    task: EmbedTask,
    store: Store,
    durations_s: dict[str, float],
) -> Commit:
    attempt = uuid4().hex[:12]
    work = store.below(paths.work(task.embeddings_id))
    bad = sorted(rejects)
    good = [row for row in range(len(objects)) if row not in rejects]
    schema = with_vectors(objects.schema, EMBEDDING, task.dimension)
    kept = objects.select(schema.names[:-1]).take(pa.array(good, pa.int64())).combine_chunks()
    files = [
        write_table(
            work, paths.part(unit.name, attempt), pa.table([*kept.columns, as_vectors(embeddings[good])], schema=schema)
        )
    ]
    if bad:
        table = rejects_table(objects.take(bad), [rejects[row] for row in bad])
        files.append(write_table(work, paths.part_rejects(unit.name, attempt), table))
    ids = objects[OBJECT_ID].to_pylist()
    commit = Commit(
        unit=unit.name,
        n_planned=len(objects),
        n_embedded=len(good),
        rejected=dict(Counter(reject.reason.value for reject in rejects.values())),
        embedded_digest=id_digest(ids[row] for row in good),
        rejected_digest=id_digest(ids[row] for row in bad),
        files=files,
        durations_s=durations_s,
    )
    path = paths.commit(task.embeddings_id, unit.name)
    if store.create(path, encode(commit)):
        return commit
    return decode(Commit, store.read(path), store.uri(path))
