"""Pins: which version of every file a plan was made for, so that one replaced since is noticed when it is opened."""

import errno
import os
import stat
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from botocore.exceptions import ParamValidationError

from engine.storage.failures import explained
from engine.storage.references import Bytes, bytes_of, files_of, in_containers, split_tar_path, stack_reference
from engine.storage.s3 import s3fs_client
from engine.storage.s3_file import S3File
from engine.storage.store import Store, split_uri
from engine.storage.tar import tar_members
from schemas.errors import ConfigError, InputNotFoundError, StoreError
from schemas.tables import CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION

LISTED_FROM = 32
"""Files of one folder, or of one page of 1,000, from which a listing costs less than asking for each."""
FILES_PER_LISTING = 2_000
"""A folder with more is listed in pieces at once: a listing itself is a chain of pages."""
THREADS = 32
_ROWS_AT_ONCE = 1 << 17
_FILES_AT_ONCE = 1 << 17
"""Whose names and pins are Python's own for a while, at about half a kilobyte each."""
_READ_AHEAD_BYTES = 1 << 20
"""Of a tar: an object store takes about as long to answer as to send this much."""
_NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)


class Pin(NamedTuple):
    """One version of a file."""

    size_bytes: int
    version: str
    """ETag on S3, modification time in nanoseconds on local disk."""


class Opened(NamedTuple):
    """A file that is open, and its version."""

    file: pa.NativeFile | S3File
    """Closed when nothing refers to it any more; `read_at` may be called from several threads."""
    pin: Pin


class _Tar(NamedTuple):
    """A tar as it was when its headers were read."""

    pin: Pin
    members: dict[str, Bytes]


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
        file = store.keep_open("")
        # Asked after opening, so that the version of a file replaced meanwhile is too new, never too old.
        version = str(os.stat(path).st_mtime_ns) if store.is_local else _etag(file.metadata()["ETag"].decode())
        return Opened(file, Pin(file.size(), version))


def pin_file(uri: str) -> Pin | None:
    """Find out the version of a file; None where nothing is. Raises StoreError as `open_pinned`."""
    if uri.startswith("/"):  # One question, where planning asks for millions of files.
        return _pin_local(uri)
    try:
        store, path = _leading_somewhere(uri)
        return _pin_local(path) if store.is_local else open_pinned(uri).pin
    except InputNotFoundError:
        return None


def _pin_local(path: str) -> Pin | None:
    try:
        found = os.stat(path)
    except ValueError:  # A name that no file can have.
        return None
    except OSError as error:
        if error.errno in _NOWHERE:
            return None
        raise StoreError(f"the store failed at {path}: {error}") from error
    return Pin(found.st_size, str(found.st_mtime_ns)) if stat.S_ISREG(found.st_mode) else None


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
    return sorted((key.removeprefix(prefix), *pin) for key, pin in _pins_below(prefix) if not key.endswith("/"))


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
    uris = objects[CUTOUT]
    tars: dict[str, _Tar] = {}
    references = pa.chunked_array([_resolved(chunk, tars) for chunk in _few_rows_each(uris)], pa.string())
    # A tar keeps the pin with which it was read: members are where they are in that version of it.
    sizes, versions = _pins_of(references, {uri: tar.pin for uri, tar in tars.items()})
    place = objects.column_names.index(CUTOUT)
    return (
        objects.set_column(place, CUTOUT, references)
        .append_column(CUTOUT_SIZE, sizes)
        .append_column(CUTOUT_VERSION, versions)
    )


def pin_of(objects: pa.Table, row: int) -> Pin | None:
    """Take the pin of an object's cutout from a plan; None where no file was."""
    size_bytes, version = objects[CUTOUT_SIZE][row].as_py(), objects[CUTOUT_VERSION][row].as_py()
    return None if size_bytes is None else Pin(size_bytes, version)


def _few_rows_each(column: pa.ChunkedArray) -> Iterator[pa.Array]:
    for chunk in column.chunks:
        yield from (chunk.slice(start, _ROWS_AT_ONCE) for start in range(0, len(chunk), _ROWS_AT_ONCE))


def _resolved(uris: pa.Array, tars: dict[str, _Tar]) -> pa.Array:
    """Turn paths through containers into references; tars that are met for the first time are read and added."""
    uris = uris.cast(pa.string())
    uris = pc.if_else(pc.equal(uris, ""), pa.scalar(None, pa.string()), uris)
    inside = in_containers(uris)
    paths = uris.filter(inside).to_pylist()
    if not paths:
        return uris
    met = {parts[0] for path in paths if (parts := split_tar_path(path))}
    tars |= _read_tars(met - tars.keys())
    return pc.replace_with_mask(uris, inside, pa.array([_resolve(path, tars) for path in paths], pa.string()))


def _pins_of(references: pa.ChunkedArray, known: Mapping[str, Pin]) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """Find out sizes and versions of the files of references: in order of their names, some at a time."""
    files = [files_of(chunk).cast(pa.large_string()) for chunk in references.chunks]
    names = pa.concat_arrays([pa.array([], pa.large_string()), *files])
    order = pc.sort_indices(names)
    sizes, versions = [pa.array([], pa.int64())], [pa.array([], pa.large_string())]
    for start in range(0, len(order), _FILES_AT_ONCE):
        some = names.take(order.slice(start, _FILES_AT_ONCE))
        distinct = some.unique()
        wanted = distinct.to_pylist()
        pins = {name: known[name] for name in wanted if name in known}
        pins |= pin_files(name for name in wanted if name is not None and name not in known)
        found = [pins.get(name) for name in wanted]
        at = pc.index_in(some, value_set=distinct)
        sizes.append(pa.array([pin and pin.size_bytes for pin in found], pa.int64()).take(at))
        versions.append(pa.array([pin and pin.version for pin in found], pa.large_string()).take(at))
    del names, files
    place = np.empty(len(order), np.int64)
    place[order.to_numpy()] = np.arange(len(order))
    return _placed(sizes, place, references, pa.int64()), _placed(versions, place, references, pa.string())


