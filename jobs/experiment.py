"""Job: experiment. Pretrained, ImageNet and scratch encoders, frozen and fine-tuned, with few labels and with many."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.canvases import canvas_task
from engine.cluster.experiment import Bench, Prepared, Split, depths_of, prepare, run_cells
from engine.cluster.session import connect
from engine.cluster.training import TrainTask
from engine.compute.digest import table_digest
from engine.compute.labels import Labels
from engine.compute.network import HEAD_ONLY, check_depth
from engine.compute.plan import plan_objects
from engine.compute.training import Settings
from engine.storage.artefacts import decode, encode
from engine.storage.catalogue import read_catalogue
from engine.storage.labels import LABEL, read_labels
from engine.storage.lease import lease
from engine.storage.pins import locate_cutouts
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from jobs.figure import plotted
from jobs.labels import interpret
from jobs.report import console, note, progress, warn
from jobs.training import choose_workers, look_at_all, parts_of
from jobs.weights import encoder_weights
from schemas.errors import DataError, OutputError
from schemas.experiment import CELLS, EXPERIMENT, RESULTS, SUMMARY, Cell, Experiment, ExperimentJob, cell_name
from schemas.model import Part
from schemas.preset import Preset, load_preset
from schemas.tables import OBJECT_ID

_METRIC = "accuracy"
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#888888", "#b279a2", "#e45756", "#72b7b2")


def run(job: ExperimentJob) -> list[Cell]:
    """Train every cell that is not done yet, then write tables and figures; return all cells.

    Raises
    ------
    InputNotFoundError
        There is no catalogue, no table of labels, or no weights.
    DataError
        Labels are not of two kinds, or there are too few of them for the numbers asked for.
    OutputError
        The output holds another experiment.
    """
    store, preset = Store(job.output), load_preset(job.preset)
    for depth in job.depths:
        check_depth(job.architecture, depth)
    encoders = {name: encoder_weights(job.architecture, source, preset) for name, source in job.encoders.items()}
    objects, labels = _labelled(job)
    identity = _identity(job, preset, objects, labels)
    cells = [
        (encoder, depth, count, repeat)
        for repeat in range(job.repeats)
        for encoder, source in job.encoders.items()
        for depth in depths_of(job.depths, source is None)
        for count in job.counts
    ]
    with lease(store):
        _claim(store, identity)
        done = _done(store, cells, {name: sha256 for name, (_, sha256) in encoders.items()})
        missing = [cell for cell in cells if cell not in done]
        if missing:
            resources = connect(job.ray)
            device, _ = choose_workers("auto", None, resources)
            task = _task(job, preset, labels, store, device)
            canvases = look_at_all(objects, task.load, keep=True, advice="leave them out of the labels")
            assert canvases is not None
            bench = _bench(job, task, objects, labels)
            prepared: dict[str, Prepared] = {}
            with progress("embed", len(encoders), "encoders") as advance:
                for name in sorted({cell[0] for cell in missing}):
                    prepared[name] = prepare(bench, canvases, *encoders[name], resources.cores)
                    advance(1)
            with progress("train", len(cells), "cells", done=len(done)) as advance:
                per_core = max(1.0, resources.logical_cpus / resources.cores - 0.1)
                for cell in run_cells(bench, canvases, prepared, missing, per_core):
                    done[cell.encoder, cell.depth, cell.count, cell.repeat] = cell
                    advance(1)
        found = [done[cell] for cell in cells]
        _write(store, found, job)
    _show(found, store)
    return found


def _labelled(job: ExperimentJob) -> tuple[pa.Table, Labels]:
    """Objects that have a label, with pins of their cutouts, and the labels."""
    given = read_labels(job.labels, job.id_column, job.label_column)
    catalogue = read_catalogue(job.catalogue)
    ids = as_ids(given[OBJECT_ID].combine_chunks(), catalogue.schema.field(OBJECT_ID).type)
    known = catalogue.filter(pc.is_in(catalogue[OBJECT_ID], value_set=ids))
    if len(known) == 0:
        raise DataError(f"labels: expected labels of objects of the catalogue, found none among {len(given):,}")
    objects = plan_objects(known, keep_first_duplicate=job.catalogue.on_duplicate == "first").objects
    column = given[LABEL].take(pc.index_in(objects[OBJECT_ID], value_set=ids))
    return locate_cutouts(objects), interpret(column, "binary", job.positive)


def _bench(job: ExperimentJob, task: TrainTask, objects: pa.Table, labels: Labels) -> Bench:
    splits = []
    for repeat in range(job.repeats):
        fewest: dict[Part, int] = {"train": max(job.counts), "validation": 2, "test": 2}
        parts = parts_of(objects, job.split, job.seed + repeat, fewest)
        rows = np.random.default_rng([job.seed, repeat]).permutation(len(parts))
        training = _alternating(rows[parts[rows] == "train"], labels)
        splits.append(Split(training, np.flatnonzero(parts == "validation"), np.flatnonzero(parts == "test")))
    return Bench(task.output, task, labels, splits, job.most_images, job.learning_rate, job.seed)


def _alternating(rows: np.ndarray, labels: Labels) -> np.ndarray:
    """Take rows of both kinds in turns while there are some of both, so that few labels are of both kinds too."""
    assert labels.strata is not None
    kinds = labels.strata[rows]
    turn = np.zeros(len(rows))
    for kind in (0, 1):
        turn[kinds == kind] = np.arange((kinds == kind).sum()) + kind / 2
    return rows[np.argsort(turn, kind="stable")]


def _task(job: ExperimentJob, preset: Preset, labels: Labels, store: Store, device: str) -> TrainTask:
    return TrainTask(
        output=store.uri(),
        run_id="",
        architecture=job.architecture,
        load=canvas_task(preset, job.cutouts),
        crop=preset.crop,
        head=job.head,
        n_outputs=labels.n_outputs,
        dropout=0.0,
        questions=(),
        kind=labels.kind,
        depth=HEAD_ONLY,
        layer_decay=None,
        settings=Settings(1, 1, job.batch, job.deep_learning_rate, job.seed, device=device),
    )


def _identity(job: ExperimentJob, preset: Preset, objects: pa.Table, labels: Labels) -> dict[str, Any]:
    settings = job.model_dump(
        mode="json",
        exclude={"catalogue", "labels", "output", "ray", "encoders", "preset", "depths", "counts", "repeats"},
    )
    targets = pa.table({OBJECT_ID: objects[OBJECT_ID], LABEL: labels.targets[:, 0]})
    return {
        **settings,
        "objects": table_digest(objects),
        "labels": table_digest(targets),
        "preset": preset.settings,
        "counts": list(job.counts),
    }


def _claim(store: Store, identity: dict[str, Any]) -> None:
    """Give the output to this experiment; more encoders, depths and repeats may be asked for later."""
    mine = Experiment(identity=identity)
    if not store.create(EXPERIMENT, encode(mine)):
        found = decode(Experiment, store.read(EXPERIMENT), store.uri(EXPERIMENT))
        differ = sorted(key for key in identity if found.identity.get(key) != identity[key])
        if differ:
            raise OutputError(f"{store.uri()}: holds an experiment with other {differ[0]}; give another output")


def _done(
    store: Store, cells: Sequence[tuple[str, str, int, int]], weights: dict[str, str | None]
) -> dict[tuple[str, str, int, int], Cell]:
    folder = store.below(CELLS)
    there = set(folder.list())
    found = {}
    for cell in cells:
        path = f"{cell_name(*cell)}.json"
        if path in there:
            found[cell] = decode(Cell, folder.read(path), folder.uri(path))
            if found[cell].weights != weights[cell[0]]:
                raise OutputError(
                    f"{folder.uri(path)}: made with other weights; give the encoder another name than {cell[0]!r}"
                )
    if found:
        note("train", f"{len(found):,} of {len(cells):,} cells already done")
    return found


def summarise(cells: Sequence[Cell]) -> pa.Table:
    """Mean and standard deviation over repeats of every metric, by encoder, depth and number of labels."""
    rows: dict[tuple[str, str, int], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.encoder, cell.depth, cell.count), []).append(cell)
    table = []
    for (encoder, depth, count), group in rows.items():
        row: dict[str, Any] = {"encoder": encoder, "depth": depth, "labels": count, "repeats": len(group)}
        for metric in group[0].metrics:
            values = np.array([cell.metrics[metric] for cell in group])
            row |= {f"{metric}_mean": values.mean(), f"{metric}_sd": values.std(ddof=1) if len(values) > 1 else 0.0}
        table.append(row)
    return pa.Table.from_pylist(table)


def _write(store: Store, cells: Sequence[Cell], job: ExperimentJob) -> None:
    results = pa.Table.from_pylist(
        [{**cell.model_dump(exclude={"format", "metrics"}), **cell.metrics} for cell in cells]
    )
    for path, table in ((RESULTS, results), (SUMMARY, summarise(cells))):
        sink = io.BytesIO()
        pacsv.write_csv(table, sink)
        store.write(path, sink.getvalue())
    for name, data in figures(summarise(cells), list(job.encoders), list(job.depths)).items():
        store.write(name, data)


def figures(summary: pa.Table, encoders: Sequence[str], depths: Sequence[str]) -> dict[str, bytes]:
    """Accuracy by number of labels, as in Figures 7 to 9 of the paper.

    Returns
    -------
    dict of file name to PNG
        `frozen.png`: every encoder frozen; `finetuned.png`: every encoder at the deepest depth; `depths.png`: every
        depth of the first encoder; where there are some.
    """
    rows = summary.to_pylist()
    deepest = [depth for depth in depths if depth != HEAD_ONLY]
    wanted: dict[str, tuple[str, dict[str, list[dict[str, Any]]]]] = {
        "frozen.png": (
            "Head on a frozen encoder",
            {name: [row for row in rows if (row["encoder"], row["depth"]) == (name, HEAD_ONLY)] for name in encoders},
        ),
        "depths.png": (
            f"Depths of {encoders[0]}",
            {
                depth: [row for row in rows if (row["encoder"], row["depth"]) == (encoders[0], depth)]
                for depth in depths
            },
        ),
    }
    if deepest:
        lines = {
            f"{name}, {depth}": [row for row in rows if (row["encoder"], row["depth"]) == (name, depth)]
            for name in encoders
            for depth in deepest[-1:]
        }
        wanted["finetuned.png"] = ("Fine-tuned", lines)
    return {
        name: plotted(lambda axes, title=title, lines=lines: _lines(axes, title, lines), 5.5, 4.5)  # type: ignore[misc]
        for name, (title, lines) in wanted.items()
    }


def _lines(axes: Any, title: str, lines: dict[str, list[dict[str, Any]]]) -> None:
    shown = {name: sorted(rows, key=lambda row: row["labels"]) for name, rows in lines.items() if rows}
    for colour, (name, rows) in zip(_COLOURS * len(shown), shown.items(), strict=False):
        axes.errorbar(
            [row["labels"] for row in rows],
            [row[f"{_METRIC}_mean"] for row in rows],
            [row[f"{_METRIC}_sd"] for row in rows],
            marker="o",
            markersize=4,
            capsize=2,
            color=colour,
            label=name,
        )
    axes.set_xscale("log")
    counts = sorted({row["labels"] for rows in shown.values() for row in rows})
    axes.set_xticks(counts, [f"{count:,}" for count in counts])
    axes.minorticks_off()
    axes.set(title=title, xlabel="labels to train on", ylabel=f"{_METRIC} on the test part, mean and deviation")
    axes.legend(frameon=False, loc="lower right")


def _show(cells: Sequence[Cell], store: Store) -> None:
    counts = sorted({cell.count for cell in cells})
    table = Table("encoder", "depth", *(f"{count:,} labels" for count in counts), box=SIMPLE_HEAD)
    rows = {(row["encoder"], row["depth"], row["labels"]): row for row in summarise(cells).to_pylist()}
    for encoder, depth in dict.fromkeys((cell.encoder, cell.depth) for cell in cells):
        values = [rows[encoder, depth, count] for count in counts]
        table.add_row(encoder, depth, *(f"{row[f'{_METRIC}_mean']:.3f} ± {row[f'{_METRIC}_sd']:.3f}" for row in values))
    console.print(table)
    note("experiment", f"{len(cells):,} cells; tables and figures are in {store.uri()}")
    if any(cell.epochs == cell.best_epoch + 1 for cell in cells):
        warn("some trainings were at their best in their last epoch; most_images may be too small for them")
