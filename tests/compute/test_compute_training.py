"""Training: the order of epochs, views on the device, what is frozen, and a state that goes on where it was."""

from itertools import pairwise

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.augment import Turns, centred, random_turns, turned
from engine.compute.epochs import epoch_order
from engine.compute.network import Network, check_depth, cut, depths, layer_rates, norms, unfreeze
from engine.compute.training import Settings, State, fit, in_memory, judge, outputs_of
from engine.compute.views import centre_view, random_view
from schemas.errors import ConfigError, DataError
from schemas.preset import Preset
from tests.conftest import TINY_ARCHITECTURE, galaxy_pixels

PRESET = Preset(bands="rgb", resize=64, crop=48, mean=(0, 0, 0), std=(1, 1, 1))


@settings(deadline=None)
@given(
    n=st.integers(1, 3000),
    batch=st.integers(8, 600),
    lanes=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 9),
    epoch=st.integers(0, 9),
)
def test_an_epoch_has_every_row_at_most_once_and_nearly_all(
    n: int, batch: int, lanes: int, seed: int, epoch: int
) -> None:
    if n < lanes:
        return
    order = epoch_order(n, batch, seed, epoch, lanes)
    rows = np.concatenate([step.ravel() for step in order.rows])
    assert len(np.unique(rows)) == len(rows)
    assert n - min(batch, n / 2 + lanes) < len(rows) <= n
    assert all(step.shape == order.rows[0].shape and step.shape[0] == lanes for step in order.rows)
    assert order.rows[0].size <= batch
    again = epoch_order(n, batch, seed, epoch, lanes)
    assert all(np.array_equal(a, b) for a, b in zip(order.rows, again.rows, strict=True))


