"""Models in and out: a folder with `model.json`, the encoder and the head, which a release takes as weights."""

from collections.abc import Sequence

import torch

from engine.storage.artefacts import decode, encoder_identity
from engine.storage.store import Store
from engine.storage.weights import write_tensors
from schemas.errors import InputNotFoundError, IntegrityError, OutputError
from schemas.manifest import FileRecord, identity_id
from schemas.model import ENCODER, HEAD, MODEL, Model


def read_model(store: Store) -> Model:
    """Read what a model is.

    Raises
    ------
    InputNotFoundError
        No finished model is there.
    IntegrityError
        Its record is not valid.
    """
    if not store.exists(MODEL):
        raise InputNotFoundError(f"expected a model, found no {MODEL} in {store.uri()}")
    return decode(Model, store.read(MODEL), store.uri(MODEL))


def finished_model(store: Store, identity: dict[str, object]) -> Model | None:
    """Return the model of an output if it is the one of this identity, or None where none is finished.

    Raises
    ------
    OutputError
        The output holds another model.
    """
    if not store.exists(MODEL):
        return None
    found = read_model(store)
    differ = sorted(key for key in identity if found.identity.get(key) != identity[key])
    if differ:
        raise OutputError(f"{store.uri()}: holds a model made of other {differ[0]}; give another output")
    return found


def write_network(store: Store, tensors: dict[str, torch.Tensor]) -> list[FileRecord]:
    """Write encoder and head of a network's state."""
    parts = {ENCODER: "encoder.", HEAD: "head."}
    return [
        write_tensors(
            store,
            path,
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
        )
        for path, prefix in parts.items()
    ]


def encoder_id_of(files: Sequence[FileRecord], architecture: str, n_bands: int) -> str:
    """Return the id under which a release will know the encoder that is among the files of a model."""
    weights_sha256 = next(file.sha256 for file in files if file.path == ENCODER)
    return identity_id("encoder", encoder_identity(architecture, n_bands, weights_sha256))


def check_part(store: Store, model: Model, path: str) -> FileRecord:
    """Check that a file of a model is the one that it was written with; return its record.

    Raises
    ------
    IntegrityError
        It is another one, or the model has none of this name.
    """
    record = next((file for file in model.files if file.path == path), None)
    if record is None:
        raise IntegrityError(f"{store.uri(MODEL)}: expected a record of {path}, found none")
    store.read_verified(record)
    return record
