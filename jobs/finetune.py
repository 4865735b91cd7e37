"""Job: finetune. A few labels of objects of a release become a model, and scores of every object.

embeddings ---> head (seconds) ---> scores of the whole release
|
`---> cutouts ---> head and the last blocks of the encoder (--depth)
"""

from collections.abc import Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.canvases import canvas_bytes, canvas_task
from engine.cluster.finetune import Gathered, HeadTask, gather, gather_objects, score_columns
from engine.cluster.session import Resources, connect
from engine.cluster.training import INITIAL, Inputs, TrainTask, build, predict_rows
from engine.compute.digest import table_digest
from engine.compute.epochs import LANES
from engine.compute.head import Schedule, fit_head, make_head, outputs_of, paper_schedule
from engine.compute.labels import Labels, evaluate, loss_of, scores
from engine.compute.network import HEAD_ONLY, check_depth
from engine.compute.splits import balanced
from engine.compute.training import Settings
from engine.storage.artefacts import current_manifest, encode, library_versions, parent_of, partitions_of, utc_now
from engine.storage.hats_catalogue import read_columns
from engine.storage.labels import LABEL, read_counts, read_labels
from engine.storage.lease import lease
from engine.storage.models import encoder_id_of, finished_model, write_network
from engine.storage.parquet import read_schema, write_table
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from engine.storage.weights import read_tensors, write_tensors
from jobs.evaluation_plots import History, evaluation_plots
from jobs.labels import interpret
from jobs.predict import write_scores
from jobs.report import console, note, progress, warn
from jobs.training import choose_workers, look_at_all, parts_of, train_shown
from schemas import paths
from schemas.config import CutoutConfig
from schemas.errors import DataError
from schemas.manifest import FileRecord, Manifest, content_id
from schemas.model import MODEL, PARTS, RANKED, SCORES, SPLITS, FinetuneJob, Model
from schemas.partition import PartitionFile
from schemas.preset import Preset
from schemas.tables import DEC, OBJECT_ID, RA

_FEWEST = 2
"""Labels that a part needs."""
_RANKED = 1_000
"""Objects that are listed, best first."""


class _Release(NamedTuple):
    store: Store
    embeddings: Manifest
    encoder: Manifest
    partitions: list[PartitionFile]

    @property
    def folder(self) -> Store:
        return self.store.below(paths.artefact("embeddings", self.embeddings.id))

    @property
    def preset(self) -> Preset:
        return Preset.model_validate(self.embeddings.identity["preset"])

    def encoder_tensors(self) -> dict[str, torch.Tensor]:
        return read_tensors(self.store, f"{paths.artefact('encoder', self.encoder.id)}/{paths.WEIGHTS}")


class _Given(NamedTuple):
    """Labelled objects of the release, in order of id."""

    gathered: Gathered
    labels: Labels
    parts: np.ndarray
    training: np.ndarray
    """Rows to train on, rarer classes repeated."""
    schedule: Schedule
    n_labels: int

    def rows(self, part: str) -> np.ndarray:
        return np.flatnonzero(self.parts == part)


class _Trained(NamedTuple):
    tensors: dict[str, torch.Tensor]
    """Of the whole network."""
    history: History
    scored: np.ndarray
    """(n, outputs) scores of the labelled objects."""


def run(job: FinetuneJob) -> Model:
    """Train on labels, measure on those kept apart, and score the whole catalogue.

    Raises
    ------
    InputNotFoundError
        There is no finished release, or no table of labels.
    DataError
        Labels cannot be used: none of objects of the release, one class only, or too few for three parts.
    ConfigError
        The encoder has no such depth.
    OutputError
        The output holds another model.
    """
    started = perf_counter()
    release, store = _open(Store(job.release)), Store(job.output)
    check_depth(release.encoder.identity["architecture"], job.depth)
    if job.count_columns:
        labelled = read_counts(job.labels, job.id_column, job.count_columns)
    else:
        labelled = read_labels(job.labels, job.id_column, job.label_column)
    identity = _identity(job, release, labelled)
    with lease(store):
        if done := finished_model(store, identity):
            note("finetune", f"the model is in {store.uri()} already")
            return done
        resources = connect(job.ray)
        given = _given(job, labelled, release)
        trained = _train_head(job, given, release)
        if job.depth != HEAD_ONLY:
            trained = _train_deep(job, given, trained, release, store, content_id(identity), resources)
        model = _finish(job, identity, release, given, trained, store, started)
        store.delete_folder(paths.work(content_id(identity)))
    _show(model, store)
    return model


def _open(store: Store) -> _Release:
    embeddings = parent_of(store, current_manifest(store, "components"), "embeddings")
    partitions = partitions_of(embeddings)
    if not partitions:
        raise DataError(f"{store.uri()}: no object was embedded")
    return _Release(store, embeddings, parent_of(store, embeddings, "encoder"), partitions)


