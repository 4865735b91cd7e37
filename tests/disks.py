"""Disks of any size, for tests of what happens when one is full."""

import gc
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def disk(folder: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a disk of this size at a new folder; the test is skipped where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting a small disk was refused: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        gc.collect()  # Under Python 3.12 the exception of a failed write may hold open files till then.
        subprocess.run(["umount", folder], check=True)
