"""`make bench-train`: does pretraining on votes help, on simulated and on real galaxies; and what does training cost?

Nothing is tuned towards an outcome: settings are in this file, and what comes out is what is written. Everything made
is kept in build/bench-train, so that a run that was stopped goes on; delete the folder to begin anew. The real galaxies
are looked for in VOORWERP_BENCH_DATA, else in ../shared/data beside the repository.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import yaml
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs.experiment import summarise
from schemas.experiment import Cell
from schemas.model import MODEL, Model
from tests.benchmarks import training_cost
from tests.benchmarks.galaxies import DATA, missing
from tests.benchmarks.process import CommandError, run
from tests.benchmarks.table import Bar, Table, console, finish, machine

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench-train"
FIGURES = ROOT / "docs" / "figures"
VOORWERP = ROOT / ".venv" / "bin" / "voorwerp"
LITE0 = "efficientnet_lite0"

SMALL = {"bands": "rgb", "resize": 64, "crop": 56, "mean": [0.5] * 3, "std": [0.5] * 3}
"""The paper has 300 and 224 pixels; two cores have not the time."""
REAL = {"bands": "rgb", "field": 0.6, "resize": 144, "crop": 128, "mean": [0.5] * 3, "std": [0.5] * 3}
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
GAIN, TIMES_MERGERS = 0.05, 2.0


def main() -> int:
    """Run the benchmark; return the exit code."""
    if complaint := missing(["sdss_gz1", "decals_rings"]):
        print(complaint)
        return 2
    started_on = machine()
    WORK.mkdir(parents=True, exist_ok=True)
    try:
        tables, bars = _simulated()
        more = [_rings(), _classes(), training_cost.measure(WORK)]
    except CommandError as error:
        print(error)
        return 1
    for found in more:
        tables += found[0]
        bars += found[1]
    return finish("train", "make bench-train", started_on, tables, bars)


def pretrained(name: str) -> Path:
    """Train one of the encoders, or find it; return its folder."""
    WORK.mkdir(parents=True, exist_ok=True)
    survey, preset = WORK / "survey", _yaml("preset", SMALL)
    _voorwerp("simulate", survey, "-n", N_SURVEY, "--seed", 11, "--tar")
    given = ["--catalogue", survey / "catalogue.parquet", "--votes", survey / "votes.parquet"]
    given += ["--architecture", LITE0, "--preset", preset, *_set(PRETRAINING)]
    _voorwerp("pretrain", *given, *PRETRAINED[name], "-o", WORK / name)
    return WORK / name


def _simulated() -> tuple[list[Table], list[Bar]]:
    """The paper's ordering, as a hypothesis: all questions > one question > scratch, and ImageNet beside them."""
    for name in PRETRAINED:
        pretrained(name)
    rings, preset = WORK / "rings", _yaml("preset", SMALL)
    shares = "shares={ring: 0.5, disc: 0.5}"
    _voorwerp("simulate", rings, "-n", N_RINGS, "--seed", 12, "--tar", "-s", shares, "-s", "first_id=1000000")
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
    _voorwerp("experiment", _yaml("experiment", job), "-o", WORK / "experiment")
    cells = _cells(WORK / "experiment")
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


def _describe_pretraining() -> str:
    models = {name: Model.model_validate_json((WORK / name / MODEL).read_bytes()) for name in PRETRAINED}
    return " ".join(
        f"{name}: best epoch {model.best_epoch + 1} of {len(model.validation_losses)}, test loss "
        f"{model.metrics['loss']:.2f}, {model.durations_s['total'] / 60:.0f} minutes."
        for name, model in models.items()
    )


