"""Training, whatever the network and the labels: epochs in a fixed order, early stopping, and a state to go on from.

Everything random is drawn from the seed, the epoch, the step and the lane (`engine.compute.epochs`), so that a run that
goes on from a state ends where one that was never stopped does, and workers that share the lanes train as one does.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import distributed, nn

from engine.compute.epochs import LANES, Order, epoch_order
from schemas.errors import DataError

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Raw outputs (n, outputs) and targets to a mean over rows."""


class Samples(NamedTuple):
    """Inputs and targets of n rows."""

    targets: np.ndarray
    """(n, ...) what the loss takes beside the outputs."""
    fetch: Callable[[Order, slice], Iterator[np.ndarray]]
    """Per step of an order, the inputs of the rows of some lanes."""
    vary: Callable[[np.ndarray, list[np.random.Generator], str], torch.Tensor]
    """Inputs of a batch, varied at random for training, on a device; one generator for each of its lanes."""
    still: Callable[[np.ndarray, str], torch.Tensor]
    """Inputs of a batch as they are judged."""


class Settings(NamedTuple):
    """How to train."""

    most_epochs: int
    patience: int
    """Epochs without a better validation loss that end the training."""
    batch: int
    learning_rate: float
    """Of Adam."""
    seed: int
    lanes: int = LANES
    cosine: bool = False
    """Let the rate fall to 0 over `most_epochs` as half a cosine, instead of leaving it as it is."""
    bfloat16: bool = False
    """Mixed precision: weights stay float32."""
    device: str = "cpu"


class State(NamedTuple):
    """Where a training is after an epoch."""

    network: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    """The network at its smallest validation loss."""
    optimiser: dict[int, dict[str, torch.Tensor]]
    """By number of the parameter."""
    training_losses: list[float]
    """By epoch."""
    validation_losses: list[float]

    @property
    def best_epoch(self) -> int:
        """From 0."""
        return int(np.argmin(self.validation_losses))


class Share(NamedTuple):
    """Which of the workers this process is."""

    rank: int = 0
    size: int = 1


ALONE = Share()


def in_memory(inputs: np.ndarray, targets: np.ndarray) -> Samples:
    """Samples whose inputs, (n, ...) floats, are trained on as they are."""

    def still(batch: np.ndarray, device: str) -> torch.Tensor:
        return torch.from_numpy(batch).to(device, torch.float32)

    return Samples(targets, fetching(inputs), lambda batch, _, device: still(batch, device), still)


def fetching(inputs: np.ndarray) -> Callable[[Order, slice], Iterator[np.ndarray]]:
    """Fetch rows of an array in memory."""

    def fetch(order: Order, lanes: slice) -> Iterator[np.ndarray]:
        for rows in order.rows:
            yield inputs[rows[lanes].ravel()]

    return fetch


def fit(
    network: nn.Module,
    training: Samples,
    validation: Samples,
    loss: Loss,
    settings: Settings,
    state: State | None = None,
    ended: Callable[[State], None] = lambda state: None,
    share: Share = ALONE,
    groups: list[dict[str, Any]] | None = None,
) -> State:
    """Train until validation gets no better; the network has the weights of the best epoch then.

    Parameters
    ----------
    network : nn.Module
        On the device of the settings. What needs no gradient stays as it is.
    training, validation : Samples
        At least one row for each lane to train on, and one to validate.
    loss : callable
    settings : Settings
    state : State or None
        To go on from.
    ended : callable
        Told of the state after every epoch, in every worker.
    share : Share
        Workers share the lanes; all of them call this with a process group of torch.distributed.
    groups : list of dict or None
        Parameter groups with rates of their own, for Adam.

    Raises
    ------
    DataError
        Training diverged: a loss is not finite.
    """
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimiser = torch.optim.Adam(groups or learning, settings.learning_rate)
    rates = [group["lr"] for group in optimiser.param_groups]
    if state:
        network.load_state_dict(state.network)
        _restore(optimiser, state.optimiser)
    state = state or State({}, _copied(network), {}, [], [])
    model = network
    if share.size > 1:
        model = nn.parallel.DistributedDataParallel(network, broadcast_buffers=False)
    for epoch in range(len(state.validation_losses), settings.most_epochs):
        if state.validation_losses and epoch - 1 - state.best_epoch >= settings.patience:
            break
        trained = _train_epoch(model, optimiser, rates, training, loss, settings, epoch, share)
        held = judge(network, validation, loss, settings, share)
        if not np.isfinite(held) or not np.isfinite(trained):
            raise DataError(
                f"training diverged in epoch {epoch + 1}: loss {trained:g}, in validation {held:g}; try a smaller "
                "learning_rate"
            )
        better = held < min(state.validation_losses, default=np.inf)
        copied = _copied(network)
        state = State(
            copied,
            copied if better else state.best,
            _moments(optimiser),
            [*state.training_losses, trained],
            [*state.validation_losses, held],
        )
        ended(state)
    network.load_state_dict(state.best)
    network.eval()
    return state


