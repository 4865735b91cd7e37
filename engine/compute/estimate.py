"""What embedding will take: a plan and a measured sample in, a prediction out. Arithmetic alone: no clock, no file.

    n objects ---> seconds = units in turn x max(reading / loaders, encoding / workers, CPU / cores)
              ---> requests, bytes, memory, rejects, money

Requests are those of `engine.cluster.protocol`, `unit`, `stages` and `assemble` on S3. A POST counts as a PUT, which
has the same price.
"""

import math
from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Self

import numpy as np
from scipy.special import betaincinv, stdtrit

from schemas.manifest import Record
from schemas.price import PriceTable

CONFIDENCE = 0.95
GB, HOUR_S = 1e9, 3600.0

UPLOAD_BYTES = 8 * 2**20
"""Larger files are uploaded in pieces of this size (`engine.storage.sink`)."""
COPIES_OF_A_UNIT = 5
"""Its vectors as they are found, averaged, chosen, as a column, and as the file's bytes."""
UNIT_RECORD_BYTES = 2_000
"""What the driver keeps of a unit, and what passes through it."""
RAY_BYTES = 900 * 10**6
"""Ray's own processes and Ray Data's on one machine (measured, Ray 2.60)."""
RAY_START_S = 10.0
"""Until a local Ray cluster takes work, and until its first task is done (measured on two cores)."""
SIDE_BY_SIDE = 1.2
"""CPU time of a cutout where several workers run, in that of a worker alone (measured on two cores)."""
ASSEMBLE_BYTES_PER_S = 80e6
"""Reading, checking, compressing and writing vectors, on one core (measured)."""
LEASE_RENEWED_EVERY_S = 15.0
KEYS_PER_LISTING = 1_000


class Span(Record):
    """A range that probably holds the truth, and the value to plan with."""

    low: float
    likely: float
    high: float

    def times(self, factor: float) -> "Span":
        """Multiply by a factor that is not negative."""
        return Span(low=self.low * factor, likely=self.likely * factor, high=self.high * factor)

    def plus(self, amount: float) -> "Span":
        """Add an amount."""
        return Span(low=self.low + amount, likely=self.likely + amount, high=self.high + amount)


class Requests(Record):
    """Requests to an object store, by kind."""

    n_get: float = 0
    n_head: float = 0
    n_put: float = 0
    n_list: float = 0

    def __add__(self, other: Self) -> "Requests":
        return Requests(**{name: getattr(self, name) + getattr(other, name) for name in Requests.model_fields})

    def __mul__(self, factor: float) -> "Requests":
        return Requests(**{name: getattr(self, name) * factor for name in Requests.model_fields})

    @property
    def total(self) -> float:
        """Requests of every kind."""
        return self.n_get + self.n_head + self.n_put + self.n_list


READ = Requests(n_get=1)
"""Of a whole file."""
READ_PINNED = Requests(n_head=1, n_get=1)
"""Of a file of its own: its version, then its bytes."""
READ_ROW_GROUP = Requests(n_head=1, n_get=2)
"""The footer, then the columns."""
CREATE = Requests(n_put=1)
MISS = Requests(n_head=1, n_list=1)
"""Finding that nothing is there."""
ONCE = Requests(n_get=15, n_head=26, n_put=17, n_list=7)
"""Lease, claims, manifests, weights and metadata of a run, whatever its size (counted)."""


