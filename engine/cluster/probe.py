"""The probe: a sample of cutouts is read, decoded and encoded with a clock, by the code that a run uses.

It runs in a process of its own, which needs what a worker needs; a cutout that kills it does not kill the command.
Where a cluster is named, the encoder is timed in one Ray task there, on a GPU if it has any.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import ray

from engine.cluster.embed import ACTOR_CPUS
from engine.cluster.loading import READS_IN_FLIGHT, Loaded, StuckError, threaded
from engine.cluster.machine import cpus_of_machine
from engine.cluster.session import Resources, causes, local_cpus
from engine.cluster.task import EmbedTask, open_encoder
from engine.cluster.unit import pooled, rows_table
from engine.compute.estimate import READ_PINNED, Requests
from engine.storage.artefacts import decode, encode
from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError
from engine.storage.parquet import read_row_group, read_table, write_table
from engine.storage.pins import pin_of
from engine.storage.references import Cell, Reference, is_stack, parse
from engine.storage.store import Store
from schemas import paths
from schemas.config import PackConfig, RayConfig
from schemas.errors import PreflightError, VoorwerpError
from schemas.manifest import Record
from schemas.partition import Unit
from schemas.tables import CUTOUT, CUTOUT_SIZE

GROUP = 8
"""Objects that are timed together."""
MOST_BATCHES = 8
MOST_VIEWS = 1_024
SAMPLE_VIEWS = 128
"""That are kept in memory, to be encoded again and again."""
ENCODE_FOR_S = 10.0
TIMEOUT_S = 1800.0
_STUCK = 64


class Memory(Record):
    """Of a process, in bytes."""

    peak: int
    """Largest resident memory so far."""
    shared: int
    """Pages of files, libraries above all, that processes on a machine have in common."""


class Loading(Record):
    """What reading, decoding and making views took."""

    rejected: dict[str, int]
    """Objects by reason."""
    cutout_bytes: tuple[int, ...]
    """Of each cutout that can be read; of an image of a stack, its pixels."""
    seconds: tuple[float, ...]
    """Per group, seconds per object."""
    cpu_s: float
    """CPU seconds per object."""
    start_cpu_s: float
    """CPU seconds that the process needed before, for imports."""
    memory: Memory


class Encoding(Record):
    """What loading the encoder and encoding took."""

    runtime: str
    start_cpu_s: float
    """CPU seconds for loading the encoder and what it imports."""
    seconds: tuple[float, ...]
    """Per batch, seconds per view."""
    cpu_s: float
    """CPU seconds per view."""
    row_bytes: float
    """Of one object with its vector in a file, compressed."""
    file_bytes: float
    """Of a file besides its rows."""
    memory: Memory


class Measured(Record):
    """Both; no encoding where the encoder was left out."""

    loading: Loading
    encoding: Encoding | None


class Sample(NamedTuple):
    """Rows of a plan, and what their units say."""

    objects: pa.Table
    cutout_requests: Requests
    """Per object, for reading cutouts of whole units."""
    read_s: float
    """Seconds that reading one row group took."""


def this_machine(config: RayConfig) -> Resources:
    """What a local Ray cluster would find here; none is started."""
    import torch

    cpus = local_cpus(config.num_cpus)
    cores = min(cpus_of_machine(), cpus)
    return Resources(cores=cores, gpus=torch.cuda.device_count(), logical_cpus=cpus, is_local=True)


def read_sample(store: Store, plan_id: str, units: Sequence[Unit], places: Sequence[tuple[int, int]]) -> Sample:
    """Read rows of a plan, each named by the number of its unit and its row in there, ascending."""
    rows: dict[int, list[int]] = defaultdict(list)
    for number, row in places:
        rows[number].append(row)
    folder = paths.artefact("plan", plan_id)
    began = perf_counter()
    groups = [read_row_group(store, f"{folder}/{units[n].partition.path}", units[n].row_group) for n in rows]
    read_s = (perf_counter() - began) / len(groups)
    objects = pa.concat_tables([group.take(chosen) for group, chosen in zip(groups, rows.values(), strict=True)])
    total = sum(map(requests_of_unit, map(_references, groups)), Requests())
    return Sample(objects, total * (1 / sum(map(len, groups))), read_s)


def _references(objects: pa.Table) -> list[Reference | None]:
    """Parts of the references of cutouts; None where nothing was when they were planned."""
    columns = (objects[name].to_pylist() for name in (CUTOUT, CUTOUT_SIZE))
    return [None if size is None else parse(text) for text, size in zip(*columns, strict=True)]


def requests_of_unit(references: Sequence[Reference | None]) -> Requests:
    """Count the requests to S3 that the cutouts of one unit need.

    A file of its own is asked for its version and read. A container is opened once per unit, and looked at once more in
    the end. Each member of a tar or image of a stack is one request, and so is each row group of a column; these are
    taken to be of the size that `voorwerp pack` makes.
    """
    found = Requests()
    opened: set[tuple[str, str]] = set()
    row_groups: set[tuple[str, int]] = set()
    for reference in references:
        if reference is None or not reference.file.startswith("s3://"):
            continue
        file, piece = reference
        if piece is None:
            found += READ_PINNED
            continue
        opened.add((file, piece.name if isinstance(piece, Cell) else ""))
        if isinstance(piece, Cell) and not is_stack(file):
            row_groups.add((file, piece.row // PackConfig().rows_per_group))
        else:
            found += Requests(n_get=1)
    footers = sum(bool(name) for _, name in opened)
    looks = len({file for file, _ in opened})
    return found + Requests(n_head=len(opened) + looks, n_get=footers + len(row_groups))


def measure_here(
    objects: pa.Table, task: EmbedTask, decoders: int, threads: int | None, n_views: int
) -> tuple[Loading, Encoding | None]:
    """Load a sample in a process of its own, and time the encoder there.

    Parameters
    ----------
    objects : pa.Table
        Rows of a plan.
    task : EmbedTask
    decoders : int
        Threads that decode.
    threads : int or None
        Of the encoder; None to leave it out.
    n_views : int
        As of `time_encoding`.

    Raises
    ------
    PreflightError
        The process died, or a cutout took longer than allowed.
    VoorwerpError
        What stopped it: the store failed, or the runtime cannot be used.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_table(Store(folder), "objects.parquet", objects)
        Path(folder, "task.json").write_text(task.model_dump_json())
        command = [sys.executable, "-m", "engine.cluster.probe", folder, *map(str, (decoders, threads or 0, n_views))]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise PreflightError(f"the sample took longer than {TIMEOUT_S:g} s; take a smaller one") from error
        if ended.returncode == 0:
            measured = decode(Measured, Path(folder, "measured.json").read_bytes(), "probe")
            return measured.loading, measured.encoding
        said = Path(folder, "error.txt")
        message = said.read_text() if said.exists() else ended.stderr.strip()[-2000:]
        for kind in VoorwerpError.__subclasses__():
            if kind.exit_code == ended.returncode:
                raise kind(message)
        raise PreflightError(
            f"the process that reads a sample of cutouts ended with status {ended.returncode}: {message}\n"
            "A run would find the cutout that kills its process, and reject it; too little memory kills as well."
        )


