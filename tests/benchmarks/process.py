"""A command run from start to end, with its wall time and the memory of everything it started."""

import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import NamedTuple

import psutil

SAMPLE_EVERY_S = 0.25


class Measured(NamedTuple):
    """What a command cost."""

    wall_s: float
    peak_rss_bytes: int


class CommandError(Exception):
    """A measured command failed."""


def run(command: Sequence[str | Path], timeout_s: float = 1800, memory: bool = True) -> Measured:
    """Run a command and sample the resident memory of its process tree, if that is wanted: it costs some time itself.

    The sum runs over the command and all its descendants, among them a local Ray cluster's daemons and workers; one
    that was seen once still counts after its parent has gone. Pages that processes share (libraries, Ray's object
    store) count once for each of them, so that the sum is an upper limit.

    Raises
    ------
    CommandError
        The command failed or took longer than the timeout; the message ends with what it printed last.
    """
    started = perf_counter()
    with TemporaryFile() as printed:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdout=printed,
            stderr=subprocess.STDOUT,
            env=os.environ | {"COLUMNS": "200"},
            start_new_session=True,
        )
        stop, peaks = threading.Event(), [0]
        sampler = threading.Thread(target=_sample, args=(process.pid, stop, peaks), daemon=True)
        if memory:
            sampler.start()
        try:
            code: int | str = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = f"nothing after {timeout_s:g} s"
        finally:
            stop.set()
            if memory:
                sampler.join()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        wall_s = perf_counter() - started
        if code != 0:
            printed.seek(0)
            last = printed.read().decode(errors="replace")[-3000:]
            raise CommandError(f"expected exit code 0, found {code}: {' '.join(map(str, command))[:300]}\n{last}")
    return Measured(wall_s, peaks[0])


def _sample(pid: int, stop: threading.Event, peaks: list[int]) -> None:
    """Keep the largest sum in `peaks[0]`: the only way a thread can answer."""
    seen: set[psutil.Process] = set()
    while not stop.is_set():
        try:
            root = psutil.Process(pid)
            seen |= {root, *root.children(recursive=True)}
        except psutil.NoSuchProcess:
            pass
        seen = {process for process in seen if process.is_running()}
        peaks[0] = max(peaks[0], sum(map(_rss_bytes, seen)))
        stop.wait(SAMPLE_EVERY_S)


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0