class Work(Record):
    """What there is to do."""

    n_objects: int
    n_units: int
    n_partitions: int
    dimension: int
    views: int
    view_bytes: int
    batch_size: int
    """Views that the encoder sees at once."""
    max_reject_fraction: float
    rejects_judged_from: int
    """Objects from which a run judges the fraction of its rejects."""
    cutout_requests: Requests
    """Per object, on average; none for local files."""
    output_on_s3: bool

    @property
    def rows_per_unit(self) -> float:
        """Objects in a unit, on average."""
        return self.n_objects / max(1, self.n_units)

    @property
    def objects_per_batch(self) -> float:
        """Objects that a worker which does whole units reads, and encodes, together."""
        return min(max(1, self.batch_size // self.views), self.rows_per_unit)

    def views_at_once(self, in_stages: bool) -> int:
        """Views that the encoder is given: of a batch, or in stages of a unit."""
        return math.ceil(self.rows_per_unit if in_stages else self.objects_per_batch) * self.views


class Probe(Record):
    """What was measured on a sample."""

    n_objects: int
    rejected: dict[str, int]
    """Objects by reason."""
    cutout_bytes: tuple[int, ...]
    """Of each cutout that can be read."""
    load_s: tuple[float, ...]
    """Per group of objects, seconds per object for reading, decoding and making views, by one worker or task."""
    load_cpu_s: float
    """CPU seconds per object for the same."""
    runtime: str
    """Of the encoder."""
    encode_s: tuple[float, ...]
    """Per batch, seconds per view, of one worker alone."""
    encode_cpu_s: float
    """CPU seconds per view."""
    row_bytes: float
    """Of one object with its vector in a file, compressed."""
    file_bytes: float
    """Of a file besides its rows."""
    start_cpu_s: float
    """CPU seconds from the start of a worker to its first batch."""
    request_s: float
    """Seconds that one request to the output takes."""
    worker_bytes: int
    """Largest resident memory of a process that loads and encodes, without what it shares."""
    loader_bytes: int
    """The same of one that only loads; tasks, one per core, are such."""
    shared_bytes: int
    """Libraries, which all processes of a machine have in common."""
    driver_bytes: int
    """Largest resident memory of the process that planned, without what it shares."""
    busy_cores: float
    """Cores of this machine that other work kept busy before the probe (its load average)."""

    @property
    def n_rejected(self) -> int:
        """Objects that would have no embedding."""
        return sum(self.rejected.values())

    @property
    def reject_fraction(self) -> float:
        """Of the sample; 0 of an empty one."""
        return self.n_rejected / max(1, self.n_objects)


class Machines(Record):
    """What works, and on how much of it."""

    device: str
    workers: int
    cores: int
    in_stages: bool
    """Whether tasks of their own read whole units and write them, instead of each worker by itself."""
    is_local: bool
    """Whether everything runs on this machine."""

    @property
    def gpus(self) -> int:
        """GPUs that are held: one per worker."""
        return self.workers if self.device == "cuda" else 0

    def for_units(self, n: int) -> "Machines":
        """Leave out workers that `n` units leave without work."""
        return self.model_copy(update={"workers": max(1, min(self.workers, n))})

    @property
    def threads(self) -> int:
        """CPU threads of each worker's encoder."""
        return 1 if self.device == "cuda" else max(1, self.cores // self.workers)

    @property
    def decoders(self) -> int:
        """Threads that decode in a worker, or in stages in a task."""
        return 1 if self.in_stages else self.threads


class Cost(Record):
    """Money, in the currency of the price table."""

    currency: str
    machines: Span
    requests: float
    egress: float
    total: Span
    per_month: float
    """For keeping what stays."""


class Prediction(Record):
    """What embedding will take."""

    wall_s: Span
    start_s: float
    work_s: Span
    assemble_s: float
    cutouts_per_s: float
    """At work."""
    cpu_hours: Span
    """Of all cores, from start to end."""
    cpu_hours_busy: float
    """What reading, decoding and encoding need of them."""
    gpu_hours: Span
    """Of all GPUs, from start to end."""
    gpu_hours_busy: float
    requests: Requests
    bytes_read: Span | None
    """Of cutouts; None where none of the sample can be read."""
    bytes_written: int
    """Rows of units, then the same rows as partitions."""
    bytes_kept: int
    """What stays of these."""
    rejects: Span
    """Objects; low and high are the limits of a 95 % interval (Clopper and Pearson 1934)."""
    worker_bytes: int
    """Of each worker, without shared libraries."""
    task_bytes: int
    """Of each task that reads, writes or assembles, likewise; there is one per core."""
    total_bytes: int
    """Workers, tasks, libraries, driver and, on this machine, Ray."""
    driver_bytes: int
    cost: Cost | None


def predict(work: Work, probe: Probe, machines: Machines, prices: PriceTable | None) -> Prediction:
    """Predict what embedding takes.

    Times assume that the sample is like the rest, and that nothing else runs on the machines; only the high end reckons
    with what runs on this one now, and the low end with workers that do not slow each other down.

    Parameters
    ----------
    work : Work
    probe : Probe
        Measured by one worker alone.
    machines : Machines
    prices : PriceTable or None
        None for no `cost`.
    """
    start_s = start_seconds(probe, machines)
    work_s = work_seconds(work, probe, machines)
    assemble_s = assemble_seconds(work, probe, machines)
    around_s = start_s + assemble_s
    crowded = 1 + _busy(probe, machines) / machines.cores
    wall_s = Span(low=around_s + work_s.low, likely=around_s + work_s.likely, high=around_s * crowded + work_s.high)
    requests = count_requests(work, probe, machines, wall_s.likely)
    written, kept = bytes_written(work, probe)
    bytes_read = mean_span(probe.cutout_bytes).times(work.n_objects) if probe.cutout_bytes else None
    cpu_hours, gpu_hours = (wall_s.times(n / HOUR_S) for n in (machines.cores, machines.gpus))
    on_gpu = machines.device == "cuda"
    encode_cpu_s = 0.0 if on_gpu else work.views * probe.encode_cpu_s
    worker_bytes, task_bytes = memory(work, probe, machines)
    driver_bytes = probe.driver_bytes + UNIT_RECORD_BYTES * work.n_units
    ray_bytes = RAY_BYTES if machines.is_local else 0
    processes_bytes = machines.workers * worker_bytes + machines.cores * task_bytes
    return Prediction(
        wall_s=wall_s,
        start_s=start_s,
        work_s=work_s,
        assemble_s=assemble_s,
        cutouts_per_s=work.n_objects / work_s.likely if work_s.likely else 0.0,
        cpu_hours=cpu_hours,
        cpu_hours_busy=work.n_objects * (probe.load_cpu_s + encode_cpu_s) / HOUR_S,
        gpu_hours=gpu_hours,
        gpu_hours_busy=work.n_objects * work.views * fmean(probe.encode_s) / HOUR_S if on_gpu else 0.0,
        requests=requests,
        bytes_read=bytes_read,
        bytes_written=written,
        bytes_kept=kept,
        rejects=reject_span(probe.n_rejected, probe.n_objects).times(work.n_objects),
        worker_bytes=worker_bytes,
        task_bytes=task_bytes,
        total_bytes=processes_bytes + probe.shared_bytes + driver_bytes + ray_bytes,
        driver_bytes=driver_bytes,
        cost=cost(prices, cpu_hours, gpu_hours, requests, bytes_read, kept) if prices else None,
    )


class Seconds(Record):
    """Per million cutouts."""

    allocated: float | None
    """While workers were at work, idle or not; None where nothing was embedded."""
    busy: float | None
    """While encoders encoded; None where that is not known."""


class Took(Record):
    """What embedding took: the truth to hold a prediction against."""

    cutouts_per_s: float | None
    """From the first batch to the last commit; None where nothing was embedded."""
    gpu_s_per_million: Seconds | None
    """None where no GPU was used."""
    cpu_s_per_million: Seconds


def took(machines: Machines, n_here: int, at_work_s: float, n_cutouts: int, encode_s: float) -> Took:
    """Sum up a run.

    Parameters
    ----------
    machines : Machines
    n_here : int
        Cutouts that this process embedded or rejected; an earlier run of the same job may have done others.
    at_work_s : float
        From the first batch of this process to its last commit.
    n_cutouts : int
        All cutouts, those of earlier runs included.
    encode_s : float
        Sum over them of the time in the encoder.
    """
    million_here, million = n_here / 1e6, n_cutouts / 1e6

    def seconds(at_once: int, encoders: int | None) -> Seconds:
        busy = encode_s * encoders / million if encoders and million else None
        return Seconds(allocated=at_once * at_work_s / million_here if million_here else None, busy=busy)

    on_gpu = machines.device == "cuda"
    at_once = machines.cores if on_gpu else machines.workers * machines.threads
    return Took(
        cutouts_per_s=n_here / at_work_s if n_here and at_work_s else None,
        gpu_s_per_million=seconds(machines.gpus, 1) if on_gpu else None,
        cpu_s_per_million=seconds(at_once, None if on_gpu else machines.threads),
    )


def reject_misfits(work: Work, n: int, rejected: dict[str, int]) -> list[str]:
    """Say so if a sample leaves no doubt that a run would stop for its rejects; empty if not.

    Parameters
    ----------
    work : Work
    n : int
        Objects in the sample.
    rejected : dict of str to int
        Of these, by reason.
    """
    n_rejected = sum(rejected.values())
    least = reject_span(n_rejected, n).low
    if work.n_objects < work.rejects_judged_from or least <= work.max_reject_fraction:
        return []
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items()))
    return [
        f"rejects: {n_rejected:,} of {n:,} cutouts in the sample are rejected ({reasons}), so that more than "
        f"{least:.0%} of all will be, and embed.max_reject_fraction {work.max_reject_fraction:g} will stop the "
        "run; correct the cause, or allow more"
    ]


def machine_misfits(
    prediction: Prediction,
    free_bytes: int | None,
    memory_bytes: int | None,
    most_hours: float | None,
    most_cost: float | None,
) -> list[str]:
    """List what cannot fit on these machines; empty where everything does. Likely values are what counts.

    Parameters
    ----------
    prediction : Prediction
    free_bytes : int or None
        Of the disk that holds the output; None for an object store.
    memory_bytes : int or None
        Of this machine, where everything runs on it.
    most_hours, most_cost : float or None
        What the user allows.
    """
    found = []
    if free_bytes is not None and prediction.bytes_written > free_bytes:
        found.append(
            f"disk: about {prediction.bytes_written / GB:,.3g} GB will be written, as units and again as partitions, "
            f"and {free_bytes / GB:,.3g} GB are free; choose another output"
        )
    if memory_bytes is not None and prediction.total_bytes > memory_bytes:
        found.append(
            f"memory: about {prediction.total_bytes / GB:,.3g} GB are needed, by each worker "
            f"{prediction.worker_bytes / GB:,.3g} GB, and this machine has {memory_bytes / GB:,.3g} GB; set "
            "embed.workers, embed.batch_size or plan.rows_per_unit lower"
        )
    hours = prediction.wall_s.likely / HOUR_S
    if most_hours is not None and hours > most_hours:
        found.append(f"time: about {hours:,.3g} hours, more than --most-hours {most_hours:g}")
    if most_cost is not None and prediction.cost and prediction.cost.total.likely > most_cost:
        found.append(
            f"cost: about {prediction.cost.total.likely:,.2f} {prediction.cost.currency}, more than --most-cost "
            f"{most_cost:g}"
        )
    return found


def draw(n_rows: Sequence[int], n: int, seed: int) -> list[tuple[int, int]]:
    """Draw a random sample that is spread evenly over units: one row from each of `n` equal stretches of the plan.

    Parameters
    ----------
    n_rows : sequence of int
        Rows of each unit.
    n : int
        Rows to draw; all of them where there are no more.
    seed : int

    Returns
    -------
    list of (int, int)
        Number of the unit and of the row in it, ascending, each pair once.
    """
    total = sum(n_rows)
    n = min(n, total)
    bounds = np.arange(n + 1) * total // max(1, n)
    places = np.random.default_rng(seed).integers(bounds[:-1], bounds[1:])
    ends = np.cumsum(n_rows, dtype=int)
    numbers = np.searchsorted(ends, places, side="right")
    rows = places - (ends - np.asarray(n_rows, dtype=int))[numbers]
    return list(zip(numbers.tolist(), rows.tolist(), strict=True))


def mean_span(values: Sequence[float]) -> Span:
    """Estimate a mean from a sample, with the 95 % interval of Student's t, kept within the values.

    One value has no spread: half and twice of it are given.
    """
    mean = fmean(values)
    if len(values) == 1:
        return Span(low=mean / 2, likely=mean, high=mean * 2)
    t = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2))
    half = t * stdev(values) / math.sqrt(len(values))
    return Span(low=max(min(values), mean - half), likely=mean, high=mean + half)