def measure_on_cluster(objects: pa.Table, task: EmbedTask, threads: int, n_views: int) -> Encoding:
    """Time the encoder in one Ray task of the cluster that this process is connected to, on a GPU if the task asks.

    Raises
    ------
    VoorwerpError
        What stopped it.
    """
    n_gpus = 1 if task.device == "cuda" else 0
    with causes():
        return decode(
            Encoding, ray.get(_encode.options(num_gpus=n_gpus).remote(objects, task, threads, n_views)), "probe"
        )


@ray.remote(num_cpus=ACTOR_CPUS, max_retries=0)
def _encode(objects: pa.Table, task: EmbedTask, threads: int, n_views: int) -> bytes:
    return encode(time_encoding(objects, task, threads, n_views))


def time_loading(objects: pa.Table, task: EmbedTask, decoders: int) -> Loading:
    """Load objects as a worker does, as many ahead; the first one is loaded once more, to warm up."""
    start_cpu_s = process_time()
    rejected: Counter[str] = Counter()
    seconds = []
    starts = deque(range(0, len(objects), GROUP))
    pending: deque[tuple[int, Callable[[], Loaded]]] = deque()
    with threaded(task, decoders) as loader:
        loader(objects.slice(0, 1))()
        began, cpu_began = perf_counter(), process_time()
        while starts or pending:
            while starts and len(pending) * GROUP < READS_IN_FLIGHT:
                group = objects.slice(starts.popleft(), GROUP)
                pending.append((len(group), loader(group)))
            n, wait = pending.popleft()
            rejected.update(reject.reason.value for reject in wait().rejects.values())
            ended = perf_counter()
            seconds.append((ended - began) / n)
            began = ended
        cpu_s = (process_time() - cpu_began) / len(objects)
    return Loading(
        rejected=dict(rejected),
        cutout_bytes=_sizes(objects, task),
        seconds=tuple(seconds),
        cpu_s=cpu_s,
        start_cpu_s=start_cpu_s,
        memory=memory_of_process(),
    )


