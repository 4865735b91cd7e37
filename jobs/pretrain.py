"""Job: pretrain. Cutouts and volunteer votes become an encoder that predicts what volunteers answer, and its head."""

from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.canvases import Looked, canvas_bytes, canvas_task, look
from engine.cluster.session import connect
from engine.cluster.training import INITIAL, Inputs, Trained, TrainTask, build, initial, predict_rows
from engine.compute.digest import table_digest
from engine.compute.epochs import LANES
from engine.compute.plan import plan_objects
from engine.compute.rejects import rejects_table
from engine.compute.training import Settings
from engine.compute.vote_metrics import Calibration, judge_votes
from engine.storage.artefacts import encode, library_versions, utc_now
from engine.storage.catalogue import read_catalogue
from engine.storage.lease import lease
from engine.storage.models import encoder_id_of, finished_model, write_network
from engine.storage.parquet import write_table
from engine.storage.pins import locate_cutouts
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from engine.storage.votes import read_votes
from engine.storage.weights import check_source, write_tensors
from jobs.evaluation_plots import vote_plots
from jobs.report import console, note, progress, warn
from jobs.training import choose_workers, parts_of, train_shown
from jobs.weights import encoder_weights
from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileRecord, content_id
from schemas.model import MODEL, PARTS, SPLITS, Model, PretrainJob
from schemas.preset import Preset, load_preset
from schemas.reject import RejectReason
from schemas.tables import DEC, OBJECT_ID, RA, REASON
from schemas.tree import Tree, load_tree


class _Given(NamedTuple):
    objects: pa.Table
    """With pins, in sky order."""
    votes: np.ndarray
    """(n, answers) int32."""
    rejects: pa.Table
    counts: dict[str, int]


def run(job: PretrainJob) -> Model:
    """Train an encoder on votes, or go on where an earlier run of the same job stopped.

    Raises
    ------
    InputNotFoundError
        There is no catalogue, no votes table, or no weights.
    DataError
        Votes do not fit the tree, or too few objects have votes and a cutout.
    ConfigError
        The tree, a question, the preset, the architecture or the workers cannot be.
    OutputError
        The output holds another model.
    """
    started = perf_counter()
    tree, preset = load_tree(job.tree), load_preset(job.preset)
    asked = tree.only(job.questions) if job.questions else tree
    if job.weights:
        check_source(job.weights)
    store = Store(job.output)
    given = _read(job, asked)
    weights, weights_sha256 = encoder_weights(job.architecture, job.weights, preset)
    identity = _identity(job, asked, preset, given, weights_sha256)
    with lease(store):
        if done := finished_model(store, identity):
            note("pretrain", f"the model is in {store.uri()} already")
            return done
        resources = connect(job.ray)
        device, workers = choose_workers(job.training.device, job.training.workers, resources)
        task = _task(job, asked, preset, store, content_id(identity), device)
        keep = canvas_bytes(len(given.objects), preset) <= job.training.memory_mib << 20
        with progress("look", len(given.objects), "cutouts") as advance:
            looked = look(given.objects, task.load, keep, advance)
        given, canvases = _usable(given, looked)
        parts = parts_of(given.objects, job.split, job.training.seed, {"train": LANES, "validation": 1, "test": 1})
        work = store.below(paths.work(task.run_id))
        if not work.exists(INITIAL):
            state = initial(job.architecture, preset.n_bands, task.head, task.n_outputs, job.training.seed, weights)
            write_tensors(work, INITIAL, state)
        rows = {part: np.flatnonzero(parts == part) for part in PARTS}
        inputs = Inputs(canvases, given.objects, given.votes, rows["train"], rows["validation"])
        trained = train_shown(task, inputs, workers, resources.cores)
        model = _finish(job, asked, preset, identity, given, parts, task, inputs, trained, store, started)
        store.delete_folder(paths.work(task.run_id))
    _show(model, store)
    return model


def _read(job: PretrainJob, tree: Tree) -> _Given:
    """Read the catalogue's objects that have votes, and their votes."""
    votes = read_votes(job.votes, tree, job.votes_id_column)
    catalogue = read_catalogue(job.catalogue)
    n_votes, n_objects = len(votes), len(catalogue)
    ids = as_ids(votes[OBJECT_ID].combine_chunks(), catalogue.schema.field(OBJECT_ID).type)
    n_known = int(pc.sum(pc.is_in(ids, value_set=catalogue[OBJECT_ID])).as_py() or 0)
    if n_known == 0:
        raise DataError(f"votes: expected votes for objects of the catalogue, found none among {n_votes:,}")
    if n_known < n_votes:
        warn(f"{n_votes - n_known:,} of {n_votes:,} rows of votes are of objects that the catalogue does not have")
    planned = plan_objects(
        catalogue.filter(pc.is_in(catalogue[OBJECT_ID], value_set=ids)),
        keep_first_duplicate=job.catalogue.on_duplicate == "first",
    )
    at = pc.index_in(planned.objects[OBJECT_ID], value_set=ids).to_numpy()
    counted = np.stack([votes[column].to_numpy() for column in tree.columns], axis=1)[at]
    answered = counted.sum(axis=1) > 0
    counts = {"catalogue": n_objects, "votes": n_votes, "unknown": n_votes - n_known}
    counts["without_votes"] = int((~answered).sum())
    counts["duplicates"] = pc.sum(pc.equal(planned.rejects[REASON], RejectReason.DUPLICATE_ID)).as_py() or 0
    return _Given(
        locate_cutouts(planned.objects.filter(pa.array(answered))), counted[answered], planned.rejects, counts
    )


