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
from schemas.errors import IntegrityError, NoEncoderError
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


class Placement:
    """The way of an image into the component space of a release: its encoder, preset and settings, then its projection.

    Parameters
    ----------
    release : OpenRelease
    device : str
    threads : int
    max_seconds : float, optional
        That reading and decoding an image may take; as cutouts do when not given.

    Raises
    ------
    NoEncoderError
        The encoder or the components' fit is not there, or not the one that the release was made with.
    StoreError
        A store failed.
    """

    def __init__(self, release: OpenRelease, device: str, threads: int, max_seconds: float | None = None) -> None:
        embeddings = parent_of(release.store, release.components, "embeddings")
        encoder = parent_of(release.store, embeddings, "encoder")
        try:
            _check(release.store, encoder, paths.WEIGHTS)
            _check(release.store, release.components, paths.PCA_TENSORS)
        except IntegrityError as error:
            raise NoEncoderError(str(error)) from error
        task = _task(release.store, embeddings, encoder, device)
        if max_seconds is not None:
            task = task.model_copy(update={"cutouts": task.cutouts.model_copy(update={"max_seconds": max_seconds})})
        self._task, self._threads = task, threads
        _, self._encode = open_encoder(task, threads)
        self._pca = read_pca(release.components_folder)

    def place(self, objects: pa.Table) -> Placed:
        """Embed and project the images that a table of `object_id`, `cutout` and its pin names.

        Random views, where the release averages such, are seeded by the ids.

        Raises
        ------
        StuckError
            An image takes longer than it may.
        StoreError
            A store failed.
        """
        with threaded(self._task, self._threads) as loader:
            found = embed_objects(objects, self._task, self._encode, loader)
        return Placed(project(found.vectors, self._pca), dict(found.rejects))


def place_images(release: OpenRelease, images: Sequence[str], device: str, threads: int) -> Placed:
    """Embed and project images, each of which is its own id; errors as of `Placement`."""
    objects = pa.table({OBJECT_ID: list(images), CUTOUT: [Store(image).uri() for image in images]})
    return Placement(release, device, threads).place(locate_cutouts(objects))


def _task(store: Store, embeddings: Manifest, encoder: Manifest, device: str) -> EmbedTask:
    made = embeddings.identity
    return EmbedTask(
        output=store.uri(),
        objects="",
        encoder_id=encoder.id,
        run_id="",
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
    folder = store.below(paths.artefact(artefact.kind, artefact.id))
    record = next((file for file in artefact.files if file.path == name), None)
    if record is None:
        raise IntegrityError(f"{folder.uri(name)}: no such file is named in the manifest")
    verified_path(folder, record)
