"""Turns at what only few may do at once: others wait, but neither too many nor for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.cluster.metrics import record
from schemas.errors import BusyError
from schemas.metrics import QUEUE_DEPTH

PATIENCE_S = 30.0
"""For which a request waits for its turn."""


class Turns:
    """Lets a few in at once and a few more wait, so that those who wait cannot take every thread from others.

    Parameters
    ----------
    what : str
        What is waited for, in messages.
    at_once, most_waiting : int
    queue : str, optional
        Name of those who wait, in metrics; `what` when not given.
    """

    def __init__(self, what: str, at_once: int, most_waiting: int, queue: str | None = None) -> None:
        self._what, self._queue = what, queue or what
        self._lock, self._n_waiting = threading.Lock(), 0
        self._turns = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(at_once + most_waiting)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn, not for ever, and have it for the length of a block; BusyError where that is not to be."""
        if not self._room.acquire(blocking=False):
            raise BusyError(f"too many {self._what} at once; try again")
        try:
            self._count(1)
            try:
                is_mine = self._turns.acquire(timeout=PATIENCE_S)
            finally:
                self._count(-1)
            if not is_mine:
                raise BusyError(f"too many {self._what} at once; try again")
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._room.release()

    def _count(self, n: int) -> None:
        with self._lock:
            self._n_waiting += n
            record(QUEUE_DEPTH, self._n_waiting, queue=self._queue)
