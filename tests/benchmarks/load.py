"""Load on an HTTP service from a process of its own: `python -m tests.benchmarks.load`, questions as JSON on its input.

Either at a fixed rate, whatever the service does (open loop; an answer is late from when it was due, not from when it
could be asked for), or by so many clients that each wait for their answer (closed loop). Plain sockets, so that little
of the machine goes to asking.
"""

import asyncio
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).parents[2]
_MOST_CONNECTIONS = 400


class Load(NamedTuple):
    """What came of it."""

    latencies_s: list[float]
    """Of answers with status 200."""
    statuses: dict[str, int]
    """Answers by status; `lost` where there was none."""
    wall_s: float

    def ms(self, percentile: float) -> float:
        """A percentile of the latencies in milliseconds; inf where nothing was answered."""
        return 1000 * float(np.percentile(self.latencies_s, percentile)) if self.latencies_s else float("inf")

    @property
    def per_s(self) -> float:
        """Good answers per second."""
        return len(self.latencies_s) / self.wall_s

    @property
    def n_failed(self) -> int:
        """Answers that are neither good nor "not now"."""
        return sum(n for status, n in self.statuses.items() if status not in ("200", "429", "503"))


def closed_loop(port: int, paths: list[str], clients: int, n: int) -> Load:
    """Let clients ask n questions in all, each as soon as it has its answer."""
    return _in_a_process({"port": port, "paths": paths, "clients": clients, "n": n})


def open_loop(port: int, paths: list[str], per_s: float, duration_s: float) -> Load:
    """Ask at random times, so many a second on average."""
    return _in_a_process({"port": port, "paths": paths, "per_s": per_s, "duration_s": duration_s})


def _in_a_process(settings: dict[str, Any]) -> Load:
    command = [sys.executable, "-m", "tests.benchmarks.load"]
    made = subprocess.run(command, input=json.dumps(settings), stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return Load(**json.loads(made.stdout))


class _Client:
    """Connections that are kept open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._room = asyncio.Semaphore(_MOST_CONNECTIONS)
        self.latencies_s: list[float] = []
        self.statuses: Counter[str] = Counter()

    async def ask(self, path: str, due: float) -> None:
        async with self._room:
            try:
                status = await self._ask(path)
            except (OSError, EOFError):
                status = "lost"
        self.statuses[status] += 1
        if status == "200":
            self.latencies_s.append(perf_counter() - due)

    async def _ask(self, path: str) -> str:
        reader, writer = self._idle.pop() if self._idle else await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        await reader.readexactly(int(fields["content-length"]))
        if fields.get("connection") == "close":
            writer.close()
        else:
            self._idle.append((reader, writer))
        return head.split(" ", 2)[1]


async def _closed(port: int, paths: list[str], clients: int, n: int) -> _Client:
    client, numbers = _Client(port), iter(range(n))

    async def one() -> None:
        for number in numbers:
            await client.ask(paths[number % len(paths)], perf_counter())

    await asyncio.gather(*(one() for _ in range(clients)))
    return client


async def _open(port: int, paths: list[str], per_s: float, duration_s: float) -> _Client:
    client, begin = _Client(port), perf_counter()
    times = np.cumsum(np.random.default_rng(1).exponential(1 / per_s, int(per_s * duration_s)))
    asked = []
    for number, due in enumerate(begin + times):
        await asyncio.sleep(max(0.0, due - perf_counter()))
        asked.append(asyncio.create_task(client.ask(paths[number % len(paths)], due)))
    await asyncio.gather(*asked)
    return client


def main() -> None:
    """Do what standard input says; print a `Load` as JSON."""
    settings = json.load(sys.stdin)
    started = perf_counter()
    client = asyncio.run(_open(**settings) if "per_s" in settings else _closed(**settings))
    json.dump(Load(client.latencies_s, dict(client.statuses), perf_counter() - started)._asdict(), sys.stdout)


if __name__ == "__main__":
    main()
