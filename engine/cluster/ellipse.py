"""Ellipse features over Ray: cutouts through the readers of embedding, a unit of the plan at a time."""

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.canvases import ROWS_AT_ONCE, canvas_task
from engine.cluster.loading import FATAL, changed_rows, threaded
from engine.cluster.stream import stream
from engine.cluster.task import LoadTask
from engine.compute.ellipse import N_FEATURES, ellipse_features
from engine.compute.rejects import Reject
from engine.storage.arrow_stream import from_bytes, to_bytes
from engine.storage.parquet import as_vectors, read_row_group, read_table, write_table
from engine.storage.store import Store
from schemas.config import CutoutConfig
from schemas.partition import PartitionFile, Unit
from schemas.preset import Preset
from schemas.tables import CUTOUT, DETAIL, ELLIPSE, OBJECT_ID, POSITION, REASON, rejects_schema


class Measured(NamedTuple):
    """Features that were written."""

    partitions: list[PartitionFile]
    """In order of position; partitions whose every row was rejected have no file."""
    rejects: pa.Table
    """Objects that were embedded, and whose cutouts cannot be read any more."""


def ellipse_task(preset: Preset, cutouts: CutoutConfig, side_pixels: int) -> LoadTask:
    """How a cutout becomes the image that is measured: the field of a preset, uncropped, grey, in [0, 1]."""
    image = {"bands": "grey", "mean": [0.0], "std": [1.0], "resize": side_pixels, "crop": side_pixels}
    return canvas_task(Preset.model_validate(preset.settings | image), cutouts)


def measure_all(
    plan: Store,
    embeddings: Store,
    target: Store,
    units: Sequence[Unit],
    task: LoadTask,
    advance: Callable[[int], None],
) -> Measured:
    """Write the features of every embedded object beside its id and position, a file per partition.

    Parameters
    ----------
    plan, embeddings, target : Store
        Folders of the artefacts.
    units : sequence of Unit
        Of the plan, in its order, of partitions that have embeddings.
    task : LoadTask
        As of `ellipse_task`.
    advance : callable
        Told of objects that were measured or rejected.

    Raises
    ------
    StoreError
        A store failed for longer than its retries.
    """

    def run(record: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"rows": to_bytes(measure_unit(plan, embeddings, Unit(**record), task))}
        except FATAL:
            os._exit(1)  # Ray starts another worker.

    records = stream([unit._asdict() for unit in units], {"fn": run, "num_cpus": 1}, in_order=True)
    written, rejects = [], []
    for partition, pairs in groupby(zip(units, records, strict=True), key=lambda pair: pair[0].partition):
        tables = []
        for _, record in pairs:
            tables.append(from_bytes(record["rows"]))
            advance(len(tables[-1]))
        table = pa.concat_tables(tables)
        is_good = pc.is_null(table[REASON])
        schema = rejects_schema(table.schema.field(OBJECT_ID).type)
        rejects.append(table.filter(pc.invert(is_good)).select(schema.names).cast(schema))
        good = table.filter(is_good).select([*POSITION, ELLIPSE]).combine_chunks()
        if len(good):
            file = write_table(target, partition.path, good)
            written.append(PartitionFile(partition=partition, n_rows=len(good), file=file))
    return Measured(written, pa.concat_tables(rejects))


def measure_unit(plan: Store, embeddings: Store, unit: Unit, task: LoadTask) -> pa.Table:
    """Measure the embedded objects of a unit: id, position, cutout and features; of rejects the reason, else null."""
    planned = read_row_group(plan, unit.partition.path, unit.row_group)
    embedded = read_table(embeddings, unit.partition.path, [OBJECT_ID])[OBJECT_ID]
    objects = planned.filter(pc.is_in(planned[OBJECT_ID], value_set=embedded))
    features, rejects = measure(objects, task)
    found = [rejects.get(row) for row in range(len(objects))]
    columns = {name: objects[name] for name in (*POSITION, CUTOUT)} | {
        ELLIPSE: as_vectors(features),
        REASON: pa.array([reject and reject.reason.value for reject in found], pa.string()),
        DETAIL: pa.array([reject and reject.detail for reject in found], pa.string()),
    }
    return pa.table(columns)


def measure(objects: pa.Table, task: LoadTask) -> tuple[np.ndarray, dict[int, Reject]]:
    """Measure objects with pins of their cutouts: (n, 30) float32 features, zeros where rejected, and rejects by row.

    Raises
    ------
    StuckError
        A cutout takes too long; the process has to end.
    StoreError
        A store failed for longer than its retries.
    """
    features = np.zeros((len(objects), N_FEATURES), np.float32)
    rejects: dict[int, Reject] = {}
    with threaded(task) as loader:
        for start in range(0, len(objects), ROWS_AT_ONCE):
            loaded = loader(objects.slice(start, ROWS_AT_ONCE))()
            rejects |= {start + at: reject for at, reject in loaded.rejects.items()}
            for at in loaded.good:
                features[start + at] = ellipse_features(loaded.views[at, 0, 0])
    return features, rejects | changed_rows(objects)
