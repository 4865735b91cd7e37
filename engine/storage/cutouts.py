"""Cutouts in: what a reference names, checked against its pin, as encoded bytes or as pixels; or a reject's reason."""

import hashlib
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from engine.storage.containers import ImageColumn, ImageStack
from engine.storage.images import CutoutError
from engine.storage.pins import Opened, Pin, open_pinned
from engine.storage.references import Bytes, Cell, is_stack, parse
from engine.storage.store import explained
from schemas.config import CutoutConfig
from schemas.errors import InputNotFoundError
from schemas.reject import RejectReason

READS = 2
"""Of a cutout whose bytes are not what they should be: once more, then it is a reject."""
CONTAINERS_OPEN = 256

_MD5 = re.compile("[0-9a-f]{32}")

_Container = Opened | ImageColumn | ImageStack


@dataclass
class _Slot:
    """Where a container is opened once, while threads that want another one do not wait."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    container: _Container | None = None


class CutoutReader:
    """Reads the cutouts of a plan, from several threads. Keeps the containers that it met last open."""

    def __init__(self, limits: CutoutConfig) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._containers: OrderedDict[tuple[str, str | None], _Slot] = OrderedDict()

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
            if isinstance(piece, Cell):
                container = self._container(file, piece.name, pin)
                assert isinstance(container, ImageColumn | ImageStack)
                return self._checked_size(container.image(piece.row))
            return self._bytes(file, piece, pin)
        except InputNotFoundError as error:
            raise CutoutError(RejectReason.NOT_FOUND, f"deleted since it was planned: {error}") from error

    def _bytes(self, file: str, piece: Bytes | None, pin: Pin) -> bytes:
        start, n_bytes = piece or (0, pin.size_bytes)
        if n_bytes > self._limits.max_bytes:
            raise self._too_large(n_bytes)
        etag = pin.version if self._limits.check_md5 and not piece and _MD5.fullmatch(pin.version) else None
        for _ in range(READS):
            opened = self._container(file, None, pin) if piece else _open_checked(file, pin)
            assert isinstance(opened, Opened)
            with explained(file):
                data = opened.file.read_at(max(n_bytes, 0), start)
            if len(data) < n_bytes:
                wrong = f"{len(data)} bytes instead of {n_bytes}"
            elif etag and hashlib.md5(data, usedforsecurity=False).hexdigest() != etag:
                wrong = f"not the bytes whose MD5 is the ETag {etag}"
            else:
                return data
        raise CutoutError(RejectReason.INTEGRITY, f"{file}: {wrong}")

    def _container(self, file: str, name: str | None, pin: Pin) -> _Container:
        with self._lock:
            slot = self._containers.setdefault((file, name), _Slot())
            self._containers.move_to_end((file, name))
            if len(self._containers) > CONTAINERS_OPEN:
                self._containers.popitem(last=False)
        with slot.lock:
            if slot.container is None:
                opened = _open_checked(file, pin)
                slot.container = opened if name is None else _as_images(opened, file, name)
            return slot.container

    def _checked_size(self, image: bytes | np.ndarray) -> bytes | np.ndarray:
        if isinstance(image, bytes) and len(image) > self._limits.max_bytes:
            raise self._too_large(len(image))
        return image

    def _too_large(self, n_bytes: int) -> CutoutError:
        return CutoutError(RejectReason.TOO_LARGE, f"{n_bytes} bytes, more than max_bytes {self._limits.max_bytes}")


def _as_images(opened: Opened, file: str, name: str) -> ImageColumn | ImageStack:
    return ImageStack(opened.file, name) if is_stack(file) else ImageColumn(opened.file, name)


def _open_checked(file: str, pin: Pin) -> Opened:
    opened = open_pinned(file)
    if opened.pin != pin:
        raise CutoutError(RejectReason.CHANGED, f"{file}: planned as {_words(pin)}, found {_words(opened.pin)}")
    return opened


def _words(pin: Pin) -> str:
    return f"version {pin.version} of {pin.size_bytes} bytes"
