"""New images into the component space of a release: read, encoded and projected as its own cutouts were."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from engine.cluster.loading import threaded
from engine.cluster.opened import OpenRelease
from engine.cluster.reduce import read_pca
from engine.cluster.task import EmbedTask, open_encoder
from engine.cluster.unit import embed_objects
from engine.compute.pca import project
from engine.compute.rejects import Reject
from engine.storage.artefacts import parent_of
from engine.storage.local_copy import verified_path
from engine.storage.pins import locate_cutouts
from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig
from schemas.manifest import Manifest
from schemas.preset import Preset
from schemas.tables import CUTOUT, OBJECT_ID

_BATCH = 32


class Placed(NamedTuple):
    """Images in component space."""

    vectors: np.ndarray
    """(n, d) float32; of rejected images, anything."""
    rejects: dict[int, Reject]
    """Of images that cannot be read, by their number."""


def place_images(release: OpenRelease, images: Sequence[str], device: str, threads: int) -> Placed:
    """Embed images with the release's encoder, preset and settings, and project them on its components.

    Random views, where the release averages such, are seeded by the image's name.

    Raises
    ------
    IntegrityError
        The encoder or the components' fit is not the one that the release was made with.
    StoreError
        A store failed.
    """
    embeddings = parent_of(release.store, release.components, "embeddings")
    encoder = parent_of(release.store, embeddings, "encoder")
    _check(release.store, encoder, paths.WEIGHTS)
    _check(release.store, release.components, paths.PCA_TENSORS)
    task = _task(release.store, embeddings, encoder, device)
    objects = locate_cutouts(pa.table({OBJECT_ID: list(images), CUTOUT: [Store(image).uri() for image in images]}))
    _, encode = open_encoder(task, threads)
    with threaded(task, threads) as loader:
        found = embed_objects(objects, task, encode, loader)
    return Placed(project(found.vectors, read_pca(release.components_folder)), dict(found.rejects))


def _task(store: Store, embeddings: Manifest, encoder: Manifest, device: str) -> EmbedTask:
    made = embeddings.identity
    return EmbedTask(
        output=store.uri(),
        plan_id=made["plan"],
        encoder_id=encoder.id,
        embeddings_id=embeddings.id,
        holder="",
        architecture=encoder.identity["architecture"],
        dimension=encoder.detail["dimension"],
        preset=Preset.model_validate(made["preset"]),
        views=made["views"],
        batch_size=_BATCH,
        precision=made["precision"],
        runtime="auto",
        cutouts=CutoutConfig.model_validate(made["cutouts"]),
        device=device,
    )


def _check(store: Store, artefact: Manifest, name: str) -> None:
    record = next(file for file in artefact.files if file.path == name)
    verified_path(store.below(paths.artefact(artefact.kind, artefact.id)), record)