def _identity(job: FinetuneJob, release: _Release, labelled: pa.Table) -> dict[str, Any]:
    elsewhere = {"release", "labels", "output", "ray", "id_column", "label_column", "device", "memory_mib"}
    settings = job.model_dump(mode="json", exclude=elsewhere)
    return {"embeddings": release.embeddings.id, "labels": table_digest(labelled.sort_by(OBJECT_ID)), **settings}


def _given(job: FinetuneJob, labelled: pa.Table, release: _Release) -> _Given:
    """Find the labelled objects, their embeddings, and who trains, validates and tests."""
    id_type = read_schema(release.folder, release.partitions[0].partition.path).field(OBJECT_ID).type
    ids = as_ids(labelled[OBJECT_ID].combine_chunks(), id_type)
    with progress("gather", len(release.partitions), "partitions") as advance:
        gathered = gather(release.folder, release.partitions, ids, advance)
    found = gathered.objects[OBJECT_ID]
    n_unknown = len(labelled) - len(found)
    if n_unknown:
        warn(f"{n_unknown:,} of {len(labelled):,} labels are of objects that the release does not have")
    if len(found) == 0:
        raise DataError(f"labels: expected labels of objects of {job.release}, found none among {len(labelled):,}")
    given = labelled.take(pc.index_in(found, value_set=ids))
    if job.count_columns:
        counts = np.stack([given[column].to_numpy() for column in job.count_columns], axis=1)
        labels = Labels("counts", job.count_columns, counts.astype(np.float32))
    else:
        labels = interpret(given[LABEL], job.kind, job.positive)
    parts = parts_of(gathered.objects, job.split, job.seed, dict.fromkeys(PARTS, _FEWEST))
    training = np.flatnonzero(parts == "train")
    if labels.strata is not None:
        if len(np.unique(labels.strata[training])) < 2:
            raise DataError("labels: expected at least two classes to train with, found one")
        if job.balance:
            training = training[balanced(labels.strata[training], np.random.default_rng(job.seed))]
    schedule = paper_schedule(len(training))
    schedule = Schedule(job.most_epochs or schedule.most_epochs, schedule.patience)
    return _Given(gathered, labels, parts, training, schedule, len(labelled))


def _train_head(job: FinetuneJob, given: _Given, release: _Release) -> _Trained:
    """Train the head on the embeddings: the encoder stays as it is."""
    features, labels, validation = given.gathered.features, given.labels, given.rows("validation")
    head = make_head(job.head, features.shape[1], labels.n_outputs, job.seed)
    with progress("train", given.schedule.most_epochs, "epochs at most") as advance:
        fitted = fit_head(
            head,
            (features[given.training], labels.targets[given.training]),
            (features[validation], labels.targets[validation]),
            loss_of(labels.kind),
            given.schedule,
            job.seed,
            job.learning_rate,
            job.batch,
            advance,
        )
    tensors = {f"encoder.{name}": value for name, value in release.encoder_tensors().items()}
    tensors |= {f"head.{name}": value for name, value in fitted.head.state_dict().items()}
    scored = scores(outputs_of(fitted.head, features), labels.kind, labels.centre, labels.width)
    return _Trained(tensors, fitted, scored)


def _train_deep(
    job: FinetuneJob,
    given: _Given,
    begun: _Trained,
    release: _Release,
    store: Store,
    run_id: str,
    resources: Resources,
) -> _Trained:
    """Go on from the trained head with the last blocks of the encoder, on the cutouts themselves."""
    labels, preset = given.labels, release.preset
    device, workers = choose_workers(job.device, None, resources)
    with progress("objects", len(release.partitions), "partitions") as advance:
        plan = release.store.below(paths.artefact("plan", release.embeddings.identity["plan"]))
        objects = gather_objects(plan, release.partitions, given.gathered.objects[OBJECT_ID].combine_chunks(), advance)
    load = canvas_task(preset, CutoutConfig.model_validate(release.embeddings.identity["cutouts"]))
    keep = canvas_bytes(len(objects), preset) <= job.memory_mib << 20
    canvases = look_at_all(objects, load, keep, "the release did embed them: they were lost or changed since")
    task = TrainTask(
        output=store.uri(),
        run_id=run_id,
        architecture=release.encoder.identity["architecture"],
        load=load,
        crop=preset.crop,
        head=job.head,
        n_outputs=labels.n_outputs,
        dropout=0.0,
        questions=(),
        kind=labels.kind,
        depth=job.depth,
        layer_decay=job.layer_decay,
        settings=Settings(
            given.schedule.most_epochs,
            given.schedule.patience,
            job.batch,
            job.deep_learning_rate,
            job.seed,
            LANES if len(given.training) >= LANES else 1,
            device=device,
        ),
    )
    work = store.below(paths.work(run_id))
    if not work.exists(INITIAL):
        write_tensors(work, INITIAL, begun.tensors)
    inputs = Inputs(canvases, objects, labels.targets, given.training, given.rows("validation"))
    trained = train_shown(task, inputs, workers, resources.cores)
    outputs = predict_rows(build(task, trained.tensors), task, inputs, np.arange(len(objects)))
    return _Trained(trained.tensors, trained, scores(outputs, labels.kind, labels.centre, labels.width))