def _sizes(objects: pa.Table, task: EmbedTask) -> tuple[int, ...]:
    """Read cutouts once more, without a clock: a loader does not say how many bytes it read."""
    reader = CutoutReader(task.cutouts)

    def size(row: int) -> int | None:
        try:
            data = reader.read(objects[CUTOUT][row].as_py(), pin_of(objects, row))
        except CutoutError:
            return None
        return len(data) if isinstance(data, bytes) else data.nbytes

    with ThreadPoolExecutor(READS_IN_FLIGHT) as threads:
        return tuple(n_bytes for n_bytes in threads.map(size, range(len(objects))) if n_bytes is not None)


def time_encoding(objects: pa.Table, task: EmbedTask, threads: int, n_views: int) -> Encoding:
    """Load the encoder and encode a few times; the first time is not counted, unless it took all the time.

    Parameters
    ----------
    objects : pa.Table
        Their views are encoded again and again; noise, if they have none.
    task : EmbedTask
    threads : int
    n_views : int
        Views at once, as many as a worker has; at most `MOST_VIEWS` are made.
    """
    with threaded(task) as loader:
        loaded = loader(objects.slice(0, max(1, SAMPLE_VIEWS // task.views)))()
    found, good = loaded.flat(), loaded.good
    if not good:
        found = np.random.default_rng(0).standard_normal(loaded.views.shape[1:], dtype=np.float32)
    began = process_time()
    runtime, encode_views = open_encoder(task, threads)
    start_cpu_s = process_time() - began
    rows = rows_table(objects.take(good or [0]), pooled(encode_views(found), task.views))
    row_bytes, file_bytes = weigh(rows)
    n_views = min(n_views, MOST_VIEWS)
    views = found.take(range(n_views), axis=0, mode="wrap")
    times = [_timed(lambda: encode_views(views))]
    began = perf_counter()
    while len(times) <= MOST_BATCHES and times[0][0] + perf_counter() - began < ENCODE_FOR_S:
        times.append(_timed(lambda: encode_views(views)))
    counted = times[1:] or times
    return Encoding(
        runtime=runtime,
        start_cpu_s=start_cpu_s,
        seconds=tuple(wall_s / n_views for wall_s, _ in counted),
        cpu_s=sum(cpu_s for _, cpu_s in counted) / len(counted) / n_views,
        row_bytes=row_bytes,
        file_bytes=file_bytes,
        memory=memory_of_process(),
    )


def weigh(rows: pa.Table) -> tuple[float, float]:
    """Bytes that a row adds to a file, and that a file has besides; of one row alone, everything is the row's."""
    with tempfile.TemporaryDirectory() as folder:
        one, all_rows = (
            write_table(Store(folder), "rows.parquet", part).size_bytes for part in (rows.slice(0, 1), rows)
        )
    if len(rows) == 1:
        return float(one), 0.0
    row_bytes = (all_rows - one) / (len(rows) - 1)
    return row_bytes, max(0.0, one - row_bytes)


def memory_of_process() -> Memory:
    """Memory of this process, from /proc; elsewhere its largest resident memory, nothing of it shared."""
    status = Path("/proc/self/status")
    if not status.exists():
        return Memory(peak=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, shared=0)
    kib = dict(re.findall(r"^(VmHWM|RssFile):\s*(\d+) kB$", status.read_text(), flags=re.MULTILINE))
    return Memory(peak=int(kib["VmHWM"]) * 1024, shared=int(kib["RssFile"]) * 1024)


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call."""
    began, cpu_began = perf_counter(), process_time()
    call()
    return perf_counter() - began, process_time() - cpu_began


def main() -> None:
    """Measure; the other end of `measure_here`."""
    folder, (decoders, threads, n_views) = sys.argv[1], map(int, sys.argv[2:])
    task = EmbedTask.model_validate_json(Path(folder, "task.json").read_text())
    try:
        objects = read_table(Store(folder), "objects.parquet")
        loading = time_loading(objects, task, decoders)
        encoding = time_encoding(objects, task, threads, n_views) if threads else None
    except (VoorwerpError, StuckError) as error:
        Path(folder, "error.txt").write_text(str(error))
        os._exit(error.exit_code if isinstance(error, VoorwerpError) else _STUCK)  # A stuck thread cannot be stopped.
    Path(folder, "measured.json").write_bytes(encode(Measured(loading=loading, encoding=encoding)))


if __name__ == "__main__":
    main()
