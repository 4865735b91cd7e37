"""Training on Ray Train: workers that share the lanes of every batch, and checkpoints in the output to go on from.

initial weights ---> worker 0..n-1: fit ---> a checkpoint now and then ---> best weights
(Ray Train starts them again where one dies)
"""

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer

from engine.cluster.canvases import streaming
from engine.cluster.session import LOST, causes, configure_data
from engine.cluster.task import LoadTask
from engine.compute.augment import centred, random_turns, turned
from engine.compute.epochs import Order
from engine.compute.head import HeadKind, make_head
from engine.compute.labels import LabelKind, loss_of
from engine.compute.network import Network, cut, layer_rates, new_encoder, trainable_encoder, unfreeze
from engine.compute.synchronised import synchronise
from engine.compute.training import ALONE, Loss, Samples, Settings, Share, State, fetching, fit, in_memory, outputs_of
from engine.compute.vote_loss import concentrations, vote_loss
from engine.storage.store import Store
from engine.storage.weights import read_tensors, write_tensors
from schemas import paths
from schemas.errors import VoorwerpError, WorkersLostError

INITIAL, BEST, LOSSES = "initial.safetensors", "best.safetensors", "losses.json"
MOST_FAILURES = 8
"""Workers that may die before a training gives up."""
LOOK_EVERY_S = 0.5
"""Ray Train looks that often for checkpoints and for dead workers; a checkpoint waits for the next look."""
KEPT_VIEWS = 8
KEPT_BYTES = 2 << 30
"""Memory for what frozen layers make of views of the cutouts."""


class TrainTask(NamedTuple):
    """What workers are told of a training."""

    output: str
    run_id: str
    architecture: str
    load: LoadTask
    """How cutouts become canvases."""
    crop: int
    head: HeadKind
    n_outputs: int
    dropout: float
    """Before the head."""
    questions: tuple[int, ...]
    """Answers of each question of votes; none for labels."""
    kind: LabelKind
    """Of labels."""
    depth: str | None
    """To which the encoder learns (`engine.compute.network.unfreeze`); None: all of it and its normalisations."""
    layer_decay: float | None
    settings: Settings
    checkpoint_s: float = 60.0
    """Time between checkpoints."""

    @property
    def loss(self) -> Loss:
        """Of raw outputs."""
        if not self.questions:
            return loss_of(self.kind)
        edges = np.cumsum([0, *self.questions])
        slices = [slice(int(start), int(stop)) for start, stop in pairwise(edges)]
        return lambda outputs, votes: vote_loss(concentrations(outputs), votes, slices).sum(dim=1).mean()


class Inputs(NamedTuple):
    """What is trained on. Objects of Ray's store, or the values themselves."""

    canvases: Any
    """(n, bands, side, side) float16, or None where `objects` are streamed."""
    objects: Any
    """pa.Table of n objects with pins."""
    targets: Any
    """(n, ...)"""
    training: np.ndarray
    """Rows to train on; a row may be there several times."""
    validation: np.ndarray


class Trained(NamedTuple):
    """A network at its best, and how it came there."""

    tensors: dict[str, torch.Tensor]
    """State of a `Network`."""
    training_losses: list[float]
    validation_losses: list[float]

    @property
    def best_epoch(self) -> int:
        """From 0."""
        return int(np.argmin(self.validation_losses))


