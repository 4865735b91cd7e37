"""Named arrays as safetensors, and readable JSON beside them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord

_TYPES = {"F32": np.float32, "F64": np.float64, "I32": np.int32, "I64": np.int64}
_LARGEST_HEADER = 2**20


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
    return parse_arrays(store.read(path), store.uri(path))


def parse_arrays(data: bytes, where: str) -> dict[str, np.ndarray]:
    """Read named arrays from the bytes of a file; errors as in `read_arrays`."""
    try:
        return load(data)
    except SafetensorError as error:
        raise IntegrityError(f"{where}: not a whole safetensors file: {error}") from error


def map_arrays(path: Path) -> dict[str, np.ndarray]:
    """Map the arrays of a safetensors file into memory, read-only: only what is looked at is read from disk.

    Raises
    ------
    IntegrityError
        The file is no whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size < _LARGEST_HEADER else None
        if not header:
            raise ValueError(f"a header of {size} bytes")
        data = np.memmap(path, np.uint8, "r", offset=8 + size)
        header.pop("__metadata__", None)
        return {
            name: data[slice(*entry["data_offsets"])].view(_TYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}") from error


def write_json(store: Store, path: str, value: Any) -> FileRecord:
    """Write a value as indented JSON, atomically."""
    return store.write(path, (json.dumps(value, indent=1) + "\n").encode())
