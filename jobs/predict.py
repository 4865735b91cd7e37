"""Job: predict. What a model says of every object that its encoder embedded, as a HATS table."""

from time import perf_counter
from typing import NamedTuple

from engine.cluster.finetune import HeadTask, head_task, score_all
from engine.cluster.session import connect
from engine.storage.artefacts import (
    as_parent,
    claimed,
    find,
    finish,
    library_versions,
    partitions_of,
    read_manifest,
    utc_now,
)
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.lease import lease
from engine.storage.models import check_part, read_model
from engine.storage.store import Store
from jobs.report import note, progress, reused
from schemas import paths
from schemas.errors import ConfigError, DataError
from schemas.manifest import FileRecord, Manifest, identity_id
from schemas.model import HEAD, PredictJob
from schemas.partition import PartitionFile


class Written(NamedTuple):
    """A table of scores."""

    partitions: list[PartitionFile]
    files: list[FileRecord]
    n_rows: int


def run(job: PredictJob) -> Manifest:
    """Write what a model says of every object of a release, beside its embeddings.

    Raises
    ------
    InputNotFoundError
        There is no finished model, or nothing was embedded.
    ConfigError
        The release was embedded by another encoder.
    IntegrityError
        The model's files are not those that it was written with.
    """
    started = perf_counter()
    place, store = Store(job.model), Store(job.release)
    model = read_model(place)
    embeddings = read_manifest(store, "embeddings", claimed(store, "embeddings"))
    if embeddings.identity["encoder"] not in model.encoders:
        raise ConfigError(
            f"{store.uri()} was embedded by {embeddings.identity['encoder']}, and {place.uri()} is a head for "
            f"{model.encoders[0]}: embed with it first, voorwerp release --weights {place.uri()} ..."
        )
    head = check_part(place, model, HEAD)
    identity = {"embeddings": embeddings.id, "head_sha256": head.sha256, "kind": model.kind, "names": model.names}
    predictions_id = identity_id("predictions", identity)
    with lease(store):
        if done := find(store, "predictions", predictions_id):
            return reused(done)
        connect(job.ray)
        source = store.below(paths.artefact("embeddings", embeddings.id))
        target = store.below(paths.artefact("predictions", predictions_id))
        written = write_scores(source, embeddings, target, "", head_task(model, place))
        manifest = Manifest(
            kind="predictions",
            id=predictions_id,
            identity=identity,
            parents={"embeddings": as_parent(embeddings)},
            counts={"predicted": written.n_rows},
            detail={"model": place.uri(), "partitions": [part.model_dump(mode="json") for part in written.partitions]},
            files=written.files,
            versions=library_versions(),
            durations_s={"predict": perf_counter() - started},
            created_utc=utc_now(),
        )
        manifest = finish(store, manifest)
    note("predict", f"{written.n_rows:,} objects in {store.uri(paths.artefact('predictions', predictions_id))}")
    return manifest


def write_scores(source: Store, embeddings: Manifest, target: Store, folder: str, task: HeadTask) -> Written:
    """Write what a head says of every object as a HATS catalogue in a folder of the target."""
    partitions = partitions_of(embeddings)
    if not partitions:
        raise DataError(f"{source.uri()}: no object was embedded")
    place = target.below(folder) if folder else target
    with progress("score", embeddings.counts["embedded"], "objects") as advance:
        written = score_all(source, place, partitions, task, advance)
    n_rows = sum(part.n_rows for part in written)
    metadata = write_hats_metadata(place, folder or "predictions", [part.partition for part in written], n_rows)
    files = [*(part.file for part in written), *metadata]
    if folder:
        files = [file.model_copy(update={"path": f"{folder}/{file.path}"}) for file in files]
    return Written(written, files, n_rows)
