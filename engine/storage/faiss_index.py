"""FAISS shards as bytes, and back. Only kinds on an allow-list are opened, and only bytes whose hash was checked."""

import faiss
import numpy as np

from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord


def write_flat_shard(store: Store, path: str, vectors: np.ndarray) -> FileRecord:
    """Write vectors, (n, d) float32, as an exact L1 index, atomically."""
    index = faiss.IndexFlat(vectors.shape[1], faiss.METRIC_L1)
    index.add(np.ascontiguousarray(vectors, dtype=np.float32))
    return store.write(path, faiss.serialize_index(index).tobytes())


def read_flat_shard(store: Store, record: FileRecord) -> faiss.IndexFlat:
    """Open a shard after checking its hash and kind.

    Raises
    ------
    IntegrityError
        The file is not the one that the manifest names, or no flat L1 index.
    """
    data = store.read_verified(record)
    try:
        index = faiss.deserialize_index(np.frombuffer(data, dtype=np.uint8))
    except (RuntimeError, IndexError, ValueError) as error:
        raise IntegrityError(f"{store.uri(record.path)}: not a FAISS index: {error}") from error
    if type(index) is not faiss.IndexFlat or index.metric_type != faiss.METRIC_L1:
        raise IntegrityError(f"{store.uri(record.path)}: expected a flat L1 index, found {type(index).__name__}")
    return index
