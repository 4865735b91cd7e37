"""The last resort for a unit whose workers died: its rows one by one in a throw-away process, which may die too.

The process says on its standard output which row it has begun and what came of it. The row that it was at when it died,
or when its time was up, becomes a reject, and another process goes on behind it: one process per poisonous cutout.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from engine.cluster.loading import StuckError, threaded
from engine.cluster.task import EmbedTask, open_encoder
from engine.cluster.unit import Embedded, embed_objects
from engine.compute.rejects import Reject
from engine.storage.parquet import read_table, write_table
from engine.storage.store import Store
from schemas.errors import StoreError
from schemas.reject import RejectReason

START_TIMEOUT_S = 600.0
"""For importing the libraries and loading the encoder."""
_ENVIRONMENT_FAILED = 74
_STUCK = 75
_OUT_OF_MEMORY = 76


def embed_one_by_one(objects: pa.Table, task: EmbedTask) -> Embedded:
    """Embed objects of which some may kill their process; those become `worker_crash` or `timeout` rejects.

    Raises
    ------
    StoreError
        The store failed, or the process dies before any row: a fault of the environment.
    """
    vectors = np.zeros((len(objects), task.dimension), np.float32)
    rejects: dict[int, Reject] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_table(Store(folder), "objects.parquet", objects)
        Path(folder, "task.json").write_text(task.model_dump_json())
        row, runtime = 0, ""
        while row < len(objects):
            for result in _results(folder, row, task.cutouts.max_seconds):
                row = result["row"]
                if "reject" in result:
                    rejects[row] = Reject(RejectReason[result["reject"][0]], result["reject"][1])
                else:
                    vectors[row], runtime = result["vector"], result["runtime"]
                row += 1
    return Embedded(vectors, rejects, 0.0, runtime)


def _results(folder: str, first: int, limit_s: float) -> Iterator[dict[str, Any]]:
    """Run one process from row `first` on; its death is the last result."""
    command = [sys.executable, "-m", "engine.cluster.isolated", folder, str(first)]
    log = Path(folder, "stderr.txt")
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        assert process.stdout is not None
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
        begun: int | None = None
        timed_out = False
        while True:
            try:
                line = lines.get(timeout=START_TIMEOUT_S if begun is None else limit_s)
            except queue.Empty:
                timed_out = True
                process.kill()
                break
            if line is None:
                break
            message = json.loads(line)
            if "begin" in message:
                begun = message["begin"]
            else:
                yield message
        status = process.wait()
        if status == 0 and not timed_out:
            return
        if begun is None or status == _ENVIRONMENT_FAILED:
            said = log.read_text(errors="replace")[-500:]
            raise StoreError(f"a process that embeds rows one by one failed with status {status}: {said}")
    if timed_out or status == _STUCK:
        reason, detail = RejectReason.TIMEOUT, f"not done after {limit_s:g} s"
    elif status == _OUT_OF_MEMORY:
        reason, detail = RejectReason.WORKER_CRASH, "its process ran out of memory"
    else:
        name = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        reason, detail = RejectReason.WORKER_CRASH, f"its process ended with {name}"
    yield {"row": begun, "reject": [reason.name, detail]}


def _pump(stream: IO[str], lines: "queue.SimpleQueue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def _on_cpu(task: EmbedTask) -> EmbedTask:
    """Encode on the CPU what is meant for a GPU: this process may run where there is none, or where it is taken."""
    if task.device == "cpu":
        return task
    return task.model_copy(update={"device": "cpu", "precision": "float32", "runtime": "auto"})


def main() -> None:
    """Embed the rows of a unit from a given one on; the other end of `_results`."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)  # Libraries may print to the standard output.
    os.dup2(2, 1)
    folder, first = sys.argv[1], int(sys.argv[2])
    task = EmbedTask.model_validate_json(Path(folder, "task.json").read_text())
    objects = read_table(Store(folder), "objects.parquet")
    runtime, encode = open_encoder(_on_cpu(task), threads=1)
    with threaded(task) as loader:
        for row in range(first, len(objects)):
            answers.write(json.dumps({"begin": row}) + "\n")
            try:
                found = embed_objects(objects.slice(row, 1), task, encode, loader)
            except StoreError as error:
                print(error, file=sys.stderr)
                os._exit(_ENVIRONMENT_FAILED)
            except StuckError:
                os._exit(_STUCK)
            except MemoryError:
                os._exit(_OUT_OF_MEMORY)
            if found.rejects:
                answer = {"row": row, "reject": [found.rejects[0].reason.name, found.rejects[0].detail]}
            else:
                answer = {"row": row, "vector": found.vectors[0].tolist(), "runtime": runtime}
            answers.write(json.dumps(answer) + "\n")
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