def reject_span(n_rejected: int, n: int) -> Span:
    """Estimate a fraction, with its exact 95 % interval (Clopper and Pearson 1934); [0, 1] for an empty sample."""
    if n == 0:
        return Span(low=0.0, likely=0.0, high=1.0)
    tail = (1 - CONFIDENCE) / 2
    low = float(betaincinv(n_rejected, n - n_rejected + 1, tail)) if n_rejected else 0.0
    high = float(betaincinv(n_rejected + 1, n - n_rejected, 1 - tail)) if n_rejected < n else 1.0
    return Span(low=low, likely=n_rejected / n, high=high)


def start_seconds(probe: Probe, machines: Machines) -> float:
    """Until all workers have begun: Ray, then imports and encoders, which share the cores."""
    per_core = machines.workers / machines.cores if machines.is_local else 1.0
    return (RAY_START_S if machines.is_local else 0.0) + probe.start_cpu_s * max(1.0, per_core)


def work_seconds(work: Work, probe: Probe, machines: Machines) -> Span:
    """From the first batch to the last commit.

    A worker that does whole units reads while it decodes and encodes, so that the slower of the two counts; it waits
    for the first batch of each unit and for the store. In stages encoders wait for tasks once; then the slower of the
    two counts. All need CPU, encoders where there is no GPU. Units are not shared: in the last turn some workers may
    have none. The high end waits for one unit more.
    """
    if not work.n_units:
        return Span(low=0.0, likely=0.0, high=0.0)
    on_gpu = machines.device == "cuda"
    workers = min(machines.workers, work.n_units)
    turns = math.ceil(work.n_units / workers)
    cpu_s = probe.load_cpu_s + (0.0 if on_gpu else work.views * probe.encode_cpu_s)
    load, encode = mean_span(probe.load_s), mean_span(probe.encode_s)
    # The probe was slowed down by what runs here now, but not by the other workers.
    busy = _busy(probe, machines)
    crowded = (machines.cores + busy) / max(machines.cores, machines.threads + busy)
    # On a disk opening, syncing and linking files takes the place of requests.
    asking_s = _unit_at_work(work, probe, machines).total * probe.request_s

    def seconds(load_s: float, encode_s: float) -> float:
        rows, encode_s = work.rows_per_unit, work.views * encode_s
        if machines.in_stages:
            load_s += asking_s / rows
            slowest = max(load_s / machines.cores, encode_s / workers, cpu_s / machines.cores)
            return turns * workers * rows * slowest + rows * load_s
        decode_s = probe.load_cpu_s / machines.threads
        slowest = max(max(load_s, decode_s + encode_s) / workers, cpu_s / machines.cores)
        return turns * (workers * rows * slowest + work.objects_per_batch * load_s + asking_s)

    last_unit_s = work.rows_per_unit * work.views * encode.high
    slower = 1.0 if on_gpu or workers == 1 else SIDE_BY_SIDE
    return Span(
        low=seconds(load.low, encode.low),
        likely=seconds(load.likely, encode.likely) * slower,
        high=(seconds(load.high, encode.high) + last_unit_s) * slower * crowded,
    )


