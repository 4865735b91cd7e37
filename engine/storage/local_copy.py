"""Files of a manifest as files on this machine's disk, to map into memory; those of an object store are copied once."""

import hashlib
import os
from pathlib import Path

import pyarrow as pa

from engine.storage.failures import explained
from engine.storage.store import Store
from schemas.errors import InputNotFoundError, IntegrityError
from schemas.manifest import FileRecord

_BLOCK_BYTES = 1 << 22


def verified_path(store: Store, record: FileRecord) -> Path:
    """Return a local path of a file whose hash has just been checked.

    Copies of remote files are kept under `$XDG_CACHE_HOME/voorwerp` (else `~/.cache/voorwerp`), named by their hash;
    they may be deleted at any time, and one that was damaged is made again.

    Raises
    ------
    IntegrityError
        The file is missing, or not the one that the manifest names.
    StoreError
        The store, or the disk for copies, failed or refused.
    """
    if not store.is_local:
        return _copied(store, record)
    path = Path(store.full_path(record.path))
    _check(_sha256(path), store, record)
    return path


def cache_folder() -> Path:
    """Folder of the copies."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voorwerp"


def _copied(store: Store, record: FileRecord) -> Path:
    copies, name = Store(str(cache_folder())), f"{record.sha256}{Path(record.path).suffix}"
    path = Path(copies.full_path(name))
    if _sha256(path) == record.sha256:
        return path

    def copy(file: pa.NativeFile) -> None:
        with copies.writing(name) as sink:
            while block := file.read(_BLOCK_BYTES):
                sink.write(block)
            _check(sink.record.sha256, store, record)

    try:
        store.reading(record.path, copy)
    except InputNotFoundError:
        _check(None, store, record)
    return path


def _sha256(path: Path) -> str | None:
    """Hash a local file; None where there is none."""
    try:
        with explained(str(path)), path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except InputNotFoundError:
        return None


def _check(found: str | None, store: Store, record: FileRecord) -> None:
    if found is None:
        raise IntegrityError(f"{store.uri(record.path)}: missing, although a manifest names it")
    if found != record.sha256:
        raise IntegrityError(f"{store.uri(record.path)}: expected SHA-256 {record.sha256}, found {found}")
