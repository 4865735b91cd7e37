"""What there is of this machine, or of the container that this process runs in."""

import os
from math import ceil
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def cpus_of_machine() -> int:
    """CPUs that this process may use: no more than its affinity and its container allow."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _CGROUP / "cpu.max"
    quota, period = limit.read_text().split() if limit.exists() else ("max", "1")
    return min(usable, ceil(int(quota) / int(period))) if quota.isdigit() else usable


def memory_of_machine() -> int:
    """Memory of this machine, or of the container that this process runs in, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _CGROUP / "memory.max"
    found = limit.read_text().strip() if limit.exists() else "max"
    return min(physical, int(found)) if found.isdigit() else physical
