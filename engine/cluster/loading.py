"""Loading: cutouts are read by many threads ahead of time, and decoded to views when they are wanted.

Free of torch, so that its workers start fast. Decoding does not run beside the encoder of the same process: on cores
that they share it only drives the encoder out of its caches (measured: 7.1 instead of 6.7 ms per cutout, unpinned, two
processes).
"""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.cluster.task import LoadTask
from engine.compute.rejects import Reject
from engine.compute.stretch import display_image
from engine.compute.views import make_views, seen
from engine.storage.cutouts import CutoutReader, changed_containers
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.pins import pin_of
from engine.storage.references import parse
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, OBJECT_ID

READS_IN_FLIGHT = 32
"""Reads wait for the store most of the time."""


class Loaded(NamedTuple):
    """Some objects, each with its views or a reject."""

    views: np.ndarray
    """(n, views, bands, crop, crop) float32; of rejected rows, zeros."""
    rejects: dict[int, Reject]
    """By row."""

    @property
    def good(self) -> list[int]:
        """Rows that have views."""
        return [row for row in range(len(self.views)) if row not in self.rejects]

    def flat(self) -> np.ndarray:
        """All views of the good rows, (m * views, bands, crop, crop)."""
        views = self.views[self.good] if self.rejects else self.views
        return views.reshape(-1, *views.shape[2:])


class StuckError(Exception):
    """A cutout takes longer than allowed, and its thread cannot be stopped."""


FATAL = (StuckError, MemoryError)
"""A process that meets one of these has to end; what it worked on is tried again, in the end row by row."""


class Threads:
    """Threads of this process that read and decode; a worker keeps them for all its units.

    New threads get new parts of the heap, where every page is a fault again (measured per cutout, in units of 64: 43
    instead of 3 faults, and 0.82 instead of 0.69 ms of a core for all but the encoder).

    Parameters
    ----------
    decoders : int
        Cutouts that are decoded at once: cores that belong to this process.
    """

    def __init__(self, decoders: int = 1) -> None:
        self.decoders = decoders
        self.reading = ThreadPoolExecutor(READS_IN_FLIGHT)
        self.decoding = ThreadPoolExecutor(decoders)

    def close(self) -> None:
        """Let go of the threads without waiting for them."""
        for threads in (self.reading, self.decoding):
            threads.shutdown(wait=False, cancel_futures=True)


class Loader:
    """Reads ahead and decodes. Containers stay open as long as it lives."""

    def __init__(self, task: LoadTask, threads: Threads) -> None:
        self._task = task
        self._threads = threads
        self._reader = CutoutReader(task.cutouts)

    def __call__(self, objects: pa.Table) -> Callable[[], Loaded]:
        """Start to read the cutouts of some objects; what is returned decodes them.

        Raises
        ------
        StuckError
            Of what is returned: a cutout takes too long.
        """
        reads = [self._threads.reading.submit(read, objects, row, self._reader) for row in range(len(objects))]

        def decoded() -> Loaded:
            found, n = _Decoding(objects, self._task, reads), self._threads.decoders
            shares = [self._threads.decoding.submit(found.decode, range(first, len(reads), n)) for first in range(n)]
            self._wait(shares, found)
            for one in shares:
                one.result()
            return Loaded(found.views, found.rejects)

        return decoded

    def _wait(self, shares: list[Future[None]], found: "_Decoding") -> None:
        limit_s, n_before = self._task.cutouts.max_seconds, 0
        while wait(shares, limit_s).not_done:
            if found.n_done == n_before:
                raise StuckError(f"a cutout took longer than {limit_s} s")
            n_before = found.n_done


class _Decoding:
    """Objects that are being decoded, by one thread or several; each takes a share, as telling it costs time too."""

    def __init__(self, objects: pa.Table, task: LoadTask, reads: list[Future[bytes | np.ndarray | Reject]]) -> None:
        self._objects, self._task, self._reads = objects, task, reads
        preset = task.preset
        self.views = np.empty((len(reads), task.views, preset.n_bands, preset.crop, preset.crop), np.float32)
        self.rejects: dict[int, Reject] = {}
        self._done = bytearray(len(reads))

    @property
    def n_done(self) -> int:
        return sum(self._done)

    def decode(self, rows: range) -> None:
        for row in rows:
            found = load(self._objects, row, self._task, self._reads[row])
            if isinstance(found, Reject):
                self.rejects[row] = found
                self.views[row] = 0
            else:
                self.views[row] = found
            self._done[row] = True


@contextmanager
def threaded(task: LoadTask, decoders: int = 1) -> Iterator[Loader]:
    """Give a loader with threads of its own for the length of a block."""
    threads = Threads(decoders)
    try:
        yield Loader(task, threads)
    finally:
        threads.close()


def changed_rows(objects: pa.Table) -> dict[int, Reject]:
    """Reject rows whose containers were replaced while they were read; errors as of `changed_containers`."""
    changed = changed_containers(objects)
    files = [parse(text or "").file for text in objects[CUTOUT].to_pylist()] if changed else []
    return {
        row: Reject(RejectReason.CHANGED, f"{file}: {changed[file]}, while it was read")
        for row, file in enumerate(files)
        if file in changed
    }


def warm_up(task: LoadTask) -> None:
    """Have the loops over pixels compiled, or read from where they are kept, before a cutout waits for them."""
    pixels = np.zeros((8, 8, 3), np.uint8).transpose(2, 0, 1)
    image = display_image(pixels, 255.0, task.preset.bands, task.cutouts.stretch)
    make_views(image, task.preset, task.views, "", task.encoder_id)


def read(objects: pa.Table, row: int, reader: CutoutReader) -> bytes | np.ndarray | Reject:
    """Read the cutout of one object; errors of the store as of `CutoutReader.read`."""
    try:
        return reader.read(objects[CUTOUT][row].as_py(), pin_of(objects, row))
    except CutoutError as error:
        return Reject(error.reason, error.detail)


def load(objects: pa.Table, row: int, task: LoadTask, data: Future[bytes | np.ndarray | Reject]) -> np.ndarray | Reject:
    """Decode the cutout of one object, once it is read, to its views, (views, bands, crop, crop) float32."""
    found = data.result()
    if isinstance(found, Reject):
        return found
    try:
        pixels = decode_cutout(found, task.cutouts)
        if pixels.full_scale is None and not np.isfinite(pixels.values).all():
            return Reject(RejectReason.NAN_PIXELS, "NaN or infinite pixels")
        height, width = pixels.values.shape[1:]
        window = seen(height, width, task.preset, task.views)
        image = display_image(*pixels, task.preset.bands, task.cutouts.stretch, *window)
    except CutoutError as error:
        return Reject(error.reason, error.detail)
    except ValueError as error:
        return Reject(RejectReason.SHAPE, str(error))
    return make_views(image, task.preset, task.views, objects[OBJECT_ID][row].as_py(), task.encoder_id, (height, width))