def build(task: TrainTask, tensors: dict[str, torch.Tensor]) -> Network:
    """Build a network from the state that it begins with, on the device of the settings."""
    encoder = new_encoder(task.architecture, task.load.preset.n_bands, 0)
    head = make_head(task.head, encoder.num_features, task.n_outputs, 0)  # type: ignore[arg-type]
    network = Network(encoder, head, task.dropout)
    network.load_state_dict(tensors)
    if task.depth is not None:
        unfreeze(network, task.depth)
    return network.to(task.settings.device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def initial(
    architecture: str, n_bands: int, head: HeadKind, n_outputs: int, seed: int, encoder: dict[str, torch.Tensor] | None
) -> dict[str, torch.Tensor]:
    """Make the state that a training begins with: given weights of the encoder, or random ones; a random head."""
    made = trainable_encoder(architecture, n_bands, encoder) if encoder else new_encoder(architecture, n_bands, seed)
    network = Network(made, make_head(head, made.num_features, n_outputs, seed))  # type: ignore[arg-type]
    return {name: value.contiguous() for name, value in network.state_dict().items()}


def train(
    task: TrainTask, inputs: Inputs, workers: int, cores: int, advance: Callable[[int, float, float], None]
) -> Trained:
    """Train on Ray, or go on where an earlier run of the same training was.

    The state that it begins with is `initial.safetensors` in the work folder of the run.

    Parameters
    ----------
    task : TrainTask
    inputs : Inputs
    workers : int
        That share the lanes: a divisor of `settings.lanes`; each has a GPU where the device is cuda.
    cores : int
        Cores for all workers together.
    advance : callable
        Told of the number of epochs done, and the last losses in training and validation.

    Raises
    ------
    WorkersLostError
        Worker after worker was lost, or what watches them.
    VoorwerpError
        What a worker raised.
    """
    folder = Store(task.output).below(paths.work(task.run_id))
    if not folder.exists(BEST):
        board = _Board.remote()  # type: ignore[attr-defined]
        shared = inputs._replace(
            canvases=None if inputs.canvases is None else ray.put(inputs.canvases),
            objects=ray.put(inputs.objects),
            targets=ray.put(inputs.targets),
        )
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(LOOK_EVERY_S))
        on_gpu = task.settings.device == "cuda"
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "task": task,
                "inputs": shared,
                "board": board,
                "threads": max(1, cores // workers),
            },
            torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=on_gpu),
            run_config=ray.train.RunConfig(
                name="train",
                storage_path=folder.full_path(),
                storage_filesystem=folder.filesystem,
                failure_config=ray.train.FailureConfig(max_failures=MOST_FAILURES),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        )
        with _lost_workers():
            _run(trainer, board, advance)
    losses = json.loads(folder.read(LOSSES))
    return Trained(read_tensors(folder, BEST), losses["training"], losses["validation"])


def train_one(
    task: TrainTask,
    inputs: Inputs,
    tensors: dict[str, torch.Tensor],
    share: Share = ALONE,
    state: State | None = None,
    ended: Callable[[State], None] = lambda state: None,
) -> tuple[Network, State]:
    """Train in this process, alone or as one of several workers; return the network at its best.

    Frozen layers are run once over a few views of every cutout where there is memory for what they make of them.
    """
    network = build(task, tensors)
    model: torch.nn.Module = network
    samples = _canvas_samples(inputs, task)
    training, validation = samples(inputs.training), samples(inputs.validation)
    parts = cut(network.encoder, task.depth) if task.depth is not None and share.size == 1 else None
    if parts:
        frozen, rest = parts
        views = _kept_views(frozen, task, len(np.unique(inputs.training)))
        if views:
            kept = _Kept(frozen, training, task, views)
            training, validation = kept.training(inputs.training), kept.validation(validation)
            model = Network(rest, network.head, task.dropout)
            model.norms_learn = False
    if share.size > 1 and task.depth is None:
        model = network = synchronise(network, task.settings.device)  # type: ignore[assignment]
    groups = None
    if task.layer_decay is not None:
        groups = layer_rates(network, task.settings.learning_rate, task.layer_decay)
    state = fit(model, training, validation, task.loss, task.settings, state, ended, share, groups)
    return network.eval(), state


def predict_rows(network: Network, task: TrainTask, inputs: Inputs, rows: np.ndarray) -> np.ndarray:
    """Raw outputs for the centre views of some rows, (n, outputs) float32."""
    return outputs_of(network, _canvas_samples(inputs, task)(rows), task.settings)


def _work(config: dict[str, Any]) -> None:
    """What a worker of Ray Train does. It starts again what dies, and would start again what cannot succeed."""
    try:
        _train_share(config)
    except VoorwerpError as error:
        ray.get(config["board"].fail.remote(error))


def _train_share(config: dict[str, Any]) -> None:
    """Train as one of the workers, from the last checkpoint on; the first keeps what came of it."""
    task: TrainTask = config["task"]
    configure_data()
    torch.set_num_threads(config["threads"])
    if task.settings.device == "cuda":
        torch.cuda.set_device(ray.train.torch.get_device())
    context = ray.train.get_context()
    share = Share(context.get_world_rank(), context.get_world_size())
    given: Inputs = config["inputs"]
    inputs = given._replace(
        canvases=None if given.canvases is None else ray.get(given.canvases), targets=ray.get(given.targets)
    )
    folder = Store(task.output).below(paths.work(task.run_id))
    checkpoint = ray.train.get_checkpoint()
    state = None
    if checkpoint:
        with checkpoint.as_directory() as path:
            state = read_state(Store(path))

    kept_at = perf_counter()

    def ended(state: State) -> None:
        nonlocal kept_at
        if share.rank == 0:
            config["board"].post.remote(
                len(state.validation_losses), state.training_losses[-1], state.validation_losses[-1]
            )
        if _agreed(perf_counter() - kept_at >= task.checkpoint_s, share, task.settings.device):
            _keep(state, share)
            kept_at = perf_counter()

    network, state = train_one(task, inputs, read_tensors(folder, INITIAL), share, state, ended)
    if share.rank == 0:
        losses = {"training": state.training_losses, "validation": state.validation_losses}
        folder.write(LOSSES, json.dumps(losses).encode())
        tensors = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
        write_tensors(folder, BEST, tensors)