def assemble_seconds(work: Work, probe: Probe, machines: Machines) -> float:
    """From the last commit to the end."""
    at_once = min(machines.cores, max(1, work.n_partitions))
    reading_s = work.n_units * _unit_assembled(0.0).total * probe.request_s
    return RAY_START_S + (bytes_written(work, probe)[1] / ASSEMBLE_BYTES_PER_S + reading_s) / at_once


def bytes_written(work: Work, probe: Probe) -> tuple[int, int]:
    """Bytes that a run writes, and bytes that stay of them: first units, then partitions, then units are deleted."""
    rows = work.n_objects * (1 - probe.reject_fraction) * probe.row_bytes
    units = round(rows + work.n_units * probe.file_bytes)
    partitions = round(rows + work.n_partitions * probe.file_bytes)
    return units + partitions, partitions


def count_requests(work: Work, probe: Probe, machines: Machines, wall_s: float) -> Requests:
    """Requests of a run in which nothing fails; local files need none."""
    requests = work.cutout_requests * work.n_objects
    if not work.output_on_s3:
        return requests
    with_rejects = 1 - (1 - probe.reject_fraction) ** work.rows_per_unit
    n_files = work.n_units * ((4 if machines.in_stages else 3) + with_rejects)
    partition_bytes = bytes_written(work, probe)[1] / max(1, work.n_partitions)
    per_unit = _unit_at_work(work, probe, machines) + _unit_assembled(with_rejects)
    per_partition = _upload(partition_bytes) + Requests(n_get=2)  # Its footer goes into the catalogue's metadata.
    cleaning = Requests(n_list=1, n_put=1) * math.ceil(n_files / KEYS_PER_LISTING)
    renewals = (READ + CREATE) * (wall_s // LEASE_RENEWED_EVERY_S)
    return (
        requests
        + per_unit * work.n_units
        + per_partition * work.n_partitions
        + READ * machines.workers  # Each reads the weights.
        + cleaning
        + renewals
        + ONCE
    )


def memory(work: Work, probe: Probe, machines: Machines) -> tuple[int, int]:
    """Largest memory of a worker and of a task, bytes: what the probe needed, views that wait, vectors of a unit.

    A worker that does whole units has two batches of views; in stages one unit waits for it while it works on another,
    and a task that reads makes one unit of many arrays.
    """
    vectors = COPIES_OF_A_UNIT * work.rows_per_unit * work.dimension * 4
    views = 2 * work.views * work.view_bytes
    if machines.in_stages:
        unit = work.rows_per_unit * views
        return round(probe.worker_bytes + unit + vectors), round(probe.loader_bytes + unit + vectors)
    return round(probe.worker_bytes + work.objects_per_batch * views + vectors), probe.loader_bytes


def cost(
    prices: PriceTable, cpu_hours: Span, gpu_hours: Span, requests: Requests, bytes_read: Span | None, bytes_kept: int
) -> Cost:
    """Turn hours, requests and bytes into money. GET and HEAD have one price, PUT, POST and LIST another."""
    machines = Span(
        low=prices.per_cpu_hour * cpu_hours.low + prices.per_gpu_hour * gpu_hours.low,
        likely=prices.per_cpu_hour * cpu_hours.likely + prices.per_gpu_hour * gpu_hours.likely,
        high=prices.per_cpu_hour * cpu_hours.high + prices.per_gpu_hour * gpu_hours.high,
    )
    requested = (
        prices.per_1000_get * (requests.n_get + requests.n_head)
        + prices.per_1000_put * (requests.n_put + requests.n_list)
    ) / 1000
    egress = prices.per_gb_egress * (bytes_read.likely / GB if bytes_read else 0.0)
    return Cost(
        currency=prices.currency,
        machines=machines,
        requests=requested,
        egress=egress,
        total=machines.plus(requested + egress),
        per_month=prices.per_gb_month * bytes_kept / GB,
    )


def _unit_at_work(work: Work, probe: Probe, machines: Machines) -> Requests:
    """Is the run draining, mark (in stages twice), read the plan, write the rows, commit."""
    marks = CREATE * (2 if machines.in_stages else 1)
    part_bytes = bytes_written(work, probe)[1] / max(1, work.n_units)
    return MISS + marks + READ_ROW_GROUP + _upload(part_bytes) + CREATE


def _unit_assembled(with_rejects: float) -> Requests:
    """Read the commit record and the rows; of units with rejects, write and read these too."""
    return READ * 2 + (_upload(0) + READ) * with_rejects


def _upload(n_bytes: float) -> Requests:
    """One PUT, or begin, pieces, end."""
    return CREATE if n_bytes < UPLOAD_BYTES else CREATE * (2 + math.ceil(n_bytes / UPLOAD_BYTES))


def _busy(probe: Probe, machines: Machines) -> float:
    """Cores that other work takes; of a cluster that is not known."""
    return probe.busy_cores if machines.is_local else 0.0
