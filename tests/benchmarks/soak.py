"""`make soak`: a whole release of a million tiny cutouts, by one command, with the memory of its driver watched.

The encoder is small, so that what is measured is the engine around it: an hour at most on two cores. Writes
results/soak.md when it is run with a million or more.
"""

import argparse
import shutil
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import timm
import torch
import yaml
from safetensors.torch import save_file

from engine.storage.artefacts import current_manifest, current_release
from engine.storage.store import Store
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.process import run
from tests.benchmarks.scale import DRIVER_BYTES_PER_CUTOUT, PRESET, sampled, write_catalogue
from tests.benchmarks.table import Bar, Table, console, finish, machine
from tests.conftest import TINY_ARCHITECTURE

WORK = Path(__file__).parents[2] / "build" / "soak"
RECORDED_FROM = 1_000_000
SAMPLE_EVERY_S = 2.0
STAGES = ("plan", "encoder", "embed", "assemble", "fit", "project", "index")
"""Of `durations_s` in a release record; what is left of the time goes to imports, starts and publishing."""
DRIVER_BYTES = 3 << 30


def measure(n: int, work: Path) -> tuple[list[Table], list[Bar]]:
    """Release n cutouts below a folder that is made anew, verify the release, and say where time and memory went."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / "tiny.yaml").write_text(yaml.safe_dump(PRESET))
    torch.manual_seed(7)
    save_file(timm.create_model(TINY_ARCHITECTURE, in_chans=1).state_dict(), work / "tiny.safetensors")
    console.print(f"soak: writing {n:,} tiny cutouts")
    write_catalogue(work / "catalogue", n)
    output = work / "out"
    command = [VOORWERP, "release", "--catalogue", work / "catalogue", "--output", output]
    command += ["--architecture", TINY_ARCHITECTURE, "--weights", work / "tiny.safetensors"]
    console.print("soak: release")
    store, started = Store(str(output)), perf_counter()
    samples = sampled([*command, "--preset", work / "tiny.yaml"], store, SAMPLE_EVERY_S)
    wall_s = perf_counter() - started
    console.print("soak: verify")
    verified = run([VOORWERP, "verify", output])
    release, plan = current_release(store), current_manifest(store, "plan")
    taken = {stage: release.durations_s[stage] for stage in STAGES if stage in release.durations_s}
    taken["imports, starts, publishing"] = wall_s - sum(taken.values())
    n_units = plan.counts["units"]
    times = Table(
        f"A release of {n:,} cutouts, {n_units:,} units",
        ("stage", "seconds", "share", "cutouts/s"),
        [_line(name, seconds, wall_s, n) for name, seconds in taken.items()]
        + [_line("whole release", wall_s, wall_s, n), _line("verify", verified.wall_s, wall_s, n)],
        "One run. Verifying reads every file, recomputes hashes and digests of ids; its share is that of a release.",
    )
    slope = _slope(samples, n_units) / (n / n_units)
    peak, at_first_commit = samples[:, 1].max(), samples[samples[:, 0] > 0, 1][:1].sum()
    size = sum(entry.size_bytes for entry in store.entries())
    memory = Table(
        "Memory of the driver, and what is on disk",
        ("what", "measured"),
        [
            ["resident at the first commit", f"{at_first_commit / 2**20:,.0f} MiB"],
            ["largest", f"{peak / 2**20:,.0f} MiB"],
            ["growth while embedding", f"{slope:,.1f} bytes per cutout"],
            ["the release, all files", f"{size / n:,.0f} bytes per cutout"],
        ],
        f"Sampled every {SAMPLE_EVERY_S:g} s; growth from a fifth of the commits to their end, by least squares.",
    )
    bars = [
        Bar("planned and not embedded", release.counts["planned"] - release.counts["embedded"], "<=", 0),
        Bar("driver bytes per cutout while embedding", slope, "<=", DRIVER_BYTES_PER_CUTOUT),
        Bar("driver bytes at most", float(peak), "<=", DRIVER_BYTES),
    ]
    return [times, memory], bars


def _line(name: str, seconds: float, wall_s: float, n: int) -> list[str]:
    return [name, f"{seconds:,.1f}", f"{seconds / wall_s:.1%}", f"{n / seconds:,.0f}"]


def _slope(samples: np.ndarray, n_units: int) -> float:
    """Bytes per commit; NaN where there were too few samples to tell."""
    n_done, rss_bytes = samples.T
    working = (n_done >= n_units / 5) & (n_done < n_units)
    return float(np.polyfit(n_done[working], rss_bytes[working], 1)[0]) if working.sum() > 2 else float("nan")


def main() -> int:
    """Measure; write the results of a large run, print those of a small one."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cutouts", type=int, default=RECORDED_FROM)
    n = options.parse_args().cutouts
    started_on = machine()
    tables, bars = measure(n, WORK)
    shutil.rmtree(WORK, ignore_errors=True)
    if n >= RECORDED_FROM:
        return finish("soak", "make soak", started_on, tables, bars)
    for table in tables:
        table.show()
    print(*(bar.line() for bar in bars), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
