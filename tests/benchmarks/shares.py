"""What part of the cores the workers of a command got while all of them were at work; the rest is spent around them."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import perf_counter

import psutil

_EVERY_S = 2.0
_AT_WORK = 0.8
"""Of a core: a worker that uses less starts, waits or ends."""


@contextmanager
def shares(title: str, workers: int) -> Iterator[list[float]]:
    """Sample, for the length of a block, processes with some text in their command line; give the list of shares.

    Parameters
    ----------
    title : str
    workers : int
        Processes that share as many cores; samples count while each of them is at work.

    Yields
    ------
    list of float
        Of every interval, CPU time of the workers over that of so many cores.
    """
    found: list[float] = []
    stop = threading.Event()
    thread = threading.Thread(target=_sample, args=(title, workers, stop, found), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        stop.set()
        thread.join()


def _sample(title: str, workers: int, stop: threading.Event, found: list[float]) -> None:
    members: list[psutil.Process] = []
    before: list[float] = []
    at = perf_counter()
    while not stop.wait(_EVERY_S):
        if len(members) != workers:
            members, before = [one for one in psutil.process_iter() if title in _title(one)], []
        try:
            now = [sum(one.cpu_times()[:2]) for one in members]
        except psutil.Error:
            members, before = [], []
            continue
        elapsed_s, at = perf_counter() - at, perf_counter()
        used = [later - earlier for later, earlier in zip(now, before, strict=False)]
        if len(used) == workers and min(used) >= _AT_WORK * elapsed_s:
            found.append(sum(used) / (workers * elapsed_s))
        before = now


def _title(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""
