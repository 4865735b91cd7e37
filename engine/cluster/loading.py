"""Loading: cutouts are read and decoded in threads, and become views. Free of torch, so that its workers start fast."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pyarrow as pa

from engine.cluster.task import EmbedTask
from engine.compute.rejects import Reject
from engine.compute.stretch import display_image
from engine.compute.views import make_views, seen
from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.pins import pin_of
from engine.storage.references import parse
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, OBJECT_ID

READS_IN_FLIGHT = 32
"""Reads wait for the store most of the time."""
DECODING = 2
"""Cutouts that are decoded at once: decoding is the processor's work, and there is one actor or task per core."""

Loaded = list[np.ndarray | Reject]
"""Per row its views, (views, bands, crop, crop) float32, or why there are none."""


class StuckError(Exception):
    """A cutout takes longer than allowed, and its thread cannot be stopped."""


FATAL = (StuckError, MemoryError)
"""A process that meets one of these has to end; what it worked on is tried again, in the end row by row."""


class Loader:
    """Reads and decodes in threads of this process."""

    def __init__(self, task: EmbedTask) -> None:
        self._task = task
        self._threads = ThreadPoolExecutor(READS_IN_FLIGHT)
        self._decoding = threading.BoundedSemaphore(DECODING)
        self._reader = CutoutReader(task.cutouts)

    def __call__(self, objects: pa.Table) -> Callable[[], Loaded]:
        """Start to load objects; what is returned waits for them, and raises StuckError where one takes too long."""
        arguments = (self._task, self._reader, self._decoding)
        futures = [self._threads.submit(load, objects, row, *arguments) for row in range(len(objects))]
        limit_s = self._task.cutouts.max_seconds

        def wait() -> Loaded:
            try:
                return [future.result(limit_s) for future in futures]
            except TimeoutError as error:
                raise StuckError(f"a cutout took longer than {limit_s} s") from error

        return wait

    def changed(self, objects: pa.Table) -> dict[int, Reject]:
        """Reject rows whose containers were replaced while they were read; errors as of `CutoutReader.changed`."""
        changed = self._reader.changed()
        if not changed:
            return {}
        files = [parse(text).file if text else None for text in objects[CUTOUT].to_pylist()]
        return {
            row: Reject(RejectReason.CHANGED, f"{file}: {changed[file]}, while it was read")
            for row, file in enumerate(files)
            if file in changed
        }

    def close(self) -> None:
        """Let go of the threads without waiting for them."""
        self._threads.shutdown(wait=False, cancel_futures=True)


@contextmanager
def threaded(task: EmbedTask) -> Iterator[Loader]:
    """Give a loader for the length of a block."""
    loader = Loader(task)
    try:
        yield loader
    finally:
        loader.close()


def load(
    objects: pa.Table, row: int, task: EmbedTask, reader: CutoutReader, decoding: threading.BoundedSemaphore
) -> np.ndarray | Reject:
    """Read the cutout of one object and make its views, (views, bands, crop, crop) float32."""
    try:
        data = reader.read(objects[CUTOUT][row].as_py(), pin_of(objects, row))
        with decoding:
            pixels = decode_cutout(data, task.cutouts)
            if pixels.full_scale is None and not np.isfinite(pixels.values).all():
                return Reject(RejectReason.NAN_PIXELS, "NaN or infinite pixels")
            height, width = pixels.values.shape[1:]
            window = seen(height, width, task.preset, task.views)
            image = display_image(*pixels, task.preset.bands, task.cutouts.stretch, *window)
            object_id = objects[OBJECT_ID][row].as_py()
            return make_views(image, task.preset, task.views, object_id, task.encoder_id, (height, width))
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    except ValueError as error:
        return Reject(RejectReason.SHAPE, str(error))
