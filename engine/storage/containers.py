"""Containers of cutouts: columns of images in Parquet, stacks of images in HDF5. Each is read from several threads."""

import io
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from engine.storage.images import CutoutError
from engine.storage.s3_file import S3File
from schemas.errors import StoreError, VoorwerpError
from schemas.reject import RejectReason

if TYPE_CHECKING:
    import h5py

MOST_PIECE_BYTES = 2**30
"""Of a row group, or of an image or chunk of an HDF5 stack: they are read whole for one cutout."""
CHUNKS_KEPT_BYTES = 64 * 2**20
"""Of a stack. Chunks that h5py chose hold a part of hundreds of images, and would be unpacked for every one of them."""
_ROWS_AT_ONCE = 64
_READ_BYTES = 8 * 2**20
"""Of a row group at once."""

Found = TypeVar("Found")


class ImageColumn:
    """A column of encoded images: binary, or a struct with a binary field `bytes` as Hugging Face writes it.

    Raises
    ------
    CutoutError
        `decode_error` of a file that is no Parquet or a column that holds no bytes, `not_found` of no such column.
    StoreError
        The store failed.
    """

    def __init__(self, file: pa.NativeFile | S3File, name: str) -> None:
        self._lock = threading.Lock()
        with _damage(RejectReason.DECODE_ERROR, "not a readable Parquet file"):
            # With pre_buffer a file that is open would keep the bytes of the row group that was read last.
            self._parquet = pq.ParquetFile(
                file, page_checksum_verification=True, pre_buffer=False, buffer_size=_READ_BYTES
            )
            metadata, schema = self._parquet.metadata, self._parquet.schema_arrow
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            if min(sizes, default=0) < 0:
                raise ValueError("a row group of fewer rows than none")
            if name not in schema.names:
                raise CutoutError(RejectReason.NOT_FOUND, f"no column {name!r} among {', '.join(schema.names)}"[:200])
            kind = schema.field(name).type
        if not is_image_type(kind):
            raise CutoutError(RejectReason.DECODE_ERROR, f"column {name!r} holds {kind}, no encoded images")
        self._starts = np.cumsum([0, *sizes])
        self._is_struct = pa.types.is_struct(kind)
        self._path = f"{name}.bytes" if self._is_struct else name

    def place(self, row: int) -> tuple[int, int]:
        """Return the row group of a row, and its place there.

        Raises
        ------
        CutoutError
            `not_found` of a row that is not there.
        """
        if not 0 <= row < self._starts[-1]:
            raise CutoutError(RejectReason.NOT_FOUND, f"row {row} of {self._starts[-1]}")
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])

    def read(self, group: int) -> pa.ChunkedArray:
        """Read the images of a row group, twice if it is damaged.

        Raises
        ------
        CutoutError
            `integrity` of a damaged page, `too_large` of more than `MOST_PIECE_BYTES`.
        StoreError
            The store failed.
        """
        with self._lock:
            return _twice(lambda: self._read(group), f"row group {group} is damaged")

    def _read(self, group: int) -> pa.ChunkedArray:
        pieces: list[pa.Array] = []
        n_bytes = 0
        # Counted as it grows: a row group of few bytes can hold one image a million times, and its sizes in the footer
        # are what its writer likes. (pyarrow aborts the process where a damaged footer is asked for them.)
        for rows in self._parquet.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=[self._path]):
            pieces.append(rows.column(0).field("bytes") if self._is_struct else rows.column(0))
            n_bytes += pieces[-1].nbytes
            _check_size(n_bytes, "a row group")
        images = pa.chunked_array(pieces)
        expected = int(self._starts[group + 1] - self._starts[group])
        if len(images) != expected:
            raise ValueError(f"{len(images)} rows instead of {expected}")
        return images