def judge(network: nn.Module, samples: Samples, loss: Loss, settings: Settings, share: Share = ALONE) -> float:
    """Mean loss over samples, in evaluation mode; workers share the rows."""
    total = np.zeros(2)
    for rows, outputs in _outputs(network, samples, settings, share):
        total += loss(outputs, _targets(samples, rows, settings)).item() * len(rows), len(rows)
    return float(np.divide(*_summed(total, share, settings)))


def outputs_of(network: nn.Module, samples: Samples, settings: Settings) -> np.ndarray:
    """Raw outputs for samples in their order, (n, outputs) float32, in evaluation mode."""
    made = [outputs.float().cpu().numpy() for _, outputs in _outputs(network, samples, settings, Share())]
    return np.concatenate(made)


def _train_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    rates: list[float],
    training: Samples,
    loss: Loss,
    settings: Settings,
    epoch: int,
    share: Share,
) -> float:
    """Train on the lanes of one worker; return the mean loss over all of them."""
    model.train()
    order = epoch_order(len(training.targets), settings.batch, settings.seed, epoch, settings.lanes)
    steps, lanes = len(order.rows), settings.lanes
    own = slice(lanes * share.rank // share.size, lanes * (share.rank + 1) // share.size)
    total = torch.zeros((), dtype=torch.float64, device=settings.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, share.rank]).generate_state(1)[0]))
        for step, inputs in enumerate(training.fetch(order, own)):
            if settings.cosine:
                done = (epoch * steps + step) / (settings.most_epochs * steps)
                for group, rate in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * done))
            random = [np.random.default_rng([settings.seed, epoch, step, lane]) for lane in range(lanes)[own]]
            targets = _targets(training, order.rows[step][own].ravel(), settings)
            optimiser.zero_grad(set_to_none=True)
            with _precision(settings):
                outputs = model(training.vary(inputs, random, settings.device))
            value = loss(outputs.float(), targets)
            value.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += value.detach()
    return float(_summed(np.array([total.item()]), share, settings)[0]) / (steps * share.size)


def _outputs(
    network: nn.Module, samples: Samples, settings: Settings, share: Share
) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
    """Rows and their raw outputs, every worker those of its share."""
    network.eval()
    own = np.arange(len(samples.targets))[share.rank :: share.size]
    batches = [own[start : start + settings.batch] for start in range(0, len(own), settings.batch)]
    order = Order([rows[np.newaxis] for rows in batches], 1)
    for rows, inputs in zip(batches, samples.fetch(order, slice(None)), strict=True):
        with torch.inference_mode(), _precision(settings):
            outputs = network(samples.still(inputs, settings.device))
        yield rows, outputs.float()


def _targets(samples: Samples, rows: np.ndarray, settings: Settings) -> torch.Tensor:
    return torch.from_numpy(samples.targets[rows]).to(settings.device)


def _precision(settings: Settings) -> Any:
    return torch.autocast(settings.device, torch.bfloat16) if settings.bfloat16 else nullcontext()


def _summed(values: np.ndarray, share: Share, settings: Settings) -> np.ndarray:
    if share.size == 1:
        return values
    together = torch.from_numpy(values).to(settings.device)
    distributed.all_reduce(together)
    return together.cpu().numpy()


def _copied(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: deepcopy(value.detach().cpu()) for name, value in network.state_dict().items()}


def _moments(optimiser: torch.optim.Optimizer) -> dict[int, dict[str, torch.Tensor]]:
    return {
        number: {name: value.detach().cpu().clone() for name, value in values.items()}
        for number, values in optimiser.state_dict()["state"].items()
    }


def _restore(optimiser: torch.optim.Optimizer, kept: dict[int, dict[str, torch.Tensor]]) -> None:
    state = optimiser.state_dict()
    state["state"] = kept
    optimiser.load_state_dict(state)