def _identity(
    job: PretrainJob, tree: Tree, preset: Preset, given: _Given, weights_sha256: str | None
) -> dict[str, Any]:
    training = job.training.model_dump(mode="json", exclude={"workers", "device", "memory_mib", "checkpoint_seconds"})
    return {
        "objects": table_digest(given.objects),
        "votes": table_digest(pa.table({name: given.votes[:, at] for at, name in enumerate(tree.columns)})),
        "tree": tree.model_dump(mode="json", exclude={"description"}),
        "architecture": job.architecture,
        "weights": weights_sha256,
        "preset": preset.settings,
        "cutouts": job.cutouts.model_dump(mode="json", exclude={"max_seconds"}),
        "split": job.split.model_dump(mode="json"),
        "training": training,
    }


def _task(job: PretrainJob, tree: Tree, preset: Preset, store: Store, run_id: str, device: str) -> TrainTask:
    training = job.training
    return TrainTask(
        output=store.uri(),
        run_id=run_id,
        architecture=job.architecture,
        load=canvas_task(preset, job.cutouts),
        crop=preset.crop,
        head="linear",
        n_outputs=len(tree.columns),
        dropout=training.dropout,
        questions=tuple(len(question.answers) for question in tree.questions),
        kind="counts",
        depth=None,
        layer_decay=None,
        settings=Settings(
            most_epochs=training.most_epochs,
            patience=training.patience,
            batch=training.batch,
            learning_rate=training.learning_rate,
            seed=training.seed,
            cosine=training.rate == "cosine",
            bfloat16=training.precision == "bfloat16",
            device=device,
        ),
        checkpoint_s=training.checkpoint_seconds,
    )


def _usable(given: _Given, looked: Looked) -> tuple[_Given, np.ndarray | None]:
    """Leave out what was rejected."""
    bad = sorted(looked.rejects)
    good = np.setdiff1d(np.arange(len(given.objects)), bad)
    rejects = rejects_table(given.objects.take(pa.array(bad, pa.int64())), [looked.rejects[row] for row in bad])
    if bad:
        reasons = [looked.rejects[row].reason for row in bad]
        warn(f"{len(bad):,} cutouts are rejected, the first as {reasons[0]}: {looked.rejects[bad[0]].detail}")
    left = given._replace(
        objects=given.objects.take(pa.array(good)).combine_chunks(),
        votes=given.votes[good],
        rejects=pa.concat_tables([given.rejects, rejects]),
    )
    canvases = looked.canvases if looked.canvases is None or not bad else looked.canvases[good]
    return left, canvases


def _finish(
    job: PretrainJob,
    tree: Tree,
    preset: Preset,
    identity: dict[str, Any],
    given: _Given,
    parts: np.ndarray,
    task: TrainTask,
    inputs: Inputs,
    trained: Trained,
    store: Store,
    started: float,
) -> Model:
    """Measure on the test part, and write everything."""
    test = np.flatnonzero(parts == "test")
    outputs = predict_rows(build(task, trained.tensors), task, inputs, test)
    metrics, calibration = judge_votes(outputs, given.votes[test], tree)
    files = write_network(store, trained.tensors)
    columns = {name: given.objects[name] for name in (OBJECT_ID, RA, DEC)} | {"part": pa.array(parts.tolist())}
    files += [write_table(store, SPLITS, pa.table(columns)), write_table(store, paths.REJECTS, given.rejects)]
    files += _pictures(store, trained, calibration)
    counted = {part: int((parts == part).sum()) for part in PARTS}
    model = Model(
        identity=identity,
        kind="votes",
        names=list(tree.columns),
        head=task.head,
        dimension=trained.tensors["head.0.weight"].shape[1],
        architecture=job.architecture,
        preset=preset.settings,
        encoders=[encoder_id_of(files, job.architecture, preset.n_bands)],
        tree=tree.model_dump(mode="json"),
        counts={**given.counts, "rejected": len(given.rejects) - given.counts["duplicates"], **counted},
        metrics=metrics,
        best_epoch=trained.best_epoch,
        training_losses=trained.training_losses,
        validation_losses=trained.validation_losses,
        files=files,
        versions=library_versions(),
        durations_s={"total": perf_counter() - started},
        created_utc=utc_now(),
    )
    store.create(MODEL, encode(model))
    return model


def _pictures(store: Store, trained: Trained, calibration: list[Calibration]) -> list[FileRecord]:
    return [store.write(name, data) for name, data in vote_plots(trained, calibration).items()]


def _show(model: Model, store: Store) -> None:
    counts = model.counts
    note(
        "pretrain",
        f"{counts['votes']:,} rows of votes = {counts['train']:,} trained + {counts['validation']:,} validated + "
        f"{counts['test']:,} tested + {counts['rejected']:,} rejected + {counts['without_votes']:,} without votes + "
        f"{counts['unknown']:,} of unknown objects; best epoch {model.best_epoch + 1} of {len(model.training_losses)}",
    )
    table = Table("on the test part", "loss", "error of fractions", box=SIMPLE_HEAD)
    for name in (key.removeprefix("loss ") for key in model.metrics if key.startswith("loss ")):
        table.add_row(name, f"{model.metrics[f'loss {name}']:.3f}", f"{model.metrics[f'error {name}']:.3f}")
    console.print(table)
    note("model", f"{store.uri()}; use it: voorwerp release --weights {store.uri()} ...")
