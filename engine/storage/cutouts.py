"""Cutouts in: the bytes behind a URI, or a reject with its reason."""

import os

from engine.storage.images import CutoutError
from engine.storage.store import Store, split_uri
from schemas.errors import ConfigError, InputNotFoundError
from schemas.reject import RejectReason


def read_cutout(uri: str | None, max_bytes: int) -> bytes:
    """Read a cutout's bytes.

    Raises
    ------
    CutoutError
        `not_found` where nothing is stored at the URI, `too_large` above `max_bytes`.
    StoreError
        The store failed: a fault of the environment, which stops the unit instead of rejecting the row.
    """
    if not uri:
        raise CutoutError(RejectReason.NOT_FOUND, "the catalogue names no cutout")
    try:
        scheme, path = split_uri(uri)
        found = os.path.isfile(path) if scheme == "file" else all(path.split("/"))
        if not found or (scheme == "s3" and "/" not in path):
            raise CutoutError(RejectReason.NOT_FOUND, f"no file at {uri}")
        with Store(uri).open("") as file:
            size = file.size()
            if size > max_bytes:
                raise CutoutError(RejectReason.TOO_LARGE, f"{size} bytes, more than max_bytes {max_bytes}")
            return file.read()
    except (InputNotFoundError, ConfigError, ValueError) as error:
        raise CutoutError(RejectReason.NOT_FOUND, str(error)) from error
