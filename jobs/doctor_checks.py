"""The checks of `voorwerp doctor`: each looks at one thing, changes nothing, and says what it found.

Libraries are imported where they are used: a doctor has to live where some of them are broken.
"""

import os
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from time import perf_counter, time
from typing import Literal, NamedTuple
from uuid import uuid4

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from schemas.config import RayConfig, ReleaseJob
from schemas.errors import VoorwerpError

Status = Literal["ok", "warning", "failure"]
GIB = 2**30
LEAST_MEMORY_BYTES, LEAST_MEMORY_PER_CORE_BYTES = 4 * GIB, GIB
"""PyTorch alone takes about 0.7 GiB in each worker, and there is one for each core."""
SHARED_MEMORY = Path("/dev/shm")  # nosec B108: looked at, not written.
LEAST_SHARED_FRACTION = 0.3
"""Of the memory: what Ray wants for its objects."""
LEAST_FREE_BYTES = 10 * GIB
FULL_FOR_RAY = 0.95
"""From here on Ray writes no more objects to a disk (its local_fs_capacity_threshold)."""
FIRST_GPU = Path("/dev/nvidia0")
SKEW_WARNING_S, SKEW_FAILURE_S = 5.0, 300.0
"""Ages of leases are judged by the store's clock; S3 refuses requests that are 15 minutes off."""


class Finding(NamedTuple):
    """What a check found."""

    status: Status
    found: str
    advice: str = ""
    """What to do, where something is wrong."""


def python() -> Finding:
    """Compare Python with what this version of voorwerp needs."""
    found, needed = ".".join(map(str, sys.version_info[:3])), metadata("voorwerp")["Requires-Python"]
    if found not in SpecifierSet(needed):
        return Finding("failure", f"{found}, expected {needed}", "Install voorwerp with another Python.")
    return Finding("ok", found)


def libraries() -> Finding:
    """Compare installed libraries with the versions that are needed; a wrong one of an extra is a warning."""
    wrong: list[str] = []
    doubtful: list[str] = []
    n_right = 0
    for line in requires("voorwerp") or []:
        needed = Requirement(line)
        is_optional = needed.marker is not None and "extra" in str(needed.marker)
        if needed.name == "voorwerp" or (needed.marker and not is_optional and not needed.marker.evaluate()):
            continue
        try:
            found = version(needed.name)
        except PackageNotFoundError:
            if not is_optional:
                wrong.append(f"{needed.name} is missing, expected {needed.specifier}")
            continue
        if needed.specifier.contains(found, prereleases=True):
            n_right += 1
        else:
            (doubtful if is_optional else wrong).append(f"{needed.name} {found}, expected {needed.specifier}")
    if wrong or doubtful:
        told = "; ".join(sorted({*wrong, *doubtful}))
        return Finding("failure" if wrong else "warning", told, "pip install -c constraints.txt voorwerp")
    return Finding("ok", f"voorwerp {version('voorwerp')}, and {n_right} libraries in versions that it works with")


def encoding() -> Finding:
    """Find out what encodes here: GPUs, OpenVINO or PyTorch on CPUs."""
    import torch

    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count()))
        ones = torch.ones((64, 64), device="cuda")
        if not torch.equal(ones @ ones, torch.full_like(ones, 64.0)):
            return Finding("failure", f"{names}: multiplies wrongly", "Do not use this GPU.")
        found = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {names}"
        if not any(map(shutil.which, ("cc", "gcc", "clang"))):
            return Finding("warning", f"{found}; no C compiler", "Install one: torch.compile makes the encoder faster.")
        return Finding("ok", found)
    if FIRST_GPU.exists():
        found = f"PyTorch {torch.__version__} cannot use the GPU that is here"
        return Finding("failure", found, "Install a driver as new as its CUDA, or PyTorch for another CUDA.")
    try:
        import openvino
    except ImportError:
        advice = "pip install 'voorwerp[cpu]': OpenVINO encodes about twice as fast on Intel and AMD CPUs."
        return Finding("warning", f"PyTorch {torch.__version__} on CPUs, no GPU", advice)
    if "CPU" not in openvino.Core().available_devices:
        return Finding("warning", "OpenVINO finds no CPU that it can use", "PyTorch encodes instead, more slowly.")
    return Finding("ok", f"OpenVINO {version('openvino')} on CPUs, no GPU")


