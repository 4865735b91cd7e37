"""Pins: which version of every file a plan was made for, so that a file replaced since is noticed, never mixed in."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import pyarrow as pa
from botocore.exceptions import ParamValidationError

from engine.storage.references import Bytes, bytes_of, parse, split_tar_path, stack_reference
from engine.storage.store import Store, explained, s3fs_client, split_uri
from engine.storage.tar import tar_members
from schemas.errors import ConfigError, InputNotFoundError
from schemas.tables import CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION

LISTED_FROM = 32
"""Files of one folder from which listing the folder costs less than asking for each."""
FILES_PER_LISTING = 20_000
"""A folder with more is listed in pieces at once: a listing itself is a chain of pages of 1,000."""
THREADS = 32
_READ_AHEAD = 1 << 16


class Pin(NamedTuple):
    """One version of a file."""

    size_bytes: int
    version: str
    """ETag on S3, modification time in nanoseconds on local disk."""


class Opened(NamedTuple):
    """A file that is open, and its version."""

    file: pa.NativeFile
    """Closed when nothing refers to it any more; `read_at` may be called from several threads."""
    pin: Pin


def open_pinned(uri: str) -> Opened:
    """Open a file for reading and find out its version: on S3 one HEAD for both.

    Raises
    ------
    InputNotFoundError
        No file is there, or the URI can lead to none.
    StoreError
        The store failed or refused.
    """
    store, path = _leading_somewhere(uri)
    with explained(store.uri()):
        modified = os.stat(path).st_mtime_ns if store.is_local else 0
        file = store.keep_open("")
        version = str(modified) if store.is_local else _etag(file.metadata()["ETag"].decode())
        return Opened(file, Pin(file.size(), version))


def pin_file(uri: str) -> Pin | None:
    """Find out the version of a file; None where nothing is. Raises StoreError as `open_pinned`."""
    try:
        store, path = _leading_somewhere(uri)
        if not store.is_local:
            return open_pinned(uri).pin
        with explained(uri):
            found = os.stat(path)
        return Pin(found.st_size, str(found.st_mtime_ns))
    except InputNotFoundError:
        return None


def pin_files(uris: Iterable[str]) -> dict[str, Pin]:
    """Find out the versions of many files, many folders at once; files that are not there are left out.

    Raises
    ------
    StoreError
        The store failed or refused.
    """
    folders: dict[str, list[str]] = {}
    for uri in sorted(set(uris)):
        folders.setdefault(uri.rpartition("/")[0], []).append(uri)
    tasks: list[Callable[[], dict[str, Pin]]] = []
    for folder, files in folders.items():
        listed = folder.startswith("s3://") and len(files) >= LISTED_FROM
        step = FILES_PER_LISTING if listed else LISTED_FROM
        pin = _pin_by_listing if listed else _pin_one_by_one
        tasks += [partial(pin, files[start : start + step]) for start in range(0, len(files), step)]
    pins: dict[str, Pin] = {}
    with ThreadPoolExecutor(THREADS) as threads:
        for found in threads.map(lambda task: task(), tasks):
            pins |= found
    return pins


def pin_catalogue(store: Store) -> list[tuple[str, int, str]]:
    """Pin a file, or every file below a folder: (path, size, version) in order of path.

    Raises
    ------
    StoreError
        The store failed or refused.
    """
    if store.is_file():
        pin = pin_file(store.uri())
        return [("", *pin)] if pin else []
    if store.is_local:
        paths = store.list()
        pins = ((path, pin_file(store.uri(path))) for path in paths)
        return [(path, *pin) for path, pin in pins if pin]
    prefix = f"{store.full_path()}/"
    return sorted((key[len(prefix) :], *pin) for key, pin in _listed(prefix, "", {}))


def locate_cutouts(objects: pa.Table) -> pa.Table:
    """Resolve paths through containers, and pin the file of every cutout.

    Parameters
    ----------
    objects : pa.Table
        With `cutout`.

    Returns
    -------
    pa.Table
        `cutout` holds references, and `cutout_size` (int64) and `cutout_version` (string) come last; null where no
        file is. A member that is not in its tar stays a path, below a file, where nothing is found later.

    Raises
    ------
    StoreError
        The store failed or refused.
    """
    references = resolve(objects[CUTOUT].to_pylist())
    files = [parse(text).file if text else None for text in references]
    pins = pin_files(file for file in files if file)
    found = [pins.get(file) if file else None for file in files]
    place = objects.column_names.index(CUTOUT)
    return (
        objects.set_column(place, CUTOUT, pa.array(references, pa.string()))
        .append_column(CUTOUT_SIZE, pa.array([pin and pin.size_bytes for pin in found], pa.int64()))
        .append_column(CUTOUT_VERSION, pa.array([pin and pin.version for pin in found], pa.string()))
    )


def pin_of(objects: pa.Table, row: int) -> Pin | None:
    """Take the pin of an object's cutout from a plan; None where no file was."""
    size_bytes, version = objects[CUTOUT_SIZE][row].as_py(), objects[CUTOUT_VERSION][row].as_py()
    return None if size_bytes is None else Pin(size_bytes, version)


