"""Cells of an experiment on Ray: each trains on some labels with one encoder to one depth, and is done once."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import ray
import torch

from engine.cluster.stream import stream
from engine.cluster.training import Inputs, TrainTask, build, initial, predict_rows, train_one
from engine.compute.epochs import LANES
from engine.compute.head import Schedule, fit_head, make_head, outputs_of, paper_schedule
from engine.compute.labels import Labels, evaluate, loss_of, scores
from engine.compute.network import ALL, HEAD_ONLY
from engine.compute.splits import balanced
from engine.storage.artefacts import decode, encode
from engine.storage.store import Store
from schemas.experiment import CELLS, Cell, cell_name


class Split(NamedTuple):
    """Who trains, validates and tests in one repeat."""

    training: np.ndarray
    """Rows in the order in which they are taken: fewer labels are some of the more."""
    validation: np.ndarray
    test: np.ndarray


class Bench(NamedTuple):
    """What all cells share."""

    output: str
    task: TrainTask
    """Of a deep training; depth, number of epochs and lanes are the cell's."""
    labels: Labels
    splits: list[Split]
    most_images: int
    head_learning_rate: float
    seed: int


class Prepared(NamedTuple):
    """An encoder, and what it makes of every labelled object."""

    tensors: dict[str, torch.Tensor] | None
    """None for random weights, others in every repeat."""
    sha256: str | None
    """Of the weights."""
    features: np.ndarray
    """(n, d) float32, of centre views."""


def prepare(
    bench: Bench, canvases: np.ndarray, tensors: dict[str, torch.Tensor] | None, sha256: str | None, threads: int
) -> Prepared:
    """Embed all labelled objects with an encoder, in this process."""
    torch.set_num_threads(threads)
    task = bench.task._replace(depth=HEAD_ONLY)
    network = build(task, _state(bench, tensors, 0))
    network.head = torch.nn.Identity()
    rows = np.arange(len(canvases))
    return Prepared(tensors, sha256, predict_rows(network, task, _inputs(bench, canvases, rows, rows), rows))


def run_cells(
    bench: Bench,
    canvases: np.ndarray,
    encoders: dict[str, Prepared],
    cells: Sequence[tuple[str, str, int, int]],
    cpus_per_core: float,
) -> Iterator[Cell]:
    """Train cells, (encoder, depth, count, repeat), each on one core or GPU; yield each as it is done."""
    shared = {name: ray.put(encoder) for name, encoder in encoders.items()}
    shared_canvases, shared_bench = ray.put(canvases), ray.put(bench)
    records = [
        {"encoder": encoder, "depth": depth, "count": count, "repeat": repeat}
        for encoder, depth, count, repeat in cells
    ]

    def run(record: dict[str, Any]) -> dict[str, Any]:
        torch.set_num_threads(1)
        prepared = ray.get(shared[record["encoder"]])
        cell = run_cell(ray.get(shared_bench), ray.get(shared_canvases), prepared, **record)
        return {"cell": encode(cell)}

    for record in stream(
        records, {"fn": run, "num_cpus": cpus_per_core, "num_gpus": int(bench.task.settings.device == "cuda")}
    ):
        yield decode(Cell, record["cell"], "cell")


def run_cell(
    bench: Bench, canvases: np.ndarray, prepared: Prepared, encoder: str, depth: str, count: int, repeat: int
) -> Cell:
    """Train one cell and keep its record; or return the record that is there."""
    store = Store(bench.output).below(CELLS)
    path = f"{cell_name(encoder, depth, count, repeat)}.json"
    if store.exists(path):
        return decode(Cell, store.read(path), store.uri(path))
    started = perf_counter()
    labels, split = bench.labels, bench.splits[repeat]
    training = split.training[:count]
    if labels.strata is not None:
        training = training[balanced(labels.strata[training], np.random.default_rng([bench.seed, repeat]))]
    epochs = max(1, bench.most_images // len(training))
    schedule = Schedule(epochs, paper_schedule(len(training)).patience)
    features = prepared.features
    fitted = fit_head(
        make_head(bench.task.head, features.shape[1], labels.n_outputs, bench.seed + repeat),
        (features[training], labels.targets[training]),
        (features[split.validation], labels.targets[split.validation]),
        loss_of(labels.kind),
        schedule,
        bench.seed + repeat,
        bench.head_learning_rate,
        bench.task.settings.batch,
    )
    history: Any = fitted
    if depth == HEAD_ONLY:
        outputs = outputs_of(fitted.head, features[split.test])
    else:
        task = _deep_task(bench, prepared, depth, schedule, len(training), repeat)
        tensors = _state(bench, prepared.tensors, repeat)
        if prepared.tensors is not None:
            tensors |= {f"head.{name}": value for name, value in fitted.head.state_dict().items()}
        inputs = _inputs(bench, canvases, training, split.validation)
        network, history = train_one(task, inputs, tensors)
        outputs = predict_rows(network, task, inputs, split.test)
    scored = scores(outputs, labels.kind, labels.centre, labels.width)
    cell = Cell(
        encoder=encoder,
        weights=prepared.sha256,
        depth=depth,
        count=count,
        repeat=repeat,
        n_test=len(split.test),
        metrics=evaluate(labels._replace(targets=labels.targets[split.test]), scored),
        best_epoch=history.best_epoch,
        epochs=len(history.validation_losses),
        seconds=perf_counter() - started,
    )
    if not store.create(path, encode(cell)):
        return decode(Cell, store.read(path), store.uri(path))
    return cell


def depths_of(depths: Sequence[str], is_random: bool) -> list[str]:
    """Depths that make sense: random weights are left as they are, or trained as a whole."""
    if not is_random:
        return list(depths)
    return list(dict.fromkeys(depth if depth == HEAD_ONLY else ALL for depth in depths))


def _deep_task(
    bench: Bench, prepared: Prepared, depth: str, schedule: Schedule, n_training: int, repeat: int
) -> TrainTask:
    """From scratch everything learns, normalisations too, at the rate of the head; else as the paper fine-tunes."""
    settings = bench.task.settings._replace(
        most_epochs=schedule.most_epochs,
        patience=schedule.patience,
        seed=bench.seed + repeat,
        lanes=LANES if n_training >= LANES else 1,
    )
    if prepared.tensors is None:
        settings = settings._replace(learning_rate=bench.head_learning_rate)
    return bench.task._replace(depth=None if prepared.tensors is None else depth, settings=settings)


def _state(bench: Bench, encoder: dict[str, torch.Tensor] | None, repeat: int) -> dict[str, torch.Tensor]:
    """Begin with an encoder, or random weights, and a random head."""
    task, seed = bench.task, bench.seed + repeat
    return initial(task.architecture, task.load.preset.n_bands, task.head, task.n_outputs, seed, encoder)


def _inputs(bench: Bench, canvases: Any, training: np.ndarray, validation: np.ndarray) -> Inputs:
    return Inputs(canvases, None, bench.labels.targets, training, validation)
