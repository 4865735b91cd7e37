"""Cutouts as training sees them: canvases, the resized squares that random views are cut from.

They come through the readers of embedding. All of them are looked at once before training begins, so that rejects are
known; where they fit into memory they stay there, and else every epoch streams them from the store.
"""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import ray

from engine.cluster.loading import FATAL, changed_rows, threaded
from engine.cluster.stream import stream
from engine.cluster.task import LoadTask
from engine.compute.epochs import Order
from engine.compute.rejects import Reject
from schemas.config import CutoutConfig
from schemas.errors import IntegrityError
from schemas.preset import Preset
from schemas.reject import RejectReason

ROWS_AT_ONCE = 64
"""Cutouts of one task."""


class Looked(NamedTuple):
    """What a look at every cutout found."""

    rejects: dict[int, Reject]
    """By row."""
    canvases: np.ndarray | None
    """(n, bands, side, side) float16, zeros where rejected; None where they were not to be kept."""


def canvas_task(preset: Preset, cutouts: CutoutConfig) -> LoadTask:
    """How a cutout becomes a canvas: as its view, but not cropped."""
    whole = preset.model_copy(update={"crop": preset.resize})
    return LoadTask(preset=whole, views=1, cutouts=cutouts, encoder_id="")


def canvas_bytes(n: int, preset: Preset) -> int:
    """Memory of n canvases."""
    return n * preset.n_bands * preset.resize**2 * np.dtype(np.float16).itemsize


def look(objects: pa.Table, task: LoadTask, keep: bool, advance: Callable[[int], None]) -> Looked:
    """Load every cutout once, on the whole cluster.

    Parameters
    ----------
    objects : pa.Table
        Objects with pins of their cutouts.
    task : LoadTask
        As of `canvas_task`.
    keep : bool
        Whether canvases are to stay in memory.
    advance : callable
        Told of every cutout that was looked at.

    Raises
    ------
    StoreError
        The store failed for longer than its retries.
    """
    n, side = len(objects), task.preset.resize
    canvases = np.zeros((n, task.preset.n_bands, side, side), np.float16) if keep else None
    rejects: dict[int, Reject] = {}
    records = [{"rows": np.arange(start, min(start + ROWS_AT_ONCE, n))} for start in range(0, n, ROWS_AT_ONCE)]
    for record in stream(records, _loading(ray.put(objects), task, keep)):
        rows = record["rows"]
        for row, name, detail in zip(record["bad"], record["reasons"], record["details"], strict=True):
            rejects[int(row)] = Reject(RejectReason[name], detail)
        if canvases is not None:
            canvases[rows] = record["canvases"]
        advance(len(rows))
    return Looked(rejects, canvases)


def streaming(objects: Any, task: LoadTask) -> Callable[[Order, slice], Iterator[np.ndarray]]:
    """Fetch canvases from the store, a window of steps ahead.

    Parameters
    ----------
    objects : pa.Table or ObjectRef
        Objects with pins, none of which was rejected.
    task : LoadTask

    Raises
    ------
    IntegrityError
        Of what is returned: a cutout that could be loaded before cannot any more.
    """
    shared = objects if isinstance(objects, ray.ObjectRef) else ray.put(objects)

    def fetch(order: Order, lanes: slice) -> Iterator[np.ndarray]:
        windows = [order.rows[at : at + order.window_steps] for at in range(0, len(order.rows), order.window_steps)]
        wanted = [np.stack([step[lanes] for step in steps]) for steps in windows]
        records = [{"rows": np.sort(steps[:, lane].ravel())} for steps in wanted for lane in range(steps.shape[1])]
        loaded = stream(records, _loading(shared, task, keep=True), in_order=True)
        for steps in wanted:
            found = [next(loaded) for _ in range(steps.shape[1])]
            for record in found:
                if len(record["bad"]):
                    raise IntegrityError(f"a cutout that could be read is rejected now: {record['details'][0]}")
            for step in steps:
                pairs = zip(found, step, strict=True)
                yield np.concatenate(
                    [record["canvases"][np.searchsorted(record["rows"], rows)] for record, rows in pairs]
                )

    return fetch


def _loading(objects: Any, task: LoadTask, keep: bool) -> dict[str, Any]:
    return {"fn": _load_rows, "fn_args": (objects, task, keep), "num_cpus": 1}


def _load_rows(record: dict[str, Any], objects: Any, task: LoadTask, keep: bool) -> dict[str, Any]:
    rows = record["rows"]
    own = ray.get(objects).take(pa.array(rows))
    try:
        with threaded(task) as loader:
            loaded = loader(own)()
        changed = changed_rows(own)
    except FATAL:
        os._exit(1)  # Ray starts another worker.
    rejects = loaded.rejects | changed
    bad = sorted(rejects)
    side = task.preset.resize
    canvases = np.zeros((len(rows) if keep else 0, task.preset.n_bands, side, side), np.float16)
    if keep:
        canvases[:] = loaded.views[:, 0]
    return {
        "rows": rows,
        "canvases": canvases,
        "bad": rows[bad],
        "reasons": [rejects[at].reason.name for at in bad],
        "details": [rejects[at].detail for at in bad],
    }
