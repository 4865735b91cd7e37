"""Simulated galaxies: what pretraining on votes is worth, as in the paper. Part of `make bench-train`."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from jobs.experiment import summarise
from schemas.experiment import Cell
from schemas.model import MODEL, Model
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.process import run
from tests.benchmarks.table import Bar, Table, console

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench-train"
FIGURES = ROOT / "docs" / "figures"
LITE0 = "efficientnet_lite0"

SMALL = {"bands": "rgb", "resize": 64, "crop": 56, "mean": [0.5] * 3, "std": [0.5] * 3}
"""The paper has 300 and 224 pixels; two cores have not the time."""
N_SURVEY, N_RINGS = 8_000, 1_600
SINGLE = "smooth-or-featured"
PRETRAINING = {
    "weights": "package:lite0",
    "training.batch": 128,
    "training.most_epochs": 25,
    "training.patience": 25,
    "training.rate": "cosine",
}
"""The paper starts from random weights, with 300,000 galaxies, at a constant rate; with 8,000 that is too little."""
PRETRAINED = {"all": [], "single": ["-s", f"questions=[{SINGLE}]"]}
ENCODERS = {name: str(WORK / name) for name in PRETRAINED} | {"imagenet": "package:lite0", "scratch": None}
COUNTS, REPEATS = (20, 50, 100, 200, 500), 5
FINETUNING = {
    "most_images": 20_000,
    "batch": 32,
    "deep_learning_rate": 1e-4,
    "split": {"validation": 0.15, "test": 0.4},
}
"""The paper lets 5e6 images pass, at 1e-5: 3 hours a training on two cores."""
DEPTH = "5"


def pretrained(name: str) -> Path:
    """Train one of the encoders, or find it; return its folder."""
    WORK.mkdir(parents=True, exist_ok=True)
    survey, preset = WORK / "survey", config_file("preset", SMALL)
    voorwerp("simulate", survey, "-n", N_SURVEY, "--seed", 11, "--tar")
    given = ["--catalogue", survey / "catalogue.parquet", "--votes", survey / "votes.parquet"]
    given += ["--architecture", LITE0, "--preset", preset, *options_of(PRETRAINING)]
    voorwerp("pretrain", *given, *PRETRAINED[name], "-o", WORK / name)
    return WORK / name


def measure() -> tuple[list[Table], list[Bar]]:
    """The paper's ordering, as a hypothesis: all questions > one question > scratch, and ImageNet beside them."""
    for name in PRETRAINED:
        pretrained(name)
    rings, preset = simulated_rings(), config_file("preset", SMALL)
    truth = pq.read_table(rings / "truth.parquet", columns=["object_id", "kind"])
    pq.write_table(truth, WORK / "ring-labels.parquet")
    job = {
        "catalogue": {"path": str(rings / "catalogue.parquet")},
        "labels": str(WORK / "ring-labels.parquet"),
        "positive": "ring",
        "encoders": ENCODERS,
        "architecture": LITE0,
        "preset": str(preset),
        "depths": ["head", DEPTH],
        "counts": list(COUNTS),
        "repeats": REPEATS,
        **FINETUNING,
    }
    voorwerp("experiment", config_file("experiment", job), "-o", WORK / "experiment")
    cells = cells_of(WORK / "experiment")
    FIGURES.mkdir(exist_ok=True)
    for name in ("frozen", "finetuned"):
        shutil.copy(WORK / "experiment" / f"{name}.png", FIGURES / f"experiment-{name}.png")
    rows = {(row["encoder"], row["depth"], row["labels"]): row for row in summarise(cells).to_pylist()}

    def mean(encoder: str, depth: str, count: int) -> float:
        return float(rows[encoder, depth, count]["accuracy_mean"])

    def shown(encoder: str, depth: str, count: int) -> str:
        row = rows[encoder, depth, count]
        return f"{row['accuracy_mean']:.3f} ± {row['accuracy_sd']:.3f}"

    lines = dict.fromkeys((cell.encoder, cell.depth) for cell in cells)
    table = Table(
        f"Rings in a simulated survey: accuracy on the test part, mean and deviation of {REPEATS} repeats",
        ("encoder", "depth", *(f"{count} labels" for count in COUNTS)),
        [[encoder, depth, *(shown(encoder, depth, count) for count in COUNTS)] for encoder, depth in lines],
        f"{LITE0}, {SMALL['crop']} px. all: pretrained on every question of {N_SURVEY:,} other galaxies; single: on "
        f"{SINGLE} alone; both from ImageNet weights; imagenet: those weights as they "
        f"are. head: frozen encoder; {DEPTH}: blocks from {DEPTH} on learn as well; all: scratch, where all of it "
        "learns. No question of the tree is about rings. Half are rings, half "
        f"other discs. {_describe_pretraining()}",
    )
    deepest = {encoder: "all" if encoder == "scratch" else DEPTH for encoder, _ in lines}
    bars = []
    for count in COUNTS:
        best = {
            encoder: max(mean(encoder, depth, count) for name, depth in lines if name == encoder) for encoder in deepest
        }
        for better, worse in (("all", "single"), ("single", "scratch")):
            difference = best[better] - best[worse]
            bars.append(Bar(f"simulated, {count} labels: accuracy, {better} - {worse}", difference, ">=", 0))
    for rival in ("imagenet", "scratch"):
        difference = mean("all", "head", 50) - mean(rival, deepest[rival], 50)
        bars.append(Bar(f"simulated, 50 labels: frozen all - fine-tuned {rival}", difference, ">=", 0))
    return [table], bars


def simulated_rings() -> Path:
    """Simulate galaxies of which half are rings, or find them; return their folder."""
    rings = WORK / "rings"
    shares = "shares={ring: 0.5, disc: 0.5}"
    voorwerp("simulate", rings, "-n", N_RINGS, "--seed", 12, "--tar", "-s", shares, "-s", "first_id=1000000")
    return rings


def _describe_pretraining() -> str:
    models = {name: Model.model_validate_json((WORK / name / MODEL).read_bytes()) for name in PRETRAINED}
    return " ".join(
        f"{name}: best epoch {model.best_epoch + 1} of {len(model.validation_losses)}, test loss "
        f"{model.metrics['loss']:.2f}, {model.durations_s['total'] / 60:.0f} minutes."
        for name, model in models.items()
    )


def cells_of(folder: Path) -> list[Cell]:
    cells = [Cell.model_validate_json(path.read_bytes()) for path in (folder / "cells").iterdir()]
    return sorted(cells, key=lambda cell: (cell.encoder, cell.depth, cell.count, cell.repeat))


def config_file(name: str, content: dict[str, Any]) -> Path:
    path = WORK / f"{name}.yaml"
    path.write_text(as_yaml(content))
    return path


def as_yaml(content: dict[str, Any]) -> str:
    """Write a config."""
    return yaml.safe_dump(content)


def options_of(settings: dict[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]


def voorwerp(command: str, *arguments: Any) -> None:
    shown = " ".join(map(str, arguments))
    console.print(f"voorwerp {command} {shown[:110]}")
    run([VOORWERP, command, *map(str, arguments)], timeout_s=4 * 3600)
