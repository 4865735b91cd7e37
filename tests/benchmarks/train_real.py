"""Real galaxies, a few labels: fine-tuned encoders against probes of frozen embeddings. Part of `make bench-train`."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs.experiment import summarise
from schemas.model import MODEL, Model
from tests.benchmarks.galaxies import DATA
from tests.benchmarks.table import Bar, Table
from tests.benchmarks.train_simulated import DEPTH, FINETUNING, LITE0, WORK, cells_of, config_file, options_of, voorwerp

REAL = {"bands": "rgb", "field": 0.6, "resize": 144, "crop": 128, "mean": [0.5] * 3, "std": [0.5] * 3}
WHOLE = {"bands": "rgb", "field": 0.7, "resize": 224, "crop": 192, "mean": [0.5] * 3, "std": [0.5] * 3}
"""Of SDSS cutouts, whose pixels stay as they are."""
TRIED: tuple[dict[str, Any], ...] = (
    {"depth": "5", "deep_learning_rate": 1e-4},
    {"depth": "3", "deep_learning_rate": 3e-4, "layer_decay": 0.7},
)
"""Of fine-tunings on SDSS; the one of the least validation loss counts."""
PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 1.0)
"""Of the probe on SDSS, scikit-learn's C; the one of the least validation loss counts here as well."""
GAIN, TIMES_MERGERS = 0.05, 2.0


def measure() -> tuple[list[Table], list[Bar]]:
    """Rings in DECaLS, classes in SDSS."""
    tables, bars = _rings()
    more_tables, more_bars = _classes()
    return [*tables, *more_tables], [*bars, *more_bars]


def _rings() -> tuple[list[Table], list[Bar]]:
    """Real rings, 170 of them and not, by repeated splits: frozen, fine-tuned and a logistic probe."""
    catalogue = pacsv.read_csv(DATA / "decals_rings" / "catalogue.csv")
    pq.write_table(catalogue.select(["object_id", "ring"]), WORK / "decals-labels.parquet")
    output = WORK / "decals"
    preset = config_file("real", REAL)
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
    voorwerp("experiment", config_file("decals", job), "-o", output)
    summary = {row["depth"]: row for row in summarise(cells_of(output)).to_pylist()}
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
    folder, preset = DATA / "sdss_gz1", config_file("whole", WHOLE)
    catalogue = pacsv.read_csv(folder / "catalogue.csv")
    merged = pc.replace_substring_regex(catalogue["gz1_class"], "^spiral_(anti)?clockwise$", "spiral")
    pq.write_table(pa.table({"object_id": catalogue["object_id"], "gz1_class": merged}), WORK / "sdss-labels.parquet")
    release = WORK / "sdss-release"
    _release(folder / "catalogue.csv", release, preset)
    models = [_finetuned(release, WORK / f"sdss-{number}", settings) for number, settings in enumerate(TRIED)]
    chosen = min(models, key=lambda model: min(model.validation_losses))
    splits = pq.read_table(WORK / "sdss-0" / "splits.parquet")
    ids, features = _embeddings(release)
    place = {object_id: row for row, object_id in enumerate(ids)}
    rows = np.array([place[object_id] for object_id in splits["object_id"].to_pylist()])
    truth, part = splits["label"].to_numpy(), np.array(splits["part"].to_pylist())
    test = part == "test"
    penalty, loss, found = _best_probe(features[rows], truth, part)
    accuracy = float((found.argmax(axis=1) == truth[test]).mean())
    precision = {
        name: float(average_precision_score(truth[test] == number, found[:, number]))
        for number, name in enumerate(chosen.names)
    }
    counts = {name: int((truth[test] == number).sum()) for number, name in enumerate(chosen.names)}
    table = Table(
        f"Five classes in SDSS, {int((~test).sum()):,} labels to train and validate, {int(test.sum()):,} to test",
        ("method", "validation loss", "accuracy", *(f"AP {name} ({counts[name]})" for name in chosen.names)),
        [
            [
                f"logistic probe, C = {penalty:g}",
                f"{loss:.3f}",
                f"{accuracy:.3f}",
                *(f"{precision[name]:.3f}" for name in chosen.names),
            ],
            *(_line(settings, model) for settings, model in zip(TRIED, models, strict=True)),
        ],
        f"{LITE0} with ImageNet weights, central {WHOLE['field']:.0%} at {WHOLE['crop']} px. Of the fine-tunings, and "
        f"of {len(PENALTIES)} penalties of the probe, that of the least validation loss counts; the probe then trains "
        "on validation too.",
    )
    gain = chosen.metrics["accuracy"] - accuracy
    mergers = chosen.metrics["average_precision merger"] / precision["merger"]
    return [table], [
        Bar("SDSS: accuracy, fine-tuned - probe", gain, ">=", GAIN),
        Bar("SDSS: average precision of mergers, fine-tuned / probe", mergers, ">=", TIMES_MERGERS),
    ]


def _best_probe(features: np.ndarray, truth: np.ndarray, part: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Choose the penalty of a logistic probe by validation; return it, that loss, and probabilities of the test."""

    def fitted(penalty: float, rows: np.ndarray) -> Any:
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, max_iter=3000))
        return probe.fit(features[rows], truth[rows])

    training, validation, test = (part == name for name in ("train", "validation", "test"))
    losses = {
        penalty: log_loss(truth[validation], fitted(penalty, training).predict_proba(features[validation]))
        for penalty in PENALTIES
    }
    best = min(losses, key=losses.__getitem__)
    return best, losses[best], fitted(best, ~test).predict_proba(features[test])


def _finetuned(release: Path, output: Path, settings: dict[str, Any]) -> Model:
    """Fine-tune on the labels of SDSS galaxies, all with the same split."""
    given = {
        "split.test": 0.3,
        "split.same_arcsec": 1.0,
        "head": "linear",
        "most_epochs": 15,
        "batch": 64,
        "balance": "false",
        **settings,
    }
    voorwerp("finetune", release, WORK / "sdss-labels.parquet", *options_of(given), "-o", output)
    return Model.model_validate_json((output / MODEL).read_bytes())


def _line(settings: dict[str, Any], model: Model) -> list[str]:
    shown = f"fine-tuned from block {settings['depth']}, rate {settings['deep_learning_rate']:g}"
    scores = [model.metrics["accuracy"], *(model.metrics[f"average_precision {name}"] for name in model.names)]
    return [shown, f"{min(model.validation_losses):.3f}", *(f"{score:.3f}" for score in scores)]


def _release(catalogue: Path, output: Path, preset: Path) -> None:
    given = ["--catalogue", catalogue, "--architecture", LITE0, "--weights", "package:lite0", "--preset", preset]
    voorwerp("release", *given, "-o", output)


def _embeddings(release: Path) -> tuple[list[Any], np.ndarray]:
    (folder,) = (release / "embeddings").iterdir()
    table = read_columns(Store(str(folder)), ["object_id", "embedding"])
    return table["object_id"].to_pylist(), as_matrix(table["embedding"])