def _finish(
    job: FinetuneJob,
    identity: dict[str, Any],
    release: _Release,
    given: _Given,
    trained: _Trained,
    store: Store,
    started: float,
) -> Model:
    """Measure on the test part, score the whole catalogue where its embeddings are this encoder's, write everything."""
    labels, objects, test = given.labels, given.gathered.objects, given.rows("test")
    files = write_network(store, trained.tensors)
    own = encoder_id_of(files, release.encoder.identity["architecture"], release.preset.n_bands)
    columns = {name: objects[name] for name in (OBJECT_ID, RA, DEC)} | {"part": pa.array(given.parts.tolist())}
    if labels.kind == "counts":
        columns |= {name: labels.targets[:, at] for at, name in enumerate(labels.names)}
    else:
        one = labels.targets if labels.targets.ndim == 1 else labels.targets[:, 0] * labels.width + labels.centre
        columns[LABEL] = one
    columns |= score_columns(trained.scored, labels.names)
    files.append(write_table(store, SPLITS, pa.table(columns)))
    tested = labels._replace(targets=labels.targets[test])
    plots = evaluation_plots(tested, trained.scored[test], trained.history)
    files += [store.write(name, data) for name, data in plots.items()]
    shallow = job.depth == HEAD_ONLY
    task = HeadTask(
        store.uri(),
        labels.kind,
        job.head,
        given.gathered.features.shape[1],
        labels.names,
        labels.centre,
        labels.width,
    )
    n_scored = 0
    if shallow:
        written = write_scores(release.folder, release.embeddings, store, SCORES, task)
        files += [*written.files, _rank(store, labels.names)]
        n_scored = written.n_rows
    counts = {part: int((given.parts == part).sum()) for part in PARTS}
    model = Model(
        identity=identity,
        kind=labels.kind,
        names=list(labels.names),
        head=job.head,
        dimension=task.dimension,
        centre=labels.centre,
        width=labels.width,
        architecture=release.encoder.identity["architecture"],
        preset=release.preset.settings,
        encoders=[own, release.encoder.id] if shallow else [own],
        counts={
            "labels": given.n_labels,
            "unknown": given.n_labels - len(given.parts),
            **counts,
            "scored": n_scored,
        },
        metrics=evaluate(tested, trained.scored[test]),
        best_epoch=trained.history.best_epoch,
        training_losses=trained.history.training_losses,
        validation_losses=trained.history.validation_losses,
        files=files,
        versions=library_versions(),
        durations_s={"total": perf_counter() - started},
        created_utc=utc_now(),
    )
    store.create(MODEL, encode(model))
    return model


def _rank(store: Store, names: Sequence[str]) -> FileRecord:
    """Write the objects with the largest scores, best first, for every score."""
    ranked = []
    for name in names:
        column = f"score_{name}"
        table = read_columns(store.below(SCORES), [OBJECT_ID, RA, DEC, column])
        best = table.take(pc.select_k_unstable(table, k=min(_RANKED, len(table)), sort_keys=[(column, "descending")]))
        best = best.sort_by([(column, "descending"), (OBJECT_ID, "ascending")])
        listed = {"of": [name] * len(best), "rank": np.arange(1, len(best) + 1)}
        listed |= {key: best[key] for key in (OBJECT_ID, RA, DEC)}
        ranked.append(pa.table({**listed, "score": best[column]}))
    sink = pa.BufferOutputStream()
    pacsv.write_csv(pa.concat_tables(ranked), sink)
    return store.write(RANKED, bytes(sink.getvalue()))


def _show(model: Model, store: Store) -> None:
    counts = model.counts
    note(
        "finetune",
        f"{counts['labels']:,} labels = {counts['train']:,} trained + {counts['validation']:,} validated + "
        f"{counts['test']:,} tested + {counts['unknown']:,} of unknown objects; best epoch {model.best_epoch + 1}",
    )
    table = Table("on the test part", "value", box=SIMPLE_HEAD)
    for name, value in model.metrics.items():
        table.add_row(name, f"{value:.3f}")
    console.print(table)
    if counts["scored"]:
        note("scores", f"{counts['scored']:,} objects in {store.uri(SCORES)}, the best of them in {store.uri(RANKED)}")
    else:
        note(
            "next",
            f"the encoder changed: voorwerp release --weights {store.uri()} ... embeds with it, then voorwerp predict "
            f"{store.uri()} scores that release",
        )
