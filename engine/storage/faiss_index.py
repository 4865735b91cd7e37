"""FAISS indexes to files and back. Kinds are on an allow-list, judged by a file's first bytes before FAISS sees it."""

from pathlib import Path

import faiss
import pyarrow as pa

from engine.storage.store import Store
from schemas.errors import IntegrityError
from schemas.index import IndexKind
from schemas.manifest import FileRecord

_MARKS: dict[IndexKind, bytes] = {"flat": b"IxFl", "ivf-flat": b"IwFl", "hnsw-flat": b"IHNf"}
"""How files of these kinds begin."""


def write_index(store: Store, path: str, index: faiss.Index) -> FileRecord:
    """Write an index, atomically."""
    return store.write(path, pa.py_buffer(faiss.serialize_index(index)))


def map_index(path: Path, kind: IndexKind, n_rows: int, dimension: int) -> faiss.Index:
    """Map an index into memory, read-only. Its hash must have been checked: FAISS crashes on some files that were cut.

    Raises
    ------
    IntegrityError
        The file is not an L1 index of this kind, number of vectors and dimension.
    """
    with path.open("rb") as file:
        mark = file.read(4)
    if mark != _MARKS[kind]:
        raise IntegrityError(f"{path}: expected a FAISS index of kind {kind} ({_MARKS[kind]!r}), found {mark!r}")
    flags = faiss.IO_FLAG_MMAP if kind == "ivf-flat" else faiss.IO_FLAG_MMAP_IFC
    try:
        index = faiss.read_index(str(path), flags | faiss.IO_FLAG_READ_ONLY)
    except (RuntimeError, IndexError, ValueError, MemoryError) as error:
        raise IntegrityError(f"{path}: not a FAISS index: {error}") from error
    if index.metric_type != faiss.METRIC_L1 or (index.ntotal, index.d) != (n_rows, dimension):
        raise IntegrityError(
            f"{path}: expected {n_rows} vectors of {dimension} components under L1, "
            f"found {index.ntotal} of {index.d} under metric {index.metric_type}"
        )
    return index
