"""Job: preflight. A plan and a measured sample become a prediction of what embedding will take, or a refusal."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Literal

from rich.table import Table

from engine.cluster import probe
from engine.cluster.machine import memory_of_machine
from engine.cluster.session import cluster_address, connect, is_local
from engine.cluster.task import EmbedTask
from engine.compute.estimate import (
    READ_ROW_GROUP,
    Machines,
    Prediction,
    Probe,
    Span,
    Work,
    draw,
    machine_misfits,
    predict,
    reject_misfits,
)
from engine.storage.artefacts import encode
from engine.storage.store import Store
from jobs.embed import JUDGED_FROM, choose_machines, make_task, read_units
from jobs.encoder import preset_of
from jobs.report import note, output, warn
from schemas.config import ReleaseJob, load_job
from schemas.errors import ConfigError, PreflightError
from schemas.manifest import Manifest, Record
from schemas.partition import Unit
from schemas.price import PriceTable

SEED = 0
WORTH_A_WARNING = 0.2
"""Load of this machine, per core, that is worth a warning."""


class Options(Record):
    """What the command line asks for."""

    sample: int
    prices: Path | None
    report: Path | None
    most_hours: float | None
    most_cost: float | None


class Preflight(Record):
    """The report of a preflight, as JSON."""

    format: Literal[1] = 1
    plan: str
    encoder: str
    work: Work
    probe: Probe
    machines: Machines
    prediction: Prediction
    free_disk_bytes: int | None
    """None where the output is on S3."""
    memory_bytes: int | None
    """None where a cluster does the work."""
    refused: list[str]


def read_prices(options: Options) -> PriceTable | None:
    """Read the price table, if there is one.

    Raises
    ------
    InputNotFoundError, ConfigError
        There is no such file, or it is no price table; or a most cost is given without prices.
    """
    if options.most_cost is not None and options.prices is None:
        raise ConfigError("--most-cost: expected --prices with it, found none")
    return load_job(PriceTable, options.prices, {}) if options.prices else None


def run(
    plan: Manifest, network: Manifest, job: ReleaseJob, store: Store, options: Options, prices: PriceTable | None
) -> Preflight | None:
    """Measure a sample, predict what embedding the plan takes, show it, and refuse what cannot fit.

    Returns
    -------
    Preflight or None
        None where the plan has no objects.

    Raises
    ------
    PreflightError
        Something cannot fit; the message lists what.
    ConfigError
        More workers are wanted than there can be, or a device or runtime that is not there.
    StoreError
        A store failed, or the cluster cannot be reached.
    """
    units = read_units(plan, store)
    if not units:
        note("preflight", "no objects to embed")
        return None
    address = cluster_address(job.ray)
    here = probe.this_machine(job.ray)
    # A cluster is asked only where its answer matters; until then one worker reads here.
    config = job.embed if is_local(address) else job.embed.model_copy(update={"device": "cpu", "workers": 1})
    machines = choose_machines(config, here).for_units(len(units))
    busy_cores = os.getloadavg()[0]
    sample = probe.read_sample(store, plan.id, units, draw([unit.n_rows for unit in units], options.sample, SEED))
    began = perf_counter()
    task = _task(plan, network, job, store, machines)
    work = _work(plan, units, task, job.embed.max_reject_fraction, sample, store)
    threads = machines.threads if is_local(address) else None
    decoders, n_views = machines.decoders, work.views_at_once(machines.in_stages)
    loading, encoding = probe.measure_here(sample.objects, task, decoders, threads, n_views)
    note("preflight", f"{len(sample.objects):,} cutouts read and decoded here in {perf_counter() - began:,.1f} s")
    refused = reject_misfits(work, len(sample.objects), loading.rejected)
    if encoding is None:
        _refuse(refused)  # The cluster need not be asked.
        machines = choose_machines(job.embed, connect(job.ray)).for_units(len(units))
        task, n_views = _task(plan, network, job, store, machines), work.views_at_once(machines.in_stages)
        encoding = probe.measure_on_cluster(sample.objects, task, machines.threads, n_views)
        warn(f"cutouts were read by this machine, which may be nearer to them or further away than {address} is")
    elif busy_cores > WORTH_A_WARNING * machines.cores:
        warn(
            f"other work keeps about {busy_cores:.1f} of {machines.cores} cores busy; the high end of all times "
            "reckons with it, the likely value does not"
        )
    found = _found(sample, loading, encoding, busy_cores)
    prediction = predict(work, found, machines, prices)
    free_bytes = shutil.disk_usage(store.full_path()).free if store.is_local else None
    memory_bytes = memory_of_machine() if machines.is_local else None
    refused += machine_misfits(prediction, free_bytes, memory_bytes, options.most_hours, options.most_cost)
    preflight = Preflight(
        plan=plan.id,
        encoder=network.id,
        work=work,
        probe=found,
        machines=machines,
        prediction=prediction,
        free_disk_bytes=free_bytes,
        memory_bytes=memory_bytes,
        refused=refused,
    )
    if options.report:
        Store(str(options.report)).write("", encode(preflight))
    output.print(_table(preflight))
    _refuse(refused)
    return preflight


def _refuse(found: list[str]) -> None:
    if found:
        raise PreflightError("this release does not fit:\n" + "\n".join(f"  {line}" for line in found))


def _task(plan: Manifest, network: Manifest, job: ReleaseJob, store: Store, machines: Machines) -> EmbedTask:
    preset = preset_of(job.encoder, job.embed)
    return make_task(plan, network, preset, job.cutouts, job.embed, store, "preflight", "preflight", machines)


def _found(sample: probe.Sample, loading: probe.Loading, encoding: probe.Encoding, busy_cores: float) -> Probe:
    driver = probe.memory_of_process()
    return Probe(
        n_objects=len(sample.objects),
        rejected=loading.rejected,
        cutout_bytes=loading.cutout_bytes,
        load_s=loading.seconds,
        load_cpu_s=loading.cpu_s,
        runtime=encoding.runtime,
        encode_s=encoding.seconds,
        encode_cpu_s=encoding.cpu_s,
        row_bytes=encoding.row_bytes,
        file_bytes=encoding.file_bytes,
        start_cpu_s=loading.start_cpu_s + encoding.start_cpu_s,
        request_s=sample.read_s / READ_ROW_GROUP.total,
        worker_bytes=encoding.memory.peak - encoding.memory.shared,
        loader_bytes=loading.memory.peak - loading.memory.shared,
        shared_bytes=encoding.memory.shared,
        driver_bytes=driver.peak - driver.shared,
        busy_cores=busy_cores,
    )


def _work(
    plan: Manifest, units: list[Unit], task: EmbedTask, max_reject_fraction: float, sample: probe.Sample, store: Store
) -> Work:
    return Work(
        n_objects=sum(unit.n_rows for unit in units),
        n_units=len(units),
        n_partitions=plan.counts["partitions"],
        dimension=task.dimension,
        views=task.views,
        view_bytes=task.preset.n_bands * task.preset.crop**2 * 4,
        batch_size=task.objects_at_once * task.views,
        max_reject_fraction=max_reject_fraction,
        rejects_judged_from=JUDGED_FROM,
        cutout_requests=sample.cutout_requests,
        output_on_s3=not store.is_local,
    )


def _table(found: Preflight) -> Table:
    """Show a prediction: what, the likely value, and what belongs to it."""
    work, probed, machines, prediction = found.work, found.probe, found.machines, found.prediction
    table = Table(title=f"embedding {work.n_objects:,} objects", title_justify="left", box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    where = "this machine" if machines.is_local else "the cluster"
    table.add_row(
        "machines",
        f"{machines.workers:,} worker{'s' if machines.workers > 1 else ''}",
        f"on {'GPUs' if machines.gpus else 'CPUs'}, with {probed.runtime}; {machines.cores:,} cores of {where}",
    )
    table.add_row("units", f"{work.n_units:,}", f"of about {work.rows_per_unit:,.0f} objects")
    table.add_row("wall time", _time(prediction.wall_s.likely), _range(prediction.wall_s, _time))
    table.add_row("  start", _time(prediction.start_s), "")
    speed = f"{prediction.cutouts_per_s:,.3g} cutouts/s; {_range(prediction.work_s, _time)}"
    table.add_row("  at work", _time(prediction.work_s.likely), speed)
    table.add_row("  assembling", _time(prediction.assemble_s), "")
    busy = f"of all cores, start to end; at work {_hours(prediction.cpu_hours_busy)} are needed"
    table.add_row("CPU hours", _hours(prediction.cpu_hours.likely), busy)
    if machines.gpus:
        busy = f"of all GPUs, start to end; at work {_hours(prediction.gpu_hours_busy)} are needed"
        table.add_row("GPU hours", _hours(prediction.gpu_hours.likely), busy)
    rejects = prediction.rejects
    seen = f"{_range(rejects, _count)}, by {probed.n_rejected:,} of {probed.n_objects:,} in the sample"
    table.add_row("rejects", _count(rejects.likely), seen + _reasons(probed.rejected))
    if prediction.bytes_read:
        table.add_row("bytes read", _size(prediction.bytes_read.likely), _range(prediction.bytes_read, _size))
    else:
        table.add_row("bytes read", "unknown", "no cutout of the sample can be read")
    free = f"; {_size(found.free_disk_bytes)} are free" if found.free_disk_bytes is not None else ""
    table.add_row("bytes written", _size(prediction.bytes_written), f"{_size(prediction.bytes_kept)} stay{free}")
    requests = prediction.requests
    kinds = ", ".join(f"{_count(n)} {name}" for name, n in zip(_KINDS, requests.model_dump().values(), strict=True))
    table.add_row("requests", _count(requests.total), kinds if requests.total else "all files are local")
    has = f"; this machine has {_size(found.memory_bytes)}" if found.memory_bytes is not None else ""
    parts = f"{_size(prediction.worker_bytes)} per worker, {_size(prediction.driver_bytes)} for the driver{has}"
    table.add_row("memory", _size(prediction.total_bytes), parts)
    if cost := prediction.cost:
        money = f"{_range(cost.total, _money)}; of it requests {_money(cost.requests)}, egress {_money(cost.egress)}; "
        table.add_row(
            "cost", f"{_money(cost.total.likely)} {cost.currency}", f"{money}then {_money(cost.per_month)} per month"
        )
    return table


_KINDS = ("GET", "HEAD", "PUT", "LIST")


def _reasons(rejected: dict[str, int]) -> str:
    listed = ", ".join(f"{count:,} {reason}" for reason, count in sorted(rejected.items()))
    return f" ({listed})" if listed else ""


def _range(span: Span, shown: Callable[[float], str]) -> str:
    return f"{shown(span.low)} to {shown(span.high)}"


def _count(n: float) -> str:
    return f"{n:,.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.3g}" if hours < 1000 else f"{hours:,.0f}"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.2g}"


def _time(seconds: float) -> str:
    for name, length in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:,.0f} s"


def _size(n_bytes: float) -> str:
    for name, length in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= length:
            return f"{n_bytes / length:,.3g} {name}"
    return f"{n_bytes:,.0f} bytes"
