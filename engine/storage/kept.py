"""What threads share and keep: each thing is made once, whoever asks first, and those used last stay."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from engine.storage.images import CutoutError
from schemas.reject import RejectReason

Value = TypeVar("Value")


@dataclass
class _Slot(Generic[Value]):
    """Where a thing is made, while threads that want another one do not wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    value: Value | None = None
    refusal: tuple[RejectReason, str] | None = None
    weight: int = 0


class Kept(Generic[Value]):
    """Keeps things up to a total weight, and always the last one. That one cannot be made is kept as well.

    Parameters
    ----------
    most : int
        Total weight.
    weigh : callable
        Value to weight; each thing is 1 without it.
    """

    def __init__(self, most: int, weigh: Callable[[Value], int] = lambda value: 1) -> None:
        self._most = most
        self._weigh = weigh
        self._lock = threading.Lock()
        self._slots: OrderedDict[Hashable, _Slot[Value]] = OrderedDict()
        self._weight = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return what is kept under a key; make it first where there is nothing.

        Raises
        ------
        CutoutError
            `make` raised it, now or before. Other errors are not kept.
        """
        with self._lock:
            slot = self._slots.setdefault(key, _Slot())
            self._slots.move_to_end(key)
        with slot.lock:
            if slot.value is None and slot.refusal is None:
                try:
                    slot.value = make()
                except CutoutError as error:
                    slot.refusal = (error.reason, error.detail)
                finally:
                    self._settle(key, slot)
        if slot.refusal:
            raise CutoutError(*slot.refusal)
        assert slot.value is not None
        return slot.value

    def _settle(self, key: Hashable, slot: _Slot[Value]) -> None:
        """Count what was made, and forget what was not or was used longest ago."""
        with self._lock:
            if self._slots.get(key) is not slot:
                return
            if slot.value is None and slot.refusal is None:
                del self._slots[key]
                return
            slot.weight = 1 if slot.value is None else self._weigh(slot.value)
            self._weight += slot.weight
            while self._weight > self._most and len(self._slots) > 1:
                self._weight -= self._slots.popitem(last=False)[1].weight