class ImageStack:
    """A dataset of images along its first axis: (n, height, width), (n, height, width, bands) or with bands second.

    Raises
    ------
    CutoutError
        `decode_error` of a file that is no HDF5, of data in other files and of unknown compression, `not_found` of no
        such dataset, `shape` of one that holds no images, `too_large` of more than `MOST_PIECE_BYTES`.
    StoreError
        The store failed.
    """

    def __init__(self, file: pa.NativeFile | S3File, name: str) -> None:
        self._lock = threading.Lock()
        with _damage(RejectReason.DECODE_ERROR, "not a readable HDF5 file"):
            self._images = _open_dataset(file, name)

    def image(self, row: int) -> np.ndarray:
        """Read the pixels of an image, in the stack's own dtype and order of axes; twice if they are damaged.

        Raises
        ------
        CutoutError
            `not_found` of a row that is not there, or `integrity` of a damaged chunk.
        StoreError
            The store failed.
        """
        if not 0 <= row < self._images.shape[0]:
            raise CutoutError(RejectReason.NOT_FOUND, f"row {row} of {self._images.shape[0]}")
        with self._lock:
            return _twice(lambda: np.asarray(self._images[row]), "a chunk is damaged")


def is_image_type(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold encoded images."""
    if pa.types.is_struct(kind) and (place := kind.get_field_index("bytes")) >= 0:
        kind = kind.field(place).type
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


class _Whole(io.RawIOBase):
    """What h5py reads from. It would take uninitialised memory for what a short read leaves out: an error here."""

    def __init__(self, file: pa.NativeFile | S3File) -> None:
        self._file = file

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        n_bytes = self._file.readinto(buffer)
        if n_bytes < len(buffer):
            raise EOFError(f"{n_bytes} bytes instead of {len(buffer)}")
        return n_bytes


def _open_dataset(file: pa.NativeFile | S3File, name: str) -> "h5py.Dataset":
    import h5py

    stack = h5py.File(_Whole(file), "r")
    if name not in stack:
        raise CutoutError(RejectReason.NOT_FOUND, f"no dataset {name!r}")
    found = stack[name]
    if not isinstance(found, h5py.Dataset) or found.ndim not in (3, 4) or found.dtype.kind not in "uif":
        raise CutoutError(RejectReason.SHAPE, f"{name!r} is no stack of images")
    if found.is_virtual or found.external:
        raise CutoutError(RejectReason.DECODE_ERROR, f"{name!r} lies in other files, which are not opened")
    filters = found.id.get_create_plist()
    for code, _, _, label in map(filters.get_filter, range(filters.get_nfilters())):
        if not h5py.h5z.filter_avail(code):
            raise CutoutError(RejectReason.DECODE_ERROR, f"{name!r} needs the HDF5 filter {code} ({label.decode()})")
    chunk, shape, itemsize = found.chunks, found.shape[1:], found.dtype.itemsize
    _check_size(max(math.prod(chunk or ()), math.prod(shape)) * itemsize, "an image or chunk")
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    if chunk:
        n_chunks = math.prod(-(-side // part) for side, part in zip(shape, chunk[1:], strict=True))
        # HDF5 advises a hundred slots for each of the chunks that one image lies in.
        n_slots = min(100 * n_chunks, 10**6) + 1
        access.set_chunk_cache(n_slots, min(n_chunks * math.prod(chunk) * itemsize, CHUNKS_KEPT_BYTES), 0.75)
    del found  # A dataset that is open would keep its settings.
    return h5py.Dataset(h5py.h5d.open(stack.id, name.encode(), access))


def _check_size(n_bytes: int, what: str) -> None:
    if n_bytes > MOST_PIECE_BYTES:
        raise CutoutError(RejectReason.TOO_LARGE, f"{what} of {n_bytes} bytes, more than {MOST_PIECE_BYTES}")


def _twice(read: Callable[[], Found], what: str) -> Found:
    """Read once more what is damaged: bytes may have changed on their way."""
    try:
        with _damage(RejectReason.INTEGRITY, what):
            return read()
    except CutoutError as error:
        if error.reason is not RejectReason.INTEGRITY:
            raise
    with _damage(RejectReason.INTEGRITY, what):
        return read()


@contextmanager
def _damage(reason: RejectReason, what: str) -> Iterator[None]:
    """Tell damage, which rejects the cutout, from a store that fails, which stops the unit."""
    try:
        yield
    except (CutoutError, VoorwerpError):
        raise
    except Exception as error:  # Arrow and h5py raise many types on damaged files; each means the same here.
        if getattr(error, "errno", None):  # A disk that fails gives a number, a library of a damaged file never.
            raise StoreError(f"the store failed: {error}") from error
        raise CutoutError(reason, f"{what}: {type(error).__name__}: {error}"[:200]) from error
