"""`make bench-embed`: embedding against the machine's limit and against zoobot, with vectors compared.

The galaxies are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository. zoobot gets an
environment of its own in build/bench-zoobot, made once.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import mkdtemp
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from engine.storage.artefacts import claimed, read_manifest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from schemas import paths
from tests.benchmarks import scale
from tests.benchmarks.bare import PRESET
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.galaxies import Galaxies, missing, read_galaxies
from tests.benchmarks.process import CommandError, run
from tests.benchmarks.table import Bar, Table, console, finish, machine

ROOT = Path(__file__).parents[2]
ZOOBOT = ROOT / "build" / "bench-zoobot"
ZOOBOT_VERSION = "2.9.0"
N_RIVAL = 600
"""Cutouts that zoobot gets: at its rate, half a minute."""
COPIES = 3
"""Of every cutout in the catalogue that is embedded, so that a run lasts long enough to be measured."""
ROUNDS = 2
CORES = 2
BARE_S = 6.0
PRECISIONS = ("float32", "bfloat16")

PIPELINE_OVER_LIMIT = 0.90
TIMES_ZOOBOT = {"float32": 5.0, "bfloat16": 7.0}
LARGEST_DIFFERENCE = {"float32": 1e-4, "bfloat16": 0.05}


class Embedded(NamedTuple):
    """What `voorwerp embed` did with a set."""

    at_work_per_s: float
    """From the beginning of the first unit to the end of the last."""
    whole_per_s: float
    """Of the whole command: start of Python and Ray, planning, encoder, assembling."""
    vectors: np.ndarray
    """Of the first copy, in the order of the set."""


def main() -> int:
    """Run the benchmark; return the exit code."""
    if complaint := missing(["sdss_gz1"]):
        print(complaint)
        return 2
    os.environ.pop("RAY_ADDRESS", None)
    started_on = machine()
    work = Path(mkdtemp(prefix="voorwerp-bench-"))
    try:
        return _measure(read_galaxies("sdss_gz1", "gz1_class", {}), work, started_on)
    except CommandError as error:
        print(error)
        return 1
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _measure(galaxies: Galaxies, work: Path, started_on: list[str]) -> int:
    _install_zoobot()
    weights = _write_inputs(galaxies, work)
    limits: dict[tuple[str, str], list[float]] = {}
    embedded: dict[str, list[Embedded]] = {precision: [] for precision in PRECISIONS}
    rival: list[float] = []
    for number in range(ROUNDS):
        console.print(f"round {number + 1} of {ROUNDS}: zoobot, bare stages, voorwerp embed")
        rival.append(_zoobot(work, weights))
        for stage in (("torch", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"), ("decode", "float32")):
            limits.setdefault(stage, []).append(_bare(stage, work, weights))
        for precision in PRECISIONS:
            embedded[precision].append(_embed(galaxies, work / f"{precision}-{number}", precision, weights, work))
    theirs = np.load(work / "zoobot.npy")
    encoding, decoding = median(limits["openvino", "float32"]), median(limits["decode", "float32"])
    ceiling = decoding / (decoding + encoding)
    rows, bars = [], []
    zoobot_per_s = median(rival)
    rows.append([f"zoobot {ZOOBOT_VERSION} predict, {N_RIVAL:,} cutouts", f"{zoobot_per_s:.1f}", "1.0", ""])
    for (stage, precision), rates in limits.items():
        rows.append([f"bare {stage}, {precision}", f"{median(rates):.1f}", f"{median(rates) / zoobot_per_s:.1f}", ""])
    for precision in PRECISIONS:
        at_work = median(run.at_work_per_s for run in embedded[precision])
        encoders = [median(rates) for (stage, of), rates in limits.items() if stage != "decode" and of == precision]
        limit = min(max(encoders), decoding)
        vectors = embedded[precision][-1].vectors[: len(theirs)]
        difference = float((np.abs(vectors - theirs) / np.abs(theirs).max(axis=1, keepdims=True)).max())
        whole = median(run.whole_per_s for run in embedded[precision])
        rows.append([f"voorwerp embed, {precision}, at work", f"{at_work:.1f}", f"{at_work / zoobot_per_s:.1f}", ""])
        rows[-1][-1] = f"{at_work / limit:.2f}"
        rows.append([f"voorwerp plan + embed, {precision}, whole", f"{whole:.1f}", f"{whole / zoobot_per_s:.1f}", ""])
        if precision == "float32":
            bars.append(Bar("float32: pipeline / limit", at_work / limit, ">=", PIPELINE_OVER_LIMIT))
        bars += [
            Bar(f"{precision}: voorwerp / zoobot", at_work / zoobot_per_s, ">=", TIMES_ZOOBOT[precision]),
            Bar(f"{precision}: largest difference from zoobot", difference, "<=", LARGEST_DIFFERENCE[precision]),
        ]
    table = Table(
        f"EfficientNet-B0, {COPIES} x {len(galaxies.ids):,} real JPEG cutouts of 320 px to 224 px grey, {CORES} cores",
        ("what", "cutouts/s", "times zoobot", "of the limit"),
        rows,
        f"Medians of {ROUNDS} rounds. The limit is the fastest bare encoder of "
        "that precision on two processes of one thread, or bare decoding where that is slower. Decoding and encoding "
        f"share the cores here: {ceiling:.2f} of the float32 limit is what they would reach without any engine around.",
    )
    grown, scale_bars = scale.measure(work, _tiny_weights(work))
    return finish("embed", "make bench-embed", started_on, [table, grown], [*bars, *scale_bars])


def _install_zoobot() -> None:
    if (ZOOBOT / ".installed").exists():
        return
    console.print("installing zoobot in an environment of its own (some minutes, once)")
    run([sys.executable, "-m", "venv", ZOOBOT])
    pins = ZOOBOT / "constraints.txt"
    names = ("torch==", "torchvision==", "timm==", "numpy==")
    pinned = (ROOT / "constraints.txt").read_text().splitlines()
    pins.write_text("\n".join(line for line in pinned if line.startswith(names)))
    packages = [f"zoobot=={ZOOBOT_VERSION}", "lightning", "torch", "torchvision", "timm"]
    run([ZOOBOT / "bin" / "pip", "install", "-q", "-c", pins, *packages])
    (ZOOBOT / ".installed").touch()


def _write_inputs(galaxies: Galaxies, work: Path) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = work / "b0.safetensors"
    save_file(timm.create_model("efficientnet_b0", in_chans=1).state_dict(), weights)
    _write_catalogue(galaxies, work / "catalogue.parquet")
    (work / "files.txt").write_text("\n".join(str(path) for path in galaxies.files[:N_RIVAL]))
    (work / "preset.yaml").write_text(yaml.safe_dump(PRESET))
    return weights


def _tiny_weights(work: Path) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model("test_efficientnet", in_chans=1).state_dict(), work / "tiny.safetensors")
    return work / "tiny.safetensors"


def _write_catalogue(galaxies: Galaxies, path: Path) -> None:
    n = COPIES * len(galaxies.ids)
    generator = np.random.default_rng(0)
    columns = {
        "object_id": np.arange(n),
        "ra_deg": generator.uniform(0, 360, n),
        "dec_deg": np.degrees(np.arcsin(generator.uniform(-1, 1, n))),
        "cutout": [str(path) for path in galaxies.files] * COPIES,
    }
    pq.write_table(pa.table(columns), path)


def _zoobot(work: Path, weights: Path) -> float:
    script = Path(__file__).with_name("rival_zoobot.py")
    command = [ZOOBOT / "bin" / "python", script, weights, work / "files.txt", work / "zoobot.npy"]
    environment = os.environ | {"OMP_NUM_THREADS": str(CORES)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise CommandError(f"zoobot failed: {done.stderr[-2000:]}")
    return N_RIVAL / float(done.stdout.split("seconds ")[1])


def _bare(stage: tuple[str, str], work: Path, weights: Path) -> float:
    """Sum of the rates of as many processes as there are cores, all at work at once."""
    command = [sys.executable, "-m", "tests.benchmarks.bare", *stage, weights, work / "files.txt", str(BARE_S)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(CORES)
    ]
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise CommandError(f"bare {stage} failed")
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0].split("rate ")[1]) for process in processes)


def _embed(galaxies: Galaxies, output: Path, precision: str, weights: Path, work: Path) -> Embedded:
    options = ["--catalogue", work / "catalogue.parquet", "--output", output, "--preset", work / "preset.yaml"]
    options += ["--architecture", "efficientnet_b0", "--weights", weights, "-s", f"embed.precision={precision}"]
    options += ["-s", "embed.device=cpu", "-s", f"embed.workers={CORES}"]
    whole_s = sum(run([VOORWERP, stage, *options]).wall_s for stage in ("plan", "embed"))
    store = Store(str(output))
    manifest = read_manifest(store, "embeddings", claimed(store, "embeddings"))
    table = read_columns(store.below(paths.artefact("embeddings", manifest.id)), ["object_id", "embedding"])
    table = table.filter(pc.less(table["object_id"], len(galaxies.ids)))
    vectors = np.full((len(galaxies.ids), manifest.detail["dimension"]), np.nan, np.float32)
    vectors[table["object_id"].to_numpy()] = as_matrix(table["embedding"])
    n = manifest.counts["embedded"]
    return Embedded(n / manifest.durations_s["at_work"], n / whole_s, vectors)


if __name__ == "__main__":
    sys.exit(main())
