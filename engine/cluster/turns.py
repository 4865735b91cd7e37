"""Turns at what only few may do at once: others wait, but neither too many nor for ever."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from schemas.errors import BusyError

PATIENCE_S = 30.0
"""For which a request waits for its turn."""


class Turns:
    """Lets a few in at once and a few more wait, so that those who wait cannot take every thread from others."""

    def __init__(self, what: str, at_once: int, most_waiting: int) -> None:
        self._what = what
        self._turns = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(at_once + most_waiting)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn, not for ever, and have it for the length of a block; BusyError where that is not to be."""
        if not self._room.acquire(blocking=False):
            raise BusyError(f"too many {self._what} at once; try again")
        try:
            if not self._turns.acquire(timeout=PATIENCE_S):
                raise BusyError(f"too many {self._what} at once; try again")
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._room.release()
