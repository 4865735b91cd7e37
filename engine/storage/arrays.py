"""Named arrays as safetensors, and readable JSON beside them."""

import json
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord


def write_arrays(store: Store, path: str, arrays: dict[str, np.ndarray]) -> FileRecord:
    """Write named arrays as safetensors, atomically."""
    return store.write(path, save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(store: Store, path: str) -> dict[str, np.ndarray]:
    """Read named arrays.

    Raises
    ------
    IntegrityError
        The file is no whole safetensors file.
    """
    try:
        return load(store.read(path))
    except SafetensorError as error:
        raise IntegrityError(f"{store.uri(path)}: not a whole safetensors file: {error}") from error


def write_json(store: Store, path: str, value: Any) -> FileRecord:
    """Write a value as indented JSON, atomically."""
    return store.write(path, (json.dumps(value, indent=1) + "\n").encode())
