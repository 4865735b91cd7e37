"""Coverage maps of the sky: MOCs in, as FITS, JSON or text, and out, as FITS."""

import json
import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from mocpy import MOC

from engine.storage.store import Store
from schemas.errors import DataError

_NO_MOC = (OSError, ValueError, TypeError, KeyError, RecursionError)
_ORDERS = frozenset(map(str, range(30)))
_SAID = 200
"""Characters at most of what is quoted."""


def read_moc(uri: str) -> MOC:
    """Read a multi-order coverage map (IVOA MOC 2.0): FITS, JSON, or text such as `3/1,3-5 4/20`.

    Raises
    ------
    InputNotFoundError
        Nothing is there.
    DataError
        The file is no coverage map of the sky.
    """
    store = Store(uri)
    data = store.read("")
    try:
        if data.startswith(b"SIMPLE"):
            with TemporaryDirectory() as folder:
                path = Path(folder) / "moc.fits"
                path.write_bytes(data)
                return MOC.load(path, format="fits")
        return _parsed(data.decode())
    except _NO_MOC as error:
        raise DataError(f"{store.uri()}: expected a MOC as FITS, JSON or text: {error}") from error


def parse_moc(text: str) -> MOC:
    """Read a multi-order coverage map from JSON, or text such as `3/1,3-5 4/20`.

    Raises
    ------
    DataError
        The text is no coverage map of the sky.
    """
    try:
        return _parsed(text)
    except _NO_MOC as error:
        said = " ".join(str(error).split())[:_SAID]
        raise DataError(f"moc: expected a MOC as JSON, or as text such as 3/1,3-5 4/20: {said}") from error


def write_moc(cells: np.ndarray, order: int) -> bytes:
    """Write the coverage map of HEALPix cells (nested) of one order, each once, as FITS."""
    moc = MOC.from_healpix_cells(cells.astype(np.uint64), np.uint8(order), order)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "moc.fits"
        moc.save(path, format="fits")
        return path.read_bytes()


def _parsed(text: str) -> MOC:
    text = text.strip()
    if text.startswith("{"):
        _check_cells(json.loads(text))
        return MOC.from_string(text, format="json")
    orders = re.findall(r"([^\s,]*)\s*/", text)
    if not set(orders) <= _ORDERS:
        raise ValueError(f"expected orders from 0 to 29, found {', '.join(orders)[:_SAID]}")
    return MOC.from_string(" ".join(text.replace(",", " ").split()), format="ascii")


def _check_cells(cells: dict[str, Any]) -> None:
    """Refuse what mocpy would leave out without a word: orders and cells that there are not."""
    for order, pixels in cells.items():
        if order not in _ORDERS or not isinstance(pixels, list):
            raise ValueError(f"expected lists of cells by their order from 0 to 29, found {order[:_SAID]!r}")
        n_pixels = 12 << 2 * int(order)
        wrong = [pixel for pixel in pixels if type(pixel) is not int or not 0 <= pixel < n_pixels]
        if wrong:
            raise ValueError(f"expected cells of order {order} from 0 to {n_pixels - 1}, found {str(wrong[0])[:_SAID]}")
