"""`make bench-embed`: embedding against the machine's limit and against zoobot, with vectors compared.

The galaxies are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository. zoobot gets an
environment of its own in build/bench-zoobot, made once.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, median
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
from tests.benchmarks.shares import shares
from tests.benchmarks.table import Bar, Table, console, finish, machine

ROOT = Path(__file__).parents[2]
ZOOBOT = ROOT / "build" / "bench-zoobot"
ZOOBOT_VERSION = "2.9.0"
N_RIVAL = 600
"""Cutouts that zoobot gets: at its rate, half a minute."""
COPIES = 4
"""Of every cutout in the catalogue that is embedded, so that a run lasts long enough to be measured."""
ROUNDS = 5
SLOW_ROUNDS = 2
"""Of what is far slower than the rest."""
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
    share: float
    """Of the cores, that the workers got: the rest went to Ray's processes and the system's."""


class _Pair(NamedTuple):
    """Embedding, and the bare encoder around it."""

    bare_per_s: float
    embedded: Embedded


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
    install_zoobot()
    weights = _write_inputs(galaxies, work)
    slow: dict[str, list[float]] = {"zoobot": [], "torch": []}
    decode: list[float] = []
    pairs: dict[str, list[_Pair]] = {precision: [] for precision in PRECISIONS}
    for number in range(ROUNDS):
        console.print(f"round {number + 1} of {ROUNDS}: zoobot, bare stages, voorwerp embed")
        if number < SLOW_ROUNDS:
            slow["zoobot"].append(_zoobot(work, weights))
            slow["torch"].append(_bare(("torch", "float32"), work, weights))
        decode.append(_bare(("decode", "float32"), work, weights))
        for precision in PRECISIONS:
            before = _bare(("openvino", precision), work, weights)
            embedded = _embed(galaxies, work / f"{precision}-{number}", precision, weights, work)
            after = _bare(("openvino", precision), work, weights)
            pairs[precision].append(_Pair((before + after) / 2, embedded))
    theirs = np.load(work / "zoobot.npy")
    decoding, zoobot_per_s = median(decode), median(slow["zoobot"])
    encoding = median(pair.bare_per_s for pair in pairs["float32"])
    share = median(pair.embedded.share for pair in pairs["float32"])
    rows, bars = [], []

    def row(name: str, per_s: float, of_limit: str = "") -> None:
        rows.append([name, f"{per_s:.1f}", f"{per_s / zoobot_per_s:.1f}", of_limit])

    row(f"zoobot {ZOOBOT_VERSION} predict, {N_RIVAL:,} cutouts", zoobot_per_s)
    row("bare torch, float32", median(slow["torch"]))
    row("bare decode", decoding)
    for precision in PRECISIONS:
        found = pairs[precision]
        at_work = median(pair.embedded.at_work_per_s for pair in found)
        ratios = [pair.embedded.at_work_per_s / min(pair.bare_per_s, decoding) for pair in found]
        vectors = found[-1].embedded.vectors[: len(theirs)]
        difference = float((np.abs(vectors - theirs) / np.abs(theirs).max(axis=1, keepdims=True)).max())
        row(f"bare openvino, {precision}", median(pair.bare_per_s for pair in found))
        listed = ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))
        row(f"voorwerp embed, {precision}, at work", at_work, f"{median(ratios):.2f} ({listed})")
        whole = median(pair.embedded.whole_per_s for pair in found)
        row(f"voorwerp plan + embed, {precision}, whole", whole)
        if precision == "float32":
            bars.append(Bar("float32: pipeline / limit", median(ratios), ">=", PIPELINE_OVER_LIMIT))
        bars += [
            Bar(f"{precision}: voorwerp / zoobot", at_work / zoobot_per_s, ">=", TIMES_ZOOBOT[precision]),
            Bar(f"{precision}: largest difference from zoobot", difference, "<=", LARGEST_DIFFERENCE[precision]),
        ]
    table = Table(
        f"EfficientNet-B0, {COPIES} x {len(galaxies.ids):,} real JPEG cutouts of 320 px to 224 px grey, {CORES} cores",
        ("what", "cutouts/s", "times zoobot", "of the limit"),
        rows,
        f"Medians of {ROUNDS} rounds; of zoobot and torch {SLOW_ROUNDS}. The limit of a round is the bare encoder of "
        "that precision on two processes of one thread, the mean of right before and right after embedding, or bare "
        "decoding where that is slower. Decoding and encoding share the cores here: what they would reach without any "
        f"engine around is {decoding / (decoding + encoding):.2f} of the float32 limit. The workers got "
        f"{share:.3f} of the cores, Ray's processes and the system the rest: no engine on Ray can pass "
        f"{share * decoding / (decoding + encoding):.2f} here.",
    )
    grown, scale_bars = scale.measure(work, _tiny_weights(work))
    return finish("embed", "make bench-embed", started_on, [table, grown], [*bars, *scale_bars])


def install_zoobot() -> None:
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
    with shares("EmbedUnit", CORES) as found:
        whole_s = sum(run([VOORWERP, stage, *options], memory=False).wall_s for stage in ("plan", "embed"))
    store = Store(str(output))
    manifest = read_manifest(store, "embeddings", claimed(store, "embeddings"))
    table = read_columns(store.below(paths.artefact("embeddings", manifest.id)), ["object_id", "embedding"])
    table = table.filter(pc.less(table["object_id"], len(galaxies.ids)))
    vectors = np.full((len(galaxies.ids), manifest.detail["dimension"]), np.nan, np.float32)
    vectors[table["object_id"].to_numpy()] = as_matrix(table["embedding"])
    n = manifest.counts["embedded"]
    return Embedded(n / manifest.durations_s["at_work"], n / whole_s, vectors, mean(found))


if __name__ == "__main__":
    sys.exit(main())
