"""Calls that wait for each other are answered together: what one batch costs once is not paid by every call."""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from engine.cluster.metrics import record
from schemas.metrics import BATCH_FILL, QUEUE_DEPTH

Item = TypeVar("Item")
Result = TypeVar("Result")

MOST_TOGETHER = 64
QUEUE = "search"
"""Name of what waits here, in metrics."""


@dataclass(eq=False)
class _Call:
    """A call that waits: itself alone, whatever others ask; items, such as arrays, may not even be comparable."""

    kind: Hashable
    item: object
    result: Future  # type: ignore[type-arg]


class Batches(Generic[Item, Result]):
    """A function of many items, called with one item by each of several threads.

    A call that finds none running runs at once, by itself; those that come meanwhile run together afterwards. Nobody
    waits for others to come.

    Parameters
    ----------
    answer : callable
        Of a kind and items of it: a result for each, in order. Where it fails for several together, each is tried
        alone, so that one bad item fails for its own caller.
    at_once : int
        Batches that run at the same time.
    """

    def __init__(self, answer: Callable[..., Sequence[Result]], at_once: int = 1) -> None:
        self._answer = answer
        self._waiting: list[_Call] = []
        self._lock, self._turns = threading.Lock(), threading.BoundedSemaphore(at_once)

    def __call__(self, kind: Hashable, item: Item) -> Result:
        """Answer one item, together with others of its kind that wait; errors as of the function."""
        call = _Call(kind, item, Future())
        with self._lock:
            self._waiting.append(call)
            record(QUEUE_DEPTH, len(self._waiting), queue=QUEUE)
        with self._turns:
            if batch := self._batch_with(call):
                record(BATCH_FILL, len(batch) / MOST_TOGETHER, of=QUEUE)
                self._run(kind, batch)
        return call.result.result()

    def _batch_with(self, call: _Call) -> list[_Call]:
        """Take a call and others of its kind out of those that wait; nothing where another batch has it."""
        with self._lock:
            if call not in self._waiting:
                return []
            others = (one for one in self._waiting if one.kind == call.kind and one is not call)
            batch = [call, *(one for one, _ in zip(others, range(MOST_TOGETHER - 1), strict=False))]
            self._waiting = [one for one in self._waiting if one not in batch]
            record(QUEUE_DEPTH, len(self._waiting), queue=QUEUE)
            return batch

    def _run(self, kind: Hashable, batch: Sequence[_Call]) -> None:
        try:
            results = self._answer(kind, [one.item for one in batch])
        except BaseException as error:
            if len(batch) == 1:
                batch[0].result.set_exception(error)
                return
            for one in batch:
                self._run(kind, [one])
            return
        for one, result in zip(batch, results, strict=True):
            one.result.set_result(result)