def memory() -> Finding:
    """Compare memory, of the machine or the container, with what workers need."""
    from engine.cluster.machine import cpus_of_machine, memory_of_machine

    whole, cores = memory_of_machine(), cpus_of_machine()
    found = f"{_gib(whole)} for {cores} core{'s' if cores > 1 else ''}"
    if whole < LEAST_MEMORY_BYTES:
        return Finding("failure", found, f"Expected at least {_gib(LEAST_MEMORY_BYTES)}: use a larger machine.")
    if whole < LEAST_MEMORY_PER_CORE_BYTES * cores:
        return Finding("warning", found, "Take fewer workers than cores: embed.workers.")
    return Finding("ok", found)


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Compare shared memory with what Ray wants for its objects."""
    from engine.cluster.machine import memory_of_machine

    if not folder.exists():
        return Finding("ok", f"no {folder} on this system: Ray uses a folder for temporary files")
    size, wanted = shutil.disk_usage(folder).total, LEAST_SHARED_FRACTION * memory_of_machine()
    if size < wanted:
        advice = "Ray keeps objects on disk then: docker run --shm-size, or an emptyDir of medium Memory at /dev/shm."
        return Finding("warning", f"{_gib(size)}, Ray wants {_gib(wanted)}", advice)
    return Finding("ok", _gib(size))


def disk(output: str | None) -> Finding:
    """Look for room at the output, where that is a folder, and where temporary files are."""
    found, status = [], "ok"
    folders = {"temporary files": Path(tempfile.gettempdir())}
    if output and "://" not in output:
        folders["output"] = _nearest(Path(output).expanduser().absolute())
    for name, folder in folders.items():
        usage = shutil.disk_usage(folder)
        found.append(f"{name}: {_gib(usage.free)} free in {folder}")
        if usage.used / usage.total > FULL_FOR_RAY:
            status = "failure"
        elif usage.free < LEAST_FREE_BYTES and status == "ok":
            status = "warning"
    advice = (
        "" if status == "ok" else "Free some, or choose other folders (RAY_TMPDIR, TMPDIR): a full disk stops a run."
    )
    return Finding(status, "; ".join(found), advice)  # type: ignore[arg-type]


def ray(config: RayConfig) -> Finding:
    """Start Ray, or reach the cluster, and ask every node for its versions."""
    from engine.cluster.health import ask_nodes

    started = perf_counter()
    health = ask_nodes(config)
    found = f"{health.resources.logical_cpus} CPUs and {health.resources.gpus} GPUs, {len(health.nodes)} node"
    found += f"{'s' if len(health.nodes) > 1 else ''}, in {perf_counter() - started:.0f} s"
    if differ := [f"{node.address} has {node.differences}" for node in health.nodes if node.differences]:
        return Finding("failure", f"{found}; {'; '.join(differ)}", "Use one image, or one environment, on all nodes.")
    return Finding("ok", found)


def store(output: str) -> Finding:
    """Write, read, list and delete a small file at the output, and see that two writers cannot both create it."""
    from engine.storage.store import Store

    folder = f".doctor-{uuid4().hex}"
    at = Store(output)
    if at.is_local:
        at = Store(str(_nearest(Path(at.full_path()))))
    probe = f"{folder}/probe"
    try:
        at.check_conditional()
        created, again = at.create(probe, b"first"), at.create(probe, b"second")
        data, its_version = at.read_versioned(probe)
        replaced, too_late = at.replace(probe, b"third", its_version), at.replace(probe, b"fourth", its_version)
        is_listed = probe in at.list(folder)
    finally:
        at.delete_folder(folder)
    if (created, again, data, replaced, too_late, is_listed) != (True, False, b"first", True, False, True):
        found = f"{at.uri()}: two writers can both write a file, or a listing is late"
        return Finding("failure", found, "Use another store: AWS, MinIO and Ceph keep writers apart, local disks do.")
    return Finding("ok", f"{at.uri()}: writes, reads, lists, deletes, and keeps two writers apart")


def clock(output: str) -> Finding:
    """Compare this machine's clock with the store's."""
    from engine.storage.store import Store

    at = Store(output)
    if at.is_local:
        at = Store(str(_nearest(Path(at.full_path()))))
    before = time()
    theirs, after = at.now(), time()
    skew_s = max(theirs - after, before - theirs, 0.0)
    if skew_s < SKEW_WARNING_S:
        return Finding("ok", f"agrees with that of {at.uri()}")
    status: Status = "warning" if skew_s < SKEW_FAILURE_S else "failure"
    return Finding(status, f"{skew_s:,.0f} s off that of {at.uri()}", "Set this machine's clock, by NTP for example.")


def lease(output: str) -> Finding:
    """See whether a run works at the output now."""
    from engine.storage.artefacts import decode
    from engine.storage.store import Store
    from schemas import paths
    from schemas.manifest import Lease

    at = Store(output)
    if not at.exists(paths.LEASE):
        return Finding("ok", "no run works there now")
    held = decode(Lease, at.read(paths.LEASE), at.uri(paths.LEASE))
    found = f"`{held.command}` on {held.host.partition(' ')[0]}, process {held.pid}, since {held.since_utc}"
    return Finding("warning", found, "Another run waits for it, or takes over once it has died.")


def job(config: ReleaseJob) -> Finding:
    """Check what a job names: preset, architecture, catalogue."""
    from engine.storage.store import Store
    from jobs import encoder

    preset = encoder.preset_of(config.encoder, config.embed)
    architecture = encoder.architecture_of(config.encoder)
    if not Store(config.catalogue.path).exists(""):
        return Finding("failure", f"no catalogue at {config.catalogue.path}", "Correct catalogue.path.")
    return Finding("ok", f"{config.catalogue.path}, {architecture}, {preset.n_bands} bands")


def weights(config: ReleaseJob) -> Finding:
    """See whether the encoder's weights are to be had."""
    from engine.storage.weights import check_hub, check_source

    check_source(config.encoder.weights)
    check_hub(config.encoder.weights)
    return Finding("ok", config.encoder.weights)


def database(url: str | None) -> Finding:
    """See whether the database of campaigns and tokens can be reached; one that is not there yet is not made."""
    from engine.storage.campaign_tables import look_at
    from jobs.campaign import DATABASE, DATABASE_VARIABLE

    url = url or os.environ.get(DATABASE_VARIABLE) or DATABASE
    if "://" not in url and not Path(url).exists():
        return Finding("ok", f"none yet: {url} is made with the first campaign or token")
    seen = look_at(url)
    if not seen.is_current:
        return Finding("warning", f"{seen.where}: tables of another version", "Its next use brings them up to date.")
    return Finding("ok", f"{seen.where}: can be read")


def failed(error: Exception) -> Finding:
    """Say what kept a check from its end."""
    if isinstance(error, VoorwerpError):
        return Finding("failure", str(error), "")
    if isinstance(error, ImportError):
        return Finding("failure", f"{error}", "pip install -c constraints.txt voorwerp")
    return Finding("failure", f"{type(error).__name__}: {error}", "")


def _nearest(folder: Path) -> Path:
    """Return a folder, or of those that lead to it the last one that is there."""
    return next(one for one in (folder, *folder.parents) if one.is_dir())


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / GIB:,.1f} GiB"
