import numpy as np
import pytest
import torch
from sklearn import metrics

from engine.compute.labels import Labels, evaluate, loss_of, scores


def test_binary_scores_are_probabilities_and_are_measured_as_sklearn_does() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=(60, 1)).astype(np.float32)
    targets = (random.random((60, 1)) < 0.4).astype(np.float32)
    scored = scores(outputs, "binary")
    np.testing.assert_allclose(scored, 1 / (1 + np.exp(-outputs)), rtol=1e-6)
    found = evaluate(Labels("binary", ("ring",), targets), scored)
    assert found["auc"] == metrics.roc_auc_score(targets[:, 0], scored[:, 0])
    assert found["average_precision"] == metrics.average_precision_score(targets[:, 0], scored[:, 0])
    assert found["accuracy"] == ((outputs > 0) == (targets > 0.5)).mean()


def test_one_class_alone_has_no_curve() -> None:
    found = evaluate(Labels("binary", ("ring",), np.ones((3, 1), np.float32)), np.full((3, 1), 0.9, np.float32))
    assert np.isnan(found["auc"])
    assert np.isnan(found["average_precision"])
    assert found["accuracy"] == 1.0


def test_classes_are_probabilities_that_add_up_to_one() -> None:
    outputs = np.array([[2.0, 1.0, 0.0], [0.0, 5.0, 0.0]], np.float32)
    scored = scores(outputs, "classes")
    np.testing.assert_allclose(scored.sum(axis=1), 1, rtol=1e-6)
    found = evaluate(Labels("classes", ("a", "b", "c"), np.array([0, 2])), scored)
    assert found["accuracy"] == 0.5
    assert found["average_precision a"] == 1.0
    assert np.isnan(found["average_precision b"])


def test_a_regression_comes_back_in_its_own_units() -> None:
    true = np.array([[10.0], [30.0]], np.float32)
    labels = Labels("regression", ("redshift",), (true - 20) / 10, 20.0, 10.0)
    scored = scores(labels.targets, "regression", 20.0, 10.0)
    np.testing.assert_allclose(scored, true)
    assert evaluate(labels, scored) == {"rmse": 0.0, "r2": 1.0}


def test_counts_become_expected_fractions() -> None:
    scored = scores(np.array([[0.0, 0.0], [-100.0, 100.0]], np.float32), "counts")
    np.testing.assert_allclose(scored, [[0.5, 0.5], [1 / 102, 101 / 102]], rtol=1e-5)
    labels = Labels("counts", ("yes", "no"), np.array([[20, 20], [0, 0]], np.float32))
    assert evaluate(labels, scored) == {"mean_absolute_error": 0.0}


@pytest.mark.parametrize("kind", ["binary", "classes", "regression", "counts"])
def test_every_loss_is_smaller_for_better_outputs(kind: str) -> None:
    targets = {
        "binary": torch.tensor([[1.0], [0.0]]),
        "classes": torch.tensor([0, 1]),
        "regression": torch.tensor([[1.0], [-1.0]]),
        "counts": torch.tensor([[30.0, 10.0], [5.0, 35.0]]),
    }[kind]
    good = (
        torch.tensor([[1.0], [-1.0]]) if kind in ("binary", "regression") else torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    )
    loss = loss_of(kind)  # type: ignore[arg-type]
    assert loss(good, targets) < loss(-good, targets)
