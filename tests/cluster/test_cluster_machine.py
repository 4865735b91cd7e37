"""What may be used of this machine is what its container allows."""

import os
from pathlib import Path

import pytest

from engine.cluster import machine


@pytest.mark.parametrize(
    ("limit", "cpus"), [("50000 100000", 1), ("150000 100000", 2), ("300000 100000", 3), ("max 100000", 4)]
)
def test_cpus_are_those_of_the_container(
    limit: str, cpus: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    assert machine.cpus_of_machine() == 4
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert machine.cpus_of_machine() == cpus


def test_memory_is_that_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    whole = machine.memory_of_machine()
    (tmp_path / "memory.max").write_text("1048576\n")
    assert machine.memory_of_machine() == 1048576 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.memory_of_machine() == whole