def resolve(uris: Sequence[str | None]) -> list[str | None]:
    """Turn paths through containers into references; every tar's headers are read once. Raises as `locate_cutouts`."""
    in_tars = {uri: parts for uri in uris if uri and ".tar/" in uri and (parts := split_tar_path(uri))}
    tars = sorted({tar for tar, _ in in_tars.values()})
    with ThreadPoolExecutor(THREADS) as threads:
        members = dict(zip(tars, threads.map(_members, tars), strict=True))

    def reference(uri: str) -> str:
        if uri not in in_tars:
            return stack_reference(uri)
        tar, member = in_tars[uri]
        piece = members[tar].get(member.removeprefix("./"))
        return bytes_of(tar, piece) if piece else uri

    return [reference(uri) if uri else None for uri in uris]


def _members(tar: str) -> dict[str, Bytes]:
    try:
        opened = open_pinned(tar)
    except InputNotFoundError:
        return {}
    start, ahead = 0, b""

    def read_at(place: int, n_bytes: int) -> bytes:
        nonlocal start, ahead
        if not start <= place <= place + n_bytes <= start + len(ahead):
            start, ahead = place, opened.file.read_at(max(n_bytes, _READ_AHEAD), place)
        return ahead[place - start : place - start + n_bytes]

    with explained(tar):
        return tar_members(read_at, opened.pin.size_bytes)


def _leading_somewhere(uri: str) -> tuple[Store, str]:
    """Return the store and full path of a file; a device or folder on local disk is none, nor an S3 URI without key."""
    try:
        scheme, path = split_uri(uri)
        found = os.path.isfile(path) if scheme == "file" else "/" in path and all(path.split("/"))
    except (ConfigError, ValueError) as error:
        raise InputNotFoundError(f"no file at {uri}: {error}") from error
    if not found:
        raise InputNotFoundError(f"no file at {uri}")
    return Store(uri), path


def _etag(text: str) -> str:
    return text.strip('"')


def _pin_one_by_one(uris: list[str]) -> dict[str, Pin]:
    return {uri: pin for uri in uris if (pin := pin_file(uri))}


def _pin_by_listing(uris: list[str]) -> dict[str, Pin]:
    """Pin S3 files of one folder, sorted, from one listing between the first and the last."""
    keys = [split_uri(uri)[1] for uri in uris]
    named = set(keys)
    prefix = os.path.commonprefix([keys[0], keys[-1]])  # noqa: RUF071 - S3 compares by characters, not by folders.
    bucket = prefix.partition("/")[0]
    if not bucket or "/" not in prefix:
        return {}
    # StartAfter leaves out its own key, so it gets the first key without its last character.
    after = {"StartAfter": start} if (start := keys[0].partition("/")[2][:-1]) else {}
    found = _listed(prefix, keys[-1], {"Delimiter": "/"} | after)
    return {f"s3://{key}": pin for key, pin in found if key in named}


def _listed(prefix: str, last: str, first_page: dict[str, str]) -> Iterator[tuple[str, Pin]]:
    """List the objects with a prefix up to a key, or all where `last` is empty; none where there is no bucket."""
    bucket, _, start = prefix.partition("/")
    settings = first_page
    while True:
        with explained(f"s3://{prefix}"):
            try:
                page = s3fs_client().call_s3("list_objects_v2", Bucket=bucket, Prefix=start, **settings)
            except (FileNotFoundError, ParamValidationError):
                return
        keys = [f"{bucket}/{entry['Key']}" for entry in page.get("Contents", [])]
        for key, entry in zip(keys, page.get("Contents", []), strict=True):
            yield key, Pin(entry["Size"], _etag(entry["ETag"]))
        if not page.get("IsTruncated") or (last and keys and keys[-1] >= last):
            return
        settings = {name: value for name, value in first_page.items() if name != "StartAfter"}
        settings |= {"ContinuationToken": page["NextContinuationToken"]}