def _placed(values: Sequence[pa.Array], place: np.ndarray, like: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Bring values back to the order and the chunks of the references that they belong to."""
    whole, starts = pa.concat_arrays(values), np.cumsum([0, *(len(chunk) for chunk in like.chunks)])
    chunks = [whole.take(pa.array(place[first:last])).cast(kind) for first, last in pairwise(starts)]
    return pa.chunked_array(chunks, kind)


def _resolve(uri: str, tars: dict[str, _Tar]) -> str:
    """Turn a path through a container into a reference."""
    tar, member = split_tar_path(uri) or ("", "")
    if tar not in tars:
        return stack_reference(uri)
    piece = tars[tar].members.get(member.removeprefix("./"))
    return bytes_of(tar, piece) if piece else uri


def _read_tars(uris: Iterable[str]) -> dict[str, _Tar]:
    """Read the headers of tars, many at once; those that are not there are left out."""
    names = sorted(uris)
    with ThreadPoolExecutor(THREADS) as threads:
        return {uri: tar for uri, tar in zip(names, threads.map(_read_tar, names), strict=True) if tar}


def _read_tar(uri: str) -> _Tar | None:
    try:
        opened = open_pinned(uri)
    except InputNotFoundError:
        return None
    start, ahead = 0, b""

    def read_at(place: int, n_bytes: int) -> bytes:
        nonlocal start, ahead
        if not start <= place <= place + n_bytes <= start + len(ahead):
            start, ahead = place, opened.file.read_at(max(n_bytes, _READ_AHEAD_BYTES), place)
        return ahead[place - start : place - start + n_bytes]

    with explained(uri):
        return _Tar(opened.pin, tar_members(read_at, opened.pin.size_bytes))


def _leading_somewhere(uri: str) -> tuple[Store, str]:
    """Return the store and full path of a file; a device or folder on local disk is none, nor an S3 URI without key."""
    try:
        scheme, path = split_uri(uri)
        found = stat.S_ISREG(os.stat(path).st_mode) if scheme == "file" else "/" in path and all(path.split("/"))
    except (ConfigError, ValueError) as error:
        raise InputNotFoundError(f"no file at {uri}: {error}") from error
    except OSError as error:
        if error.errno in _NOWHERE:
            raise InputNotFoundError(f"no file at {uri}: {error.strerror}") from error
        raise StoreError(f"the store failed at {uri}: {error}") from error
    if not found:
        raise InputNotFoundError(f"no file at {uri}")
    return Store(uri), path


def _etag(text: str) -> str:
    return text.strip('"')


def _pin_one_by_one(uris: Sequence[str]) -> dict[str, Pin]:
    return {uri: pin for uri in uris if (pin := pin_file(uri))}


def _pin_by_listing(uris: Sequence[str]) -> dict[str, Pin]:
    """Pin S3 files of one folder, sorted, by listing it from the first to the last.

    Where a page holds few of them the folder holds much else, and the others are asked for one by one; so are all where
    reading is allowed and listing is not, and always the first, because `StartAfter` leaves out the key that it names.
    """
    folder, _, name = split_uri(uris[0])[1].rpartition("/")
    pins, waiting = _pin_one_by_one(uris[:1]), [split_uri(uri)[1] for uri in uris[1:]]
    with explained(f"s3://{folder}"), suppress(PermissionError):
        for found, end in _pages(f"{folder}/", name, Delimiter="/"):
            n = bisect_right(waiting, end) if end else len(waiting)
            pins |= {f"s3://{key}": found[key] for key in waiting[:n] if key in found}
            waiting = waiting[n:]
            if n < LISTED_FROM:
                break
    return pins | _pin_one_by_one([f"s3://{key}" for key in waiting])


def _pins_below(prefix: str) -> Iterator[tuple[str, Pin]]:
    with explained(f"s3://{prefix}"):
        for found, _ in _pages(prefix):
            yield from found.items()


def _pages(prefix: str, after: str = "", **settings: str) -> Iterator[tuple[dict[str, Pin], str]]:
    """List the objects with a prefix page by page; where there is no bucket, one empty page.

    Yields
    ------
    dict, str
        Pins by "bucket/key", and the place up to which everything is listed, empty on the last page.
    """
    bucket, _, start = prefix.partition("/")
    place = {"StartAfter": start + after} if after else {}
    more = True
    while more:
        try:
            page = s3fs_client().call_s3("list_objects_v2", Bucket=bucket, Prefix=start, **settings, **place)
        except (FileNotFoundError, ParamValidationError):
            page = {}
        found = {
            f"{bucket}/{entry['Key']}": Pin(entry["Size"], _etag(entry["ETag"])) for entry in page.get("Contents", [])
        }
        folders = [f"{bucket}/{entry['Prefix']}" for entry in page.get("CommonPrefixes", [])]
        more = page.get("IsTruncated", False)
        yield found, max([*found, *folders], default="") if more else ""
        place = {"ContinuationToken": page["NextContinuationToken"]} if more else {}
