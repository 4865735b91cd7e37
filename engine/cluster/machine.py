"""What there is of this machine, or of the container that this process runs in."""

import os
from pathlib import Path


def cpus_of_machine() -> int:
    """CPUs that this process may use: no more than its affinity and its container allow."""
    from dask.system import cpu_count  # Takes a moment to load.

    return cpu_count()


def memory_of_machine() -> int:
    """Memory of this machine, or of the container that this process runs in, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    found = limit.read_text().strip() if limit.exists() else "max"
    return min(physical, int(found)) if found.isdigit() else physical