def test_epochs_differ_and_rows_of_a_window_are_near_each_other() -> None:
    first, second = (epoch_order(100_000, 512, 3, epoch) for epoch in (0, 1))
    assert not np.array_equal(first.rows[0], second.rows[0])
    window = np.concatenate([step[0] for step in first.rows[: first.window_steps]])
    assert len(np.unique(window // 64)) <= len(window) / 64 + 2


class Fixed:
    """Stands for a generator that draws given numbers."""

    def __init__(self, angle_deg: float, flips: tuple[bool, bool], corner: tuple[int, int]) -> None:
        self._angle_deg, self._flips, self._corner = angle_deg, flips, corner

    def uniform(self, *_: float) -> float:
        return self._angle_deg

    def random(self, _: int) -> np.ndarray:
        return np.where(self._flips, 0.0, 1.0)

    def integers(self, *_: int, size: int) -> tuple[int, int]:
        return self._corner


@settings(deadline=None, max_examples=30)
@given(
    angle_deg=st.floats(0, 360),
    flips=st.tuples(st.booleans(), st.booleans()),
    corner=st.tuples(st.integers(0, 16), st.integers(0, 16)),
)
def test_a_turned_batch_is_the_random_view_of_each(
    angle_deg: float, flips: tuple[bool, bool], corner: tuple[int, int]
) -> None:
    image = (galaxy_pixels(3, 64).transpose(2, 0, 1) / 255).astype(np.float32)
    expected = random_view(image, PRESET, Fixed(angle_deg, flips, corner))  # type: ignore[arg-type]
    turns = Turns(*(np.array([value]) for value in (np.deg2rad(angle_deg), *flips, *corner)))
    found = turned(torch.from_numpy(image[np.newaxis]), turns, 48)[0].numpy()
    assert np.abs(found - expected).max() < 1e-3
    assert np.abs(found - expected).mean() < 1e-6


def test_the_middle_of_a_canvas_is_the_centre_view() -> None:
    image = (galaxy_pixels(3, 100).transpose(2, 0, 1) / 255).astype(np.float32)
    canvas = centre_view(image, PRESET.model_copy(update={"crop": 64}))
    middle = centred(torch.from_numpy(canvas), 48).numpy()
    np.testing.assert_allclose(middle, centre_view(image, PRESET), atol=1e-6)


def test_turns_have_every_angle_flip_and_corner() -> None:
    turns = random_turns(2000, 64, 60, np.random.default_rng(0))
    assert turns.angle_rad.min() < 0.02
    assert turns.angle_rad.max() > 6.26
    assert 0.45 < turns.flip_x.mean() < 0.55
    assert set(turns.row) == set(turns.column) == {0, 1, 2, 3, 4}


def make_network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    encoder = timm.create_model(TINY_ARCHITECTURE, num_classes=0, in_chans=1)
    return Network(encoder, torch.nn.Linear(encoder.num_features, 1), 0.1)


@pytest.mark.parametrize("depth", ["head", "top", "5", "2", "1", "all"])
def test_what_is_frozen_gets_no_gradient_and_keeps_its_statistics(depth: str) -> None:
    network = make_network()
    unfreeze(network, depth)
    network.train()
    assert not any(norm.training for norm in norms(network.encoder))
    network(torch.rand(4, 1, 48, 48)).sum().backward()
    learning = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert not [name for name in learning if "bn" in name]
    blocks = {name.split(".")[2] for name in learning if name.startswith("encoder.blocks")}
    assert blocks == {"head": set(), "top": set(), "5": {"4"}, "2": set("1234")}.get(depth, set("01234"))
    assert ("encoder.conv_stem.weight" in learning) == (depth == "all")
    assert ("encoder.conv_head.weight" in learning) == (depth != "head")
    assert "head.weight" in learning


@pytest.mark.parametrize("architecture", [TINY_ARCHITECTURE, "efficientnet_lite0"])
def test_a_cut_encoder_gives_what_the_whole_one_gives(architecture: str) -> None:
    encoder = timm.create_model(architecture, num_classes=0, in_chans=1).eval()
    views = torch.rand(2, 1, 48, 48)
    with torch.no_grad():
        for depth in depths(encoder)[:-1]:
            parts = cut(encoder, depth)
            assert parts
            torch.testing.assert_close(parts[1](parts[0](views)), encoder(views))
    assert cut(encoder, "all") is None
    assert cut(timm.create_model("resnet18", num_classes=0), "top") is None


def test_a_depth_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="depth: expected one of head, top, 5, 4, 3, 2, 1, all"):
        check_depth(TINY_ARCHITECTURE, "7")
    check_depth("resnet18", "4")


def test_rates_fall_from_layer_to_layer() -> None:
    network = make_network()
    unfreeze(network, "4")
    groups = layer_rates(network, 1.0, 0.5)
    assert [group["lr"] for group in groups] == [1.0, 0.5, 0.25, 0.125]
    covered = sum(len(group["params"]) for group in groups)  # type: ignore[arg-type]
    assert covered == sum(parameter.requires_grad for parameter in network.parameters())


def toy(n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    inputs = random.normal(size=(n, 6)).astype(np.float32)
    return inputs, (inputs[:, :1] * 2 - inputs[:, 1:2] + 0.1 * random.normal(size=(n, 1))).astype(np.float32)


def train_toy(settings: Settings, state: State | None = None) -> tuple[torch.nn.Module, State, list[State]]:
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    states: list[State] = []
    (inputs, targets), loss = toy(), torch.nn.functional.mse_loss
    samples = in_memory(inputs[:150], targets[:150]), in_memory(inputs[150:], targets[150:])
    return network, fit(network, *samples, loss, settings, state, states.append), states


@pytest.mark.parametrize("cosine", [True, False])
def test_a_training_that_goes_on_ends_where_one_that_never_stopped_does(cosine: bool) -> None:
    asked = Settings(6, 10, 32, 0.01, 5, cosine=cosine)
    whole, state, states = train_toy(asked)
    resumed, again, _ = train_toy(asked, states[2])
    assert again.validation_losses == state.validation_losses
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, rtol=0, atol=0)


def test_training_learns_stops_early_and_keeps_the_best() -> None:
    asked = Settings(400, 5, 32, 0.05, 5)
    network, state, states = train_toy(asked)
    assert len(state.validation_losses) == state.best_epoch + 6 < 400
    assert min(state.validation_losses) < 0.2 < state.validation_losses[0]
    (inputs, targets), loss = toy(), torch.nn.functional.mse_loss
    held = in_memory(inputs[150:], targets[150:])
    assert judge(network, held, loss, asked) == pytest.approx(min(state.validation_losses), rel=1e-6)
    expected = loss(torch.from_numpy(outputs_of(network, held, asked)), torch.from_numpy(targets[150:])).item()
    assert expected == pytest.approx(min(state.validation_losses), rel=1e-5)
    assert len(states) == len(state.training_losses)


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(DataError, match="training diverged in epoch 1: loss nan"):
        train_toy(Settings(3, 3, 32, 1e30, 0))


def test_a_rate_that_falls_as_a_cosine_ends_near_zero() -> None:
    network = torch.nn.Linear(6, 1)
    (inputs, targets), loss = toy(), torch.nn.functional.mse_loss
    weights: list[np.ndarray] = []

    def ended(state: State) -> None:
        weights.append(state.network["weight"].numpy())

    samples = in_memory(inputs, targets)
    fit(network, samples, samples, loss, Settings(20, 20, 32, 0.1, 0, cosine=True), ended=ended)
    steps = [np.abs(b - a).max() for a, b in pairwise(weights)]
    assert steps[-1] < 0.05 * max(steps)