def _rings() -> tuple[list[Table], list[Bar]]:
    """Real rings, 170 of them and not, by repeated splits: frozen, fine-tuned and a logistic probe."""
    catalogue = pacsv.read_csv(DATA / "decals_rings" / "catalogue.csv")
    pq.write_table(catalogue.select(["object_id", "ring"]), WORK / "decals-labels.parquet")
    output = WORK / "decals"
    preset = _yaml("real", REAL)
    job = {
        "catalogue": {"path": str(DATA / "decals_rings" / "catalogue.csv")},
        "labels": str(WORK / "decals-labels.parquet"),
        "encoders": {"imagenet": "package:lite0"},
        "architecture": LITE0,
        "preset": str(preset),
        "depths": ["head", DEPTH],
        "counts": [80],
        "repeats": 10,
        **FINETUNING,
        "split": {"validation": 0.15, "test": 0.3},
    }
    _voorwerp("experiment", _yaml("decals", job), "-o", output)
    summary = {row["depth"]: row for row in summarise(_cells(output)).to_pylist()}
    release = WORK / "decals-release"
    _release(DATA / "decals_rings" / "catalogue.csv", release, preset)
    ids, features = _embeddings(release)
    labels = dict(zip(catalogue["object_id"].to_pylist(), catalogue["ring"].to_pylist(), strict=True))
    truth = np.array([labels[object_id] for object_id in ids])
    probe = _probed(features, truth)
    rows = [
        ["logistic probe", *(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" for values in probe)],
        *(
            [
                {"head": "frozen, paper's head", DEPTH: f"fine-tuned from block {DEPTH}"}[depth],
                f"{row['accuracy_mean']:.3f} ± {row['accuracy_sd']:.3f}",
                f"{row['auc_mean']:.3f} ± {row['auc_sd']:.3f}",
            ]
            for depth, row in summary.items()
        ),
    ]
    note = (
        f"170 DECaLS galaxies, {LITE0} with ImageNet weights, central 60 % at {REAL['crop']} px. 10 random splits: 80 "
        "labels train, about 26 decide when to stop, about 51 test. The probe trains on 80 as well."
    )
    return [Table("Rings in DECaLS", ("method", "accuracy", "AUC"), rows, note)], []


def _probed(features: np.ndarray, truth: np.ndarray) -> tuple[list[float], list[float]]:
    """Accuracy and AUC of a logistic regression on embeddings, over random splits of the same sizes."""
    accuracy, auc = [], []
    for repeat in range(10):
        rows = np.random.default_rng(repeat).permutation(len(truth))
        training, test = rows[:80], rows[-51:]
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
        probe.fit(features[training], truth[training])
        found = probe.predict_proba(features[test])[:, 1]
        accuracy.append(float(((found > 0.5) == truth[test]).mean()))
        auc.append(float(roc_auc_score(truth[test], found)))
    return accuracy, auc


def _classes() -> tuple[list[Table], list[Bar]]:
    """Five classes of SDSS galaxies: fine-tuned against a logistic probe on the frozen embeddings, one split."""
    folder, preset = DATA / "sdss_gz1", _yaml("real", REAL)
    catalogue = pacsv.read_csv(folder / "catalogue.csv")
    merged = pc.replace_substring_regex(catalogue["gz1_class"], "^spiral_(anti)?clockwise$", "spiral")
    pq.write_table(pa.table({"object_id": catalogue["object_id"], "gz1_class": merged}), WORK / "sdss-labels.parquet")
    release, output = WORK / "sdss-release", WORK / "sdss"
    _release(folder / "catalogue.csv", release, preset)
    settings = {
        "split.test": 0.3,
        "split.same_arcsec": 1.0,
        "head": "linear",
        "depth": DEPTH,
        "deep_learning_rate": 1e-4,
        "most_epochs": 15,
        "batch": 64,
        "balance": "false",
    }
    _voorwerp("finetune", release, WORK / "sdss-labels.parquet", *_set(settings), "-o", output)
    model = Model.model_validate_json((output / MODEL).read_bytes())
    splits = pq.read_table(output / "splits.parquet")
    ids, features = _embeddings(release)
    place = {object_id: row for row, object_id in enumerate(ids)}
    rows = np.array([place[object_id] for object_id in splits["object_id"].to_pylist()])
    truth, test = splits["label"].to_numpy(), np.array(splits["part"].to_pylist()) == "test"
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000))
    probe.fit(features[rows[~test]], truth[~test])
    found = probe.predict_proba(features[rows[test]])
    accuracy = float((found.argmax(axis=1) == truth[test]).mean())
    precision = {
        name: float(average_precision_score(truth[test] == number, found[:, number]))
        for number, name in enumerate(model.names)
    }
    counts = {name: int((truth[test] == number).sum()) for number, name in enumerate(model.names)}
    table = Table(
        f"Five classes in SDSS, {int((~test).sum()):,} labels to train and validate, {int(test.sum()):,} to test",
        ("method", "accuracy", *(f"AP {name} ({counts[name]})" for name in model.names)),
        [
            ["logistic probe", f"{accuracy:.3f}", *(f"{precision[name]:.3f}" for name in model.names)],
            [
                f"fine-tuned from block {DEPTH}",
                f"{model.metrics['accuracy']:.3f}",
                *(f"{model.metrics[f'average_precision {name}']:.3f}" for name in model.names),
            ],
        ],
        f"{LITE0} with ImageNet weights, central 60 % at {REAL['crop']} px. The probe trains on validation too.",
    )
    gain = model.metrics["accuracy"] - accuracy
    mergers = model.metrics["average_precision merger"] / precision["merger"]
    return [table], [
        Bar("SDSS: accuracy, fine-tuned - probe", gain, ">=", GAIN),
        Bar("SDSS: average precision of mergers, fine-tuned / probe", mergers, ">=", TIMES_MERGERS),
    ]


def _release(catalogue: Path, output: Path, preset: Path) -> None:
    given = ["--catalogue", catalogue, "--architecture", LITE0, "--weights", "package:lite0", "--preset", preset]
    _voorwerp("release", *given, "-o", output)


def _embeddings(release: Path) -> tuple[list[Any], np.ndarray]:
    (folder,) = (release / "embeddings").iterdir()
    table = read_columns(Store(str(folder)), ["object_id", "embedding"])
    return table["object_id"].to_pylist(), as_matrix(table["embedding"])


def _cells(folder: Path) -> list[Cell]:
    cells = [Cell.model_validate_json(path.read_bytes()) for path in (folder / "cells").iterdir()]
    return sorted(cells, key=lambda cell: (cell.encoder, cell.depth, cell.count, cell.repeat))


def _yaml(name: str, content: dict[str, Any]) -> Path:
    path = WORK / f"{name}.yaml"
    path.write_text(as_yaml(content))
    return path


def as_yaml(content: dict[str, Any]) -> str:
    """Write a config."""
    return yaml.safe_dump(content)


def _set(settings: dict[str, Any]) -> list[str]:
    return [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]


def _voorwerp(command: str, *arguments: Any) -> None:
    shown = " ".join(map(str, arguments))
    console.print(f"voorwerp {command} {shown[:110]}")
    run([VOORWERP, command, *map(str, arguments)], timeout_s=4 * 3600)


if __name__ == "__main__":
    sys.exit(main())
