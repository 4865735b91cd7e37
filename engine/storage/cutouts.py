"""Cutouts in: what a reference names, checked against its pin, as encoded bytes or as pixels; or a reject's reason."""

import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pyarrow as pa

from engine.storage.containers import ImageColumn, ImageStack
from engine.storage.failures import explained
from engine.storage.images import CutoutError
from engine.storage.kept import Kept
from engine.storage.pins import Opened, Pin, open_pinned, pin_file, pin_of
from engine.storage.references import Bytes, Cell, is_stack, parse
from schemas.config import CutoutConfig
from schemas.errors import InputNotFoundError
from schemas.reject import RejectReason
from schemas.tables import CUTOUT

READS = 2
"""Of a cutout whose bytes are not what they should be: once more, then it is a reject."""
CONTAINERS_OPEN = 64
ROW_GROUPS_KEPT_BYTES = 256 * 2**20
"""Of all columns together. Rows of a packed catalogue follow each other, and threads are a little apart."""
ROW_GROUPS_READ_AT_ONCE = 4
"""Of different files; those of other people's catalogues hold hundreds of megabytes each."""

LOOKS_AT_ONCE = 16

_MD5 = re.compile("[0-9a-f]{32}")


class CutoutReader:
    """Reads the cutouts of a plan, from several threads. Keeps the containers that it met last open."""

    def __init__(self, limits: CutoutConfig) -> None:
        self._limits = limits
        self._files: Kept[Opened] = Kept(CONTAINERS_OPEN)
        self._containers: Kept[ImageColumn | ImageStack] = Kept(CONTAINERS_OPEN)
        self._row_groups: Kept[pa.ChunkedArray] = Kept(ROW_GROUPS_KEPT_BYTES, lambda images: images.nbytes)
        self._reading = threading.BoundedSemaphore(ROW_GROUPS_READ_AT_ONCE)

    def read(self, text: str | None, pin: Pin | None) -> bytes | np.ndarray:
        """Read one cutout: encoded bytes, or the pixels of a stack.

        Parameters
        ----------
        text : str or None
            A reference (`engine.storage.references`).
        pin : Pin or None
            Of its file when it was planned; None where nothing was there.

        Raises
        ------
        CutoutError
            `not_found`, `changed`, `integrity`, `too_large`, or, of damaged containers, `decode_error` and `shape`.
        StoreError
            The store failed: a fault of the environment, which stops the unit instead of rejecting the row.
        """
        if not text:
            raise CutoutError(RejectReason.NOT_FOUND, "the catalogue names no cutout")
        if not pin:
            raise CutoutError(RejectReason.NOT_FOUND, f"no file was at {text} when the release was planned")
        file, piece = parse(text)
        try:
            return self._cell(file, piece, pin) if isinstance(piece, Cell) else self._bytes(file, piece, pin)
        except InputNotFoundError as error:
            raise CutoutError(RejectReason.NOT_FOUND, f"deleted since it was planned: {error}") from error

    def _bytes(self, file: str, piece: Bytes | None, pin: Pin) -> bytes:
        start, n_bytes = piece or (0, pin.size_bytes)
        self._check_size(n_bytes)
        if start + max(n_bytes, 0) > pin.size_bytes:
            raise CutoutError(RejectReason.INTEGRITY, f"{file}: ends before byte {start + n_bytes}")
        etag = pin.version if self._limits.check_md5 and not piece and _MD5.fullmatch(pin.version) else None
        for _ in range(READS):
            open_file = partial(_open_checked, file, pin)
            opened = self._files.get((file, pin), open_file) if piece else open_file()
            with explained(file):
                data = opened.file.read_at(max(n_bytes, 0), start)
            if len(data) < n_bytes:
                wrong = f"{len(data)} bytes instead of {n_bytes}"
            elif etag and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag:
                wrong = f"not the bytes whose MD5 is the ETag {etag} (if it is no MD5, set cutouts.check_md5: false)"
            else:
                return data
        raise CutoutError(RejectReason.INTEGRITY, f"{file}: {wrong}")

    def _cell(self, file: str, cell: Cell, pin: Pin) -> bytes | np.ndarray:
        key = (file, cell.name, pin)
        container = self._containers.get(key, partial(_open_images, *key))
        if isinstance(container, ImageStack):
            return container.image(cell.row)
        group, place = container.place(cell.row)
        images = self._row_groups.get((*key, group), partial(self._read_group, container, group))
        data = images[place].as_py()
        if data is None:
            raise CutoutError(RejectReason.NOT_FOUND, f"no image in row {cell.row} of column {cell.name!r} of {file}")
        self._check_size(len(data))
        return data

    def _read_group(self, column: ImageColumn, group: int) -> pa.ChunkedArray:
        with self._reading:
            return column.read(group)

    def _check_size(self, n_bytes: int) -> None:
        if n_bytes > self._limits.max_bytes:
            raise CutoutError(RejectReason.TOO_LARGE, f"{n_bytes} bytes, more than max_bytes {self._limits.max_bytes}")


def changed_containers(objects: pa.Table) -> dict[str, str]:
    """Look at the containers of objects that were read once more, for those that are not as planned any more.

    A container stays open while many cutouts are read from it, and an open S3 object may be overwritten. What was
    read before a look that finds nothing is what was planned.

    Parameters
    ----------
    objects : pa.Table
        Rows of a plan.

    Returns
    -------
    dict of str to str
        How each container that changed did, by its URI. Files that are cutouts themselves, and rows without a pin, are
        not looked at.

    Raises
    ------
    StoreError
        The store failed.
    """
    references = [parse(text or "") for text in objects[CUTOUT].to_pylist()]
    found = [(file, pin_of(objects, row)) for row, (file, piece) in enumerate(references) if piece]
    planned = sorted({(file, pin) for file, pin in found if pin})
    with ThreadPoolExecutor(LOOKS_AT_ONCE) as threads:
        pins = list(threads.map(pin_file, [file for file, _ in planned]))
    return {file: _difference(pin, now) for (file, pin), now in zip(planned, pins, strict=True) if pin != now}


def _open_images(file: str, name: str, pin: Pin) -> ImageColumn | ImageStack:
    opened = _open_checked(file, pin)
    return ImageStack(opened.file, name) if is_stack(file) else ImageColumn(opened.file, name)


def _open_checked(file: str, pin: Pin) -> Opened:
    opened = open_pinned(file)
    if opened.pin != pin:
        raise CutoutError(RejectReason.CHANGED, f"{file}: {_difference(pin, opened.pin)}")
    return opened


def _difference(planned: Pin, found: Pin | None) -> str:
    return f"planned as {_words(planned)}, found {_words(found) if found else 'nothing'}"


def _words(pin: Pin) -> str:
    return f"version {pin.version} of {pin.size_bytes} bytes"
