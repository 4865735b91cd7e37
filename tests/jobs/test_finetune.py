"""Labels to a model and scores of the whole catalogue: counted, reproducible, refused where they cannot be used."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from engine.cluster.finetune import HeadTask, answers, open_head
from engine.storage.arrays import write_arrays
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs import finetune, predict
from jobs.labels import interpret
from schemas.errors import ConfigError, DataError, OutputError
from schemas.model import MODEL, SPLITS, FinetuneJob, PredictJob
from tests.jobs.test_release import folder_of


def labelled(finished: Path, folder: Path) -> Path:
    """Labels that a head can learn: the side of the first principal axis."""
    table = read_columns(folder_of(finished, "components"), ["object_id", "components"])
    first = as_matrix(table["components"])[:, 0]
    names = np.where(first > np.median(first), "bright", "faint")
    pq.write_table(pa.table({"object_id": table["object_id"], "kind": names}), folder / "labels.parquet")
    return folder / "labels.parquet"


def job(finished: Path, labels: Path, output: Path, **settings: object) -> FinetuneJob:
    given = {"head": "linear", "most_epochs": 60, "learning_rate": 0.02, **settings}
    given["split"] = {"validation": 0.2, "test": 0.3}
    return FinetuneJob.model_validate({"release": str(finished), "labels": str(labels), "output": str(output), **given})


@pytest.mark.cluster
def test_a_model_scores_every_object_and_says_how_well(finished: Path, tmp_path: Path) -> None:
    labels = labelled(finished, tmp_path)
    asked = job(finished, labels, tmp_path / "model", positive="bright")
    model = finetune.run(asked)
    counts = model.counts
    assert counts["train"] + counts["validation"] + counts["test"] + counts["unknown"] == counts["labels"] == 90
    assert counts["scored"] == 90
    assert model.metrics["accuracy"] > 0.7
    folder = Store(str(tmp_path / "model"))
    for record in model.files:
        folder.read_verified(record)
    assert {"roc.png", "confusion.png", "history.png", "thresholds.csv"} <= set(folder.list())
    found = read_columns(folder.below("scores"), ["object_id", "score_bright"])
    splits = pq.read_table(tmp_path / "model" / SPLITS)
    scored = dict(zip(found["object_id"].to_pylist(), found["score_bright"].to_pylist(), strict=True))
    for row in splits.to_pylist():
        assert scored[row["object_id"]] == pytest.approx(row["score_bright"], abs=1e-6)
    ranked = pacsv.read_csv(tmp_path / "model" / "ranked.csv").to_pylist()
    assert [row["object_id"] for row in ranked] == sorted(scored, key=lambda one: (-scored[one], one))
    before = (tmp_path / "model" / MODEL).stat().st_mtime_ns
    assert finetune.run(asked) == model
    assert (tmp_path / "model" / MODEL).stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="holds a model made of other seed"):
        finetune.run(asked.model_copy(update={"seed": 1}))
    again = finetune.run(job(finished, labels, tmp_path / "again", positive="bright"))
    assert again.validation_losses == model.validation_losses


@pytest.mark.cluster
def test_deeper_stages_go_on_from_the_head_and_embed_anew(finished: Path, tmp_path: Path) -> None:
    labels = labelled(finished, tmp_path)
    shallow = finetune.run(job(finished, labels, tmp_path / "head", most_epochs=3))
    settings = {"depth": "4", "most_epochs": 3, "deep_learning_rate": 1e-3}
    model = finetune.run(job(finished, labels, tmp_path / "model", **settings))
    assert len(model.validation_losses) == 3
    first, deep = (load_file(tmp_path / name / "encoder.safetensors") for name in ("head", "model"))
    changed = {name for name in first if not np.array_equal(first[name], deep[name])}
    assert changed
    assert not [name for name in changed if "bn" in name]
    assert all(name.startswith(("conv_head", "blocks.3", "blocks.4")) for name in changed)
    assert not set(model.encoders) & set(shallow.encoders)
    with pytest.raises(ConfigError, match=r"was embedded by .*embed with it first"):
        predict.run(PredictJob(model=str(tmp_path / "model"), release=str(finished)))


@pytest.mark.cluster
def test_votes_for_the_answers_to_one_question_are_labels_too(finished: Path, tmp_path: Path) -> None:
    ids = read_columns(folder_of(finished, "components"), ["object_id"])["object_id"]
    votes = np.random.default_rng(0).integers(0, 9, (len(ids), 3))
    votes[0] = 0
    names = ["arms_one", "arms_two", "arms_more"]
    table = pa.table({"object_id": ids, **{name: votes[:, at] for at, name in enumerate(names)}})
    pq.write_table(table, tmp_path / "votes.parquet")
    model = finetune.run(job(finished, tmp_path / "votes.parquet", tmp_path / "model", count_columns=names))
    assert (model.kind, model.names, model.counts["labels"]) == ("counts", names, 89)
    assert 0 < model.metrics["mean_absolute_error"] < 0.4
    scores = read_columns(Store(str(tmp_path / "model" / "scores")), [f"score_{name}" for name in names]).to_pandas()
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    pq.write_table(table.set_column(1, "arms_one", pa.array(np.full(90, -1))), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="no count in 'arms_one' in 90 rows"):
        finetune.run(job(finished, tmp_path / "bad.parquet", tmp_path / "none", count_columns=names))


@pytest.mark.cluster
def test_labels_that_cannot_train_are_refused(finished: Path, tmp_path: Path) -> None:
    def refused(columns: dict, message: str, **settings: object) -> None:
        pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
        with pytest.raises(DataError, match=message):
            finetune.run(job(finished, tmp_path / "bad.parquet", tmp_path / "none", **settings))

    refused({"object_id": [5, 6], "kind": ["a", "b"]}, "expected labels of objects of .*, found none among 2")
    refused({"object_id": list(range(1000, 1020)), "kind": ["a"] * 20}, "at least two different labels, found only a")
    refused(
        {"object_id": [1000, 1001, 1002], "kind": ["a", "b", "a"]},
        "expected at least 2 objects to validation with, found",
    )
    refused({"object_id": list(range(1000, 1020)), "kind": ["a", "b"] * 10}, "expected one of a, b", positive="c")


@pytest.mark.parametrize(
    ("values", "kind", "names"),
    [
        (["no", "yes", "no"], "binary", ("yes",)),
        ([True, False, True], "binary", ("True",)),
        ([0, 1, 1], "binary", ("1",)),
        (["a", "b", "c"], "classes", ("a", "b", "c")),
        ([0, 3, 7], "classes", ("0", "3", "7")),
        ([0.5, 1.5, 2.25], "regression", ("label",)),
        (list(range(50)), "regression", ("label",)),
    ],
)
def test_what_labels_are_is_told_from_their_values(values: list, kind: str, names: tuple[str, ...]) -> None:
    labels = interpret(pa.chunked_array([values]), "auto", None)
    assert (labels.kind, labels.names) == (kind, names)
    assert len(labels.targets) == len(values)


def test_a_head_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    from engine.compute.head import make_head, outputs_of

    task = HeadTask(str(tmp_path), "classes", "paper", 6, ("a", "b", "c"), 0.0, 1.0)
    head = make_head("paper", 6, 3, 4).eval()
    write_arrays(Store(str(tmp_path)), "head.safetensors", {name: v.numpy() for name, v in head.state_dict().items()})
    features = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    np.testing.assert_array_equal(outputs_of(open_head(task), features), outputs_of(head, features))
    columns = answers(open_head(task), features, task)
    assert list(columns) == ["score_a", "score_b", "score_c"]
    np.testing.assert_allclose(sum(columns.values()), 1, rtol=1e-6)
