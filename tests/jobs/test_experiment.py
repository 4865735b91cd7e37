"""An experiment: every cell once, resumable, the same again; tables and figures of what was measured."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import yaml

from jobs import experiment
from jobs.experiment import figures, summarise
from schemas.errors import ConfigError, DataError, InputNotFoundError, OutputError
from schemas.experiment import Cell, ExperimentJob
from tests.conftest import TINY_ARCHITECTURE

PRESET = {"bands": "grey", "resize": 40, "crop": 32, "mean": [0.4], "std": [0.3]}


def make(survey: Path, weights: Path, folder: Path, **settings: object) -> ExperimentJob:
    (folder / "preset.yaml").write_text(yaml.safe_dump(PRESET))
    magnitudes = pacsv.read_csv(survey)
    kinds = np.where(np.arange(len(magnitudes)) % 2 == 0, "ring", "none")
    pq.write_table(pa.table({"object_id": magnitudes["object_id"], "kind": kinds}), folder / "labels.parquet")
    given = {
        "catalogue": {"path": str(survey)},
        "labels": str(folder / "labels.parquet"),
        "positive": "ring",
        "output": str(folder / "experiment"),
        "encoders": {"given": str(weights), "scratch": None},
        "architecture": TINY_ARCHITECTURE,
        "preset": str(folder / "preset.yaml"),
        "depths": ["head", "5", "all"],
        "counts": [8, 20],
        "repeats": 2,
        "split": {"validation": 0.2, "test": 0.3},
        "most_images": 60,
        **settings,
    }
    return ExperimentJob.model_validate(given)


@pytest.mark.cluster
def test_every_cell_is_done_once_and_goes_on(
    survey: Path, tiny_weights: Path, tmp_path: Path, ray_session: None
) -> None:
    asked = make(survey, tiny_weights, tmp_path)
    cells = experiment.run(asked)
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * (3 + 2)
    assert {cell.depth for cell in cells if cell.encoder == "scratch"} == {"head", "all"}
    folder = tmp_path / "experiment"
    times = {path: path.stat().st_mtime_ns for path in (folder / "cells").iterdir()}
    assert len(times) == len(cells)
    lost = next(path for path in times if path.name.startswith("given-5-20"))
    before = lost.read_bytes()
    lost.unlink()
    again = experiment.run(asked)
    assert [cell.metrics for cell in again] == [cell.metrics for cell in cells]
    assert [path for path in times if path.stat().st_mtime_ns != times[path]] == [lost]
    assert Cell.model_validate_json(lost.read_bytes()).metrics == Cell.model_validate_json(before).metrics
    results = pacsv.read_csv(folder / "results.csv")
    assert len(results) == len(cells)
    assert {"frozen.png", "finetuned.png", "depths.png", "summary.csv"} <= {path.name for path in folder.iterdir()}
    with pytest.raises(OutputError, match="holds an experiment with other seed"):
        experiment.run(asked.model_copy(update={"seed": 1}))
    with pytest.raises(OutputError, match="made with other weights; give the encoder another name than 'given'"):
        experiment.run(asked.model_copy(update={"encoders": {"given": None}, "depths": ("head",)}))


def test_a_summary_has_means_and_deviations() -> None:
    cells = [
        Cell(
            encoder="a",
            weights=None,
            depth="head",
            count=20,
            repeat=repeat,
            n_test=10,
            metrics={"accuracy": value},
            best_epoch=0,
            epochs=1,
            seconds=1.0,
        )
        for repeat, value in enumerate((0.5, 0.7, 0.9))
    ]
    (row,) = summarise(cells).to_pylist()
    assert (row["encoder"], row["labels"], row["repeats"]) == ("a", 20, 3)
    assert row["accuracy_mean"] == pytest.approx(0.7)
    assert row["accuracy_sd"] == pytest.approx(0.2)
    made = figures(summarise(cells), ["a"], ["head"])
    assert set(made) == {"frozen.png", "depths.png"}
    assert all(data.startswith(b"\x89PNG") for data in made.values())


def test_what_cannot_be_compared_is_refused(survey: Path, tiny_weights: Path, tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, **changes: object) -> None:
        with pytest.raises(error, match=message):
            experiment.run(make(survey, tiny_weights, tmp_path, **changes))

    refused(ConfigError, "depth: expected one of head, top, 5, .* found '9'", depths=["9"])
    refused(InputNotFoundError, "expected a weights file, found nothing", encoders={"a": str(tmp_path / "no.pt")})
    refused(InputNotFoundError, "labels: expected a table", labels=str(tmp_path / "no.csv"))
    refused(DataError, "positive: expected one of none, ring, found 'bar'", positive="bar")
    pq.write_table(pa.table({"object_id": [1, 2], "kind": ["a", "b"]}), tmp_path / "other.parquet")
    refused(DataError, "found none among 2", labels=str(tmp_path / "other.parquet"))