def _agreed(first: bool, share: Share, device: str) -> bool:
    """What the first worker says: clocks differ, and all workers have to do the same."""
    if share.size == 1:
        return first
    said = torch.tensor(float(first), device=device)
    torch.distributed.broadcast(said, 0)
    return bool(said)


def _keep(state: State, share: Share) -> None:
    """Make a checkpoint; all workers wait for it."""
    with tempfile.TemporaryDirectory() as path:
        checkpoint = None
        if share.rank == 0:
            write_state(Store(path), state)
            checkpoint = ray.train.Checkpoint.from_directory(path)
        ray.train.report({"epoch": len(state.validation_losses)}, checkpoint=checkpoint)


def write_state(folder: Store, state: State) -> None:
    """Keep a state: tensors as safetensors, losses as JSON."""
    tensors = {f"network/{name}": value for name, value in state.network.items()}
    # safetensors refuses memory that two names share, as the best network and the last may.
    tensors |= {f"best/{name}": value.clone() for name, value in state.best.items()}
    for number, values in state.optimiser.items():
        tensors |= {f"optimiser/{number}/{name}": torch.as_tensor(value).cpu() for name, value in values.items()}
    write_tensors(folder, "state.safetensors", {name: value.contiguous() for name, value in tensors.items()})
    losses = {"training": state.training_losses, "validation": state.validation_losses}
    folder.write("state.json", json.dumps(losses).encode())


def read_state(folder: Store) -> State:
    """Read a state that `write_state` kept."""
    network: dict[str, torch.Tensor] = {}
    best: dict[str, torch.Tensor] = {}
    optimiser: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in read_tensors(folder, "state.safetensors").items():
        part, _, name = key.partition("/")
        if part == "optimiser":
            number, _, name = name.partition("/")
            optimiser.setdefault(int(number), {})[name] = value
        else:
            (network if part == "network" else best)[name] = value
    losses = json.loads(folder.read("state.json"))
    return State(network, best, optimiser, losses["training"], losses["validation"])


@ray.remote(num_cpus=0)
class _Board:
    """Where a worker writes how far it is, and the driver looks."""

    def __init__(self) -> None:
        self._posted: list[tuple[int, float, float]] = []
        self._failed: VoorwerpError | None = None

    def fail(self, error: VoorwerpError) -> None:
        self._failed = error

    def failed(self) -> VoorwerpError | None:
        return self._failed

    def post(self, epoch: int, training: float, validation: float) -> None:
        self._posted.append((epoch, training, validation))

    def look(self) -> list[tuple[int, float, float]]:
        posted, self._posted = self._posted, []
        return posted


@contextmanager
def _lost_workers() -> Iterator[None]:
    """Raise WorkersLostError where Ray lost processes; what a process raised stays what it is."""
    try:
        yield
    except (*LOST, ray.train.TrainingFailedError) as error:
        failed = error.worker_failures.values() if isinstance(error, ray.train.WorkerGroupError) else [error]
        if not all(isinstance(one, LOST) for one in failed):
            raise
        raise WorkersLostError(
            "processes of the training were lost; is there enough memory? The same command goes on from the last "
            f"checkpoint. {str(error).strip().splitlines()[0]}"
        ) from error


