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
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, OBJECT_ID

READS_IN_FLIGHT = 32
"""Reads wait for the store most of the time."""
DECODING = 2
"""Cutouts that are decoded at once: decoding is the processor's work, and there is one actor or task per core."""

Loaded = list[np.ndarray | Reject]
"""Per row its views, (views, bands, crop, crop) float32, or why there are none."""
Loader = Callable[[pa.Table], Callable[[], Loaded]]
"""Starts to load some objects; what it returns waits for them."""


class StuckError(Exception):
    """A cutout takes longer than allowed, and its thread cannot be stopped."""


FATAL = (StuckError, MemoryError)
"""A process that meets one of these has to end; what it worked on is tried again, in the end row by row."""


@contextmanager
def threaded(task: EmbedTask) -> Iterator[Loader]:
    """Give a loader that reads and decodes in threads of this process."""
    threads, decoding = ThreadPoolExecutor(READS_IN_FLIGHT), threading.BoundedSemaphore(DECODING)
    reader = CutoutReader(task.cutouts)

    def start(objects: pa.Table) -> Callable[[], Loaded]:
        futures = [threads.submit(load, objects, row, task, reader, decoding) for row in range(len(objects))]

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
