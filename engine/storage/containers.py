"""Containers of cutouts: columns of images in Parquet, stacks of images in HDF5. Each is read from several threads."""

import math
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.storage.images import CutoutError
from schemas.errors import StoreError
from schemas.reject import RejectReason

ROW_GROUPS_KEPT = 4
"""Of a column: rows of a packed catalogue follow each other, and threads are a little apart."""
MOST_PIECE_BYTES = 2**30
"""Of a row group or HDF5 chunk, which is read whole for one cutout."""


class ImageColumn:
    """A column of encoded images: binary, or a struct with a binary field `bytes` as Hugging Face writes it."""

    def __init__(self, file: pa.NativeFile, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._groups: OrderedDict[int, pa.Array] = OrderedDict()
        with _damage(RejectReason.DECODE_ERROR, "not a Parquet file"):
            self._parquet = pq.ParquetFile(file, page_checksum_verification=True)
            metadata = self._parquet.metadata
            field = self._parquet.schema_arrow.field(name)
            self._starts = np.cumsum(
                [0, *(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))]
            )
        is_struct = pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
        self._path = f"{name}.bytes" if is_struct else name

    def image(self, row: int) -> bytes:
        """Read the encoded image of a row.

        Raises
        ------
        CutoutError
            `not_found` of a row that is not there or null, `integrity` of a damaged page, `decode_error` or
            `too_large` of a column that cannot be read.
        StoreError
            The store failed.
        """
        if not 0 <= row < self._starts[-1]:
            raise CutoutError(RejectReason.NOT_FOUND, f"row {row} of {self._starts[-1]}")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock:
            if group not in self._groups:
                self._groups[group] = self._read(group)
            self._groups.move_to_end(group)
            while len(self._groups) > ROW_GROUPS_KEPT:
                self._groups.popitem(last=False)
            images = self._groups[group]
        data = images[row - self._starts[group]].as_py()
        if data is None:
            raise CutoutError(RejectReason.NOT_FOUND, f"no image in row {row} of column {self._name}")
        return data

    def _read(self, group: int) -> pa.Array:
        chunks = (
            self._parquet.metadata.row_group(group).column(place) for place in range(self._parquet.metadata.num_columns)
        )
        n_bytes = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == self._path)
        if n_bytes > MOST_PIECE_BYTES:
            raise CutoutError(
                RejectReason.TOO_LARGE, f"row group {group} of {n_bytes} bytes, more than {MOST_PIECE_BYTES}"
            )
        with _damage(RejectReason.INTEGRITY, f"row group {group} is damaged"):
            column = self._parquet.read_row_group(group, columns=[self._path])[self._name].combine_chunks()
            return column.field("bytes") if pa.types.is_struct(column.type) else column


class ImageStack:
    """A dataset of images along its first axis: (n, height, width), (n, height, width, bands) or with bands second."""

    def __init__(self, file: pa.NativeFile, name: str) -> None:
        import h5py

        self._lock = threading.Lock()
        with _damage(RejectReason.DECODE_ERROR, "not a readable HDF5 file"):
            found = h5py.File(file, "r")[name]
        if not isinstance(found, h5py.Dataset) or found.ndim not in (3, 4) or found.dtype.kind not in "uif":
            raise CutoutError(RejectReason.SHAPE, f"{name} is no stack of images")
        if found.is_virtual or found.external:
            raise CutoutError(RejectReason.DECODE_ERROR, f"{name} lies in other files, which are not opened")
        n_bytes = math.prod(found.chunks or found.shape[1:]) * found.dtype.itemsize
        if n_bytes > MOST_PIECE_BYTES:
            raise CutoutError(RejectReason.TOO_LARGE, f"chunks of {n_bytes} bytes, more than {MOST_PIECE_BYTES}")
        self._images = found

    def image(self, row: int) -> np.ndarray:
        """Read the pixels of an image, in the stack's own dtype and order of axes.

        Raises
        ------
        CutoutError
            `not_found` of a row that is not there, or `integrity` of a damaged chunk.
        StoreError
            The store failed.
        """
        if not 0 <= row < len(self._images):
            raise CutoutError(RejectReason.NOT_FOUND, f"row {row} of {len(self._images)}")
        with self._lock, _damage(RejectReason.INTEGRITY, "a chunk is damaged"):
            return np.asarray(self._images[row])


@contextmanager
def _damage(reason: RejectReason, what: str) -> Iterator[None]:
    """Tell damage, which rejects the cutout, from a store that fails, which stops the unit."""
    try:
        yield
    except (CutoutError, StoreError):
        raise
    except Exception as error:  # Arrow and h5py raise many types on damaged files; each means the same here.
        if "AWS Error" in str(error):
            raise StoreError(f"the store failed: {error}") from error
        raise CutoutError(reason, f"{what}: {type(error).__name__}: {error}"[:200]) from error