def _run(trainer: TorchTrainer, board: Any, advance: Callable[[int, float, float], None]) -> None:
    """Run a trainer in a thread, and tell of its epochs from this one."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            trainer.fit()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    running = True
    while running:
        thread.join(1.0)
        running = thread.is_alive()
        for posted in ray.get(board.look.remote()):
            advance(*posted)
        # The other workers may wait for the one that failed.
        if error := ray.get(board.failed.remote()):
            raise error
    with causes():
        if raised:
            raise raised[0]


def _canvas_samples(inputs: Inputs, task: TrainTask) -> Callable[[np.ndarray], Samples]:
    """Make samples of rows: turned at random for training, the middle to be judged by."""
    crop, side = task.crop, task.load.preset.resize
    fetch_row = streaming(inputs.objects, task.load) if inputs.canvases is None else fetching(inputs.canvases)

    def vary(batch: np.ndarray, random: list[np.random.Generator], device: str) -> torch.Tensor:
        each = len(batch) // len(random)
        drawn = [random_turns(each, side, crop, generator) for generator in random]
        turns = type(drawn[0])(*(np.concatenate(values) for values in zip(*drawn, strict=True)))
        return turned(_tensor(batch, device), turns, crop).contiguous(memory_format=torch.channels_last)

    def still(batch: np.ndarray, device: str) -> torch.Tensor:
        return centred(_tensor(batch, device), crop).contiguous(memory_format=torch.channels_last)

    def samples(rows: np.ndarray) -> Samples:
        def fetch(order: Order, lanes: slice) -> Iterator[np.ndarray]:
            return fetch_row(Order([rows[step] for step in order.rows], order.window_steps), lanes)

        return Samples(np.asarray(inputs.targets)[rows], fetch, vary, still)

    return samples


class _Kept:
    """What frozen layers make of some random views of every cutout, and of its centre view."""

    def __init__(self, frozen: torch.nn.Module, training: Samples, task: TrainTask, views: int) -> None:
        self._frozen, self._training, self._task, self._views = frozen.eval(), training, task, views

    def training(self, rows: np.ndarray) -> Samples:
        """Samples of rows that may repeat: a view of each is drawn in every epoch."""
        distinct, first, inverse = np.unique(rows, return_index=True, return_inverse=True)

        def random(at: int) -> list[np.random.Generator]:
            return [np.random.default_rng([self._task.settings.seed, int(row), at]) for row in distinct[batch]]

        made = []
        for start in range(0, len(first), self._task.settings.batch):
            batch = slice(start, start + self._task.settings.batch)
            (inputs,) = self._training.fetch(Order([first[batch][np.newaxis]], 1), slice(None))
            device = self._task.settings.device
            views = [self._run(self._training.vary(inputs, random(at), device)) for at in range(self._views)]
            made.append(np.stack(views, axis=1))
        features = np.concatenate(made)
        return in_memory_views(features, inverse, self._training.targets)

    def validation(self, samples: Samples) -> Samples:
        """Samples of centre views."""
        rows = np.arange(len(samples.targets))
        batches = [rows[at : at + self._task.settings.batch] for at in range(0, len(rows), self._task.settings.batch)]
        order = Order([batch[np.newaxis] for batch in batches], 1)
        device = self._task.settings.device
        made = [self._run(samples.still(inputs, device)) for inputs in samples.fetch(order, slice(None))]
        return in_memory(np.concatenate(made), samples.targets)

    def _run(self, views: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self._frozen(views).half().cpu().numpy()


def in_memory_views(features: np.ndarray, of: np.ndarray, targets: np.ndarray) -> Samples:
    """Samples that draw one of several views in every epoch.

    Parameters
    ----------
    features : (m, views, ...) float array
    of : (n,) int array
        Which features each row has.
    targets : (n, ...) array
    """

    def fetch(order: Order, lanes: slice) -> Iterator[np.ndarray]:
        for rows in order.rows:
            yield of[rows[lanes].ravel()]

    def vary(batch: np.ndarray, random: list[np.random.Generator], device: str) -> torch.Tensor:
        drawn = [generator.integers(features.shape[1], size=len(batch) // len(random)) for generator in random]
        return _tensor(features[batch, np.concatenate(drawn)], device)

    return Samples(targets, fetch, vary, lambda batch, device: _tensor(features[batch, 0], device))


def _kept_views(frozen: torch.nn.Module, task: TrainTask, n: int) -> int:
    """How many views of n cutouts have room in memory after the frozen layers; 0 for none."""
    side = torch.zeros(1, task.load.preset.n_bands, task.crop, task.crop, device=task.settings.device)
    with torch.no_grad():
        each = frozen.eval()(side).numel() * np.dtype(np.float16).itemsize
    return min(KEPT_VIEWS, KEPT_BYTES // (each * max(n, 1)))


def _tensor(batch: np.ndarray, device: str) -> torch.Tensor:
    return torch.from_numpy(batch).to(device).float()
