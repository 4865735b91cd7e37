import numpy as np
import pytest
import torch
from torch import nn

from engine.compute.head import Schedule, fit_head, make_head, outputs_of, paper_schedule
from schemas.errors import DataError

binary = nn.BCEWithLogitsLoss()


def task(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, 12)).astype(np.float32)
    labels = (features[:, 0] * 2 + features[:, 1] ** 2 > 1).astype(np.float32)[:, np.newaxis]
    return features, labels


def test_the_papers_head_has_its_layers_and_linear_has_one() -> None:
    layers = [type(layer).__name__ for layer in make_head("paper", 1280, 1, 0)]
    assert layers == ["Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    head = make_head("paper", 1280, 1, 0)
    assert [tuple(layer.weight.shape) for layer in head if isinstance(layer, nn.Linear)] == [
        (64, 1280),
        (64, 64),
        (1, 64),
    ]
    assert {layer.p for layer in head if isinstance(layer, nn.Dropout)} == {0.75}
    assert len(make_head("linear", 5, 3, 0)) == 1


@pytest.mark.parametrize(
    ("n", "epochs", "patience"), [(100, 50_000, 30), (69_620, 71, 11), (5_000_000, 1, 10), (10**8, 1, 10)]
)
def test_the_schedule_is_the_papers(n: int, epochs: int, patience: int) -> None:
    assert paper_schedule(n) == Schedule(epochs, patience)


def test_a_head_learns_and_the_best_epoch_is_kept() -> None:
    fitted = fit_head(
        make_head("paper", 12, 1, 0), task(800, 1), task(300, 2), binary, Schedule(60, 60), 0, batch_size=32
    )
    features, labels = task(500, 3)
    right = (outputs_of(fitted.head, features) > 0) == (labels > 0.5)
    assert right.mean() > 0.85
    held_features, held_labels = task(300, 2)
    value = binary(torch.as_tensor(outputs_of(fitted.head, held_features)), torch.as_tensor(held_labels)).item()
    assert value == pytest.approx(min(fitted.validation_losses), rel=1e-5)
    assert fitted.validation_losses[fitted.best_epoch] == min(fitted.validation_losses)


def test_training_stops_when_patience_ends() -> None:
    random = np.random.default_rng(0)
    noise = random.normal(size=(40, 12)).astype(np.float32), random.integers(2, size=(40, 1)).astype(np.float32)
    fitted = fit_head(make_head("linear", 12, 1, 0), noise, task(50, 1), binary, Schedule(1000, 5), 0, 0.05)
    assert len(fitted.validation_losses) == fitted.best_epoch + 6 < 1000


def test_the_same_seed_gives_the_same_head_and_the_global_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    given = make_head("paper", 12, 1, 3)
    kept = {name: value.clone() for name, value in given.state_dict().items()}
    first, second = (fit_head(given, task(60, 1), task(20, 2), binary, Schedule(5, 5), 9) for _ in range(2))
    assert first.validation_losses == second.validation_losses
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, kept[name]) for name, value in given.state_dict().items())
    other = fit_head(given, task(60, 1), task(20, 2), binary, Schedule(5, 5), 10)
    assert other.validation_losses != first.validation_losses


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    bad = np.full((4, 12), np.nan, np.float32), np.zeros((4, 1), np.float32)
    with pytest.raises(DataError, match="training diverged in epoch 1"):
        fit_head(make_head("linear", 12, 1, 0), bad, bad, binary, Schedule(3, 3), 0)
