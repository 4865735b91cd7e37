"""The one door to files: local folders and s3:// prefixes, with atomic writes and create-only records.

Reading and listing go through pyarrow.fs, which costs a fifth of s3fs per request; writing goes through s3fs, because
pyarrow has no conditional PUT and no upload that can be abandoned.
"""

import fcntl
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, TypeVar

import pyarrow as pa
from pyarrow import fs

from engine.storage.failures import FAILURES, explained, tried
from engine.storage.s3 import get, put_if, s3_filesystem
from engine.storage.s3_file import S3File
from engine.storage.sink import LocalFile, Sink, Upload
from schemas.errors import ConfigError, InputNotFoundError, IntegrityError, StoreError
from schemas.manifest import FileRecord

_BLOCK_BYTES = 1 << 22
_TO_RESOLVE = re.compile(r"/\.?(/|$)")
"""What an absolute path has where the same file has a shorter one."""
_MOST_COPIED_BYTES = 5 << 30
"""S3 copies no larger object in one request."""

Answer = TypeVar("Answer")


class Entry(NamedTuple):
    """A file in a listing."""

    path: str
    """Relative to the store."""
    size_bytes: int
    modified_s: float
    """By the store's clock, seconds since 1970."""


@dataclass(frozen=True)
class Store:
    """A folder or an s3:// prefix. Paths given to the methods are relative to it and use forward slashes."""

    root: str

    @cached_property
    def _base(self) -> str:
        return split_uri(self.root)[1].rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether this store is a folder on this machine."""
        return split_uri(self.root)[0] == "file"

    @property
    def filesystem(self) -> fs.FileSystem:
        """The pyarrow filesystem of this store, to hand to another library."""
        return fs.LocalFileSystem() if self.is_local else s3_filesystem(retries=True)

    def full_path(self, path: str = "") -> str:
        """Return the path that `filesystem` understands."""
        return f"{self._base}/{path}" if path else self._base

    def uri(self, path: str = "") -> str:
        """Return the absolute local path or s3:// URI, to show or to hand to another library."""
        return self.full_path(path) if self.is_local else f"s3://{self.full_path(path)}"

    def read(self, path: str) -> bytes:
        """Read a whole file.

        Raises
        ------
        InputNotFoundError
            Nothing is stored at `path`.
        StoreError
            The store failed or refused.
        """
        if not self.is_local:
            return self.read_versioned(path)[0]
        return self.reading(path, lambda file: file.read())

    def reading(self, path: str, read: Callable[[pa.NativeFile], Answer]) -> Answer:
        """Open a file, return what `read` makes of it, and begin again where the store fails in passing.

        Raises as `read`.
        """

        def request(filesystem: fs.FileSystem) -> Answer:
            with filesystem.open_input_file(self.full_path(path)) as file:
                return read(file)

        with explained(self.uri(path)):
            return self._ask(request)

    @contextmanager
    def open(self, path: str) -> Iterator[pa.NativeFile]:
        """Open a file for random-access reading; errors as in `read`."""
        with explained(self.uri(path)), self.filesystem.open_input_file(self.full_path(path)) as file:
            yield file

    def keep_open(self, path: str) -> pa.NativeFile | S3File:
        """Open a file to read from it here and there, until nothing refers to it; errors as in `read`."""
        if not self.is_local:
            return S3File(self.full_path(path))
        with explained(self.uri(path)):
            return self.filesystem.open_input_file(self.full_path(path))

    def read_verified(self, record: FileRecord) -> bytes:
        """Read a whole file that a manifest names.

        Raises
        ------
        IntegrityError
            The file is missing, or not the one that the manifest names.
        """
        try:
            data = self.read(record.path)
        except InputNotFoundError as error:
            raise IntegrityError(f"{self.uri(record.path)}: missing, although a manifest names it") from error
        found = file_record(record.path, data)
        if found != record:
            raise IntegrityError(
                f"{self.uri(record.path)}: expected SHA-256 {record.sha256}, found {found.sha256} "
                f"({found.size_bytes} bytes instead of {record.size_bytes})"
            )
        return data

    def write(self, path: str, data: bytes | pa.Buffer) -> FileRecord:
        """Write a whole file in one step: a reader that opens it then sees the old content or the new, never a part.

        Raises
        ------
        StoreError
            The store failed or refused; nothing is readable at `path` that was not there before.
        """
        with self.writing(path) as sink:
            sink.write(data)
        return sink.record

    @contextmanager
    def writing(self, path: str) -> Iterator[Sink]:
        """Write a file piece by piece; it appears, whole, when the block ends, and never if the block raises.

        Yields
        ------
        Sink
            To write to; its `record` describes the file after the block.

        Raises
        ------
        StoreError
            The store failed or refused; nothing is readable at `path` that was not there before.
        """
        uri, full = self.uri(path), self.full_path(path)
        with explained(uri, writing=True):
            target = LocalFile(Path(full)) if self.is_local else Upload(full)
        sink = Sink(path, uri, target)
        try:
            yield sink
            with explained(uri, writing=True, size_bytes=sink.tell()):
                try:
                    target.finish()
                except FileNotFoundError:  # The answer to a first try was lost, and there is no upload any more.
                    if not self._holds(sink.record):
                        raise
        finally:
            with suppress(*FAILURES):
                target.abandon()

    def take_over(self, source: "Store", record: FileRecord) -> FileRecord:
        """Have a file of another store in this one too, at the same path: by a hard link or the store's own copy.

        A link is one file under two names, which is safe because no file is ever changed in place. It is not read: that
        a file was damaged before is for `verify` to find.

        Raises
        ------
        IntegrityError
            The file is missing, or not the one that the record describes.
        StoreError
            A store failed or refused.
        """
        with explained(self.uri(record.path), writing=True, size_bytes=record.size_bytes):
            places = source.full_path(record.path), self.full_path(record.path)
            if source.is_local and self.is_local and _linked(*places):
                return record
            if not source.is_local and not self.is_local and record.size_bytes <= _MOST_COPIED_BYTES:
                return self._copied(source, record)
        return self.write(record.path, source.read_verified(record))

    def _copied(self, source: "Store", record: FileRecord) -> FileRecord:
        if not source.is_file(record.path):
            raise IntegrityError(f"{source.uri(record.path)}: missing, although a manifest names it")
        self._ask(lambda filesystem: filesystem.copy_file(*(one.full_path(record.path) for one in (source, self))))
        if not self._holds(record):
            self.delete(record.path)
            raise IntegrityError(f"{source.uri(record.path)}: expected SHA-256 {record.sha256}, found another file")
        return record

    def create(self, path: str, data: bytes, durable: bool = True) -> bool:
        """Write a whole file unless one is there already; of several writers with different data one gets True.

        True also where exactly these bytes are there: the answer to a write may be lost, and its repetition is refused.
        Empty files tell nothing, so they do not count as the same. What is not `durable` may be lost with the power.

        Raises
        ------
        StoreError
            The store failed or refused.
        """
        with explained(self.uri(path), writing=True, size_bytes=len(data)):
            created = self._create(self.full_path(path), data, durable)
        return created or self._has(path, data)

    def read_versioned(self, path: str) -> tuple[bytes, str]:
        """Read a whole file and the version that `replace` expects; errors as in `read`."""
        if self.is_local:
            data = self.read(path)
            return data, hashlib.sha256(data).hexdigest()
        with explained(self.uri(path)):
            return get(self.full_path(path))

    def replace(self, path: str, data: bytes, version: str) -> bool:
        """Overwrite a file if it still has the version that was read (compare and set); return whether it had.

        True also where exactly these bytes are there, as in `create`.

        Raises
        ------
        StoreError
            The store failed or refused.
        """
        with explained(self.uri(path), writing=True, size_bytes=len(data)):
            replaced = self._replace(path, data, version)
        return replaced or self._has(path, data)

    def entry(self, path: str) -> Entry:
        """Describe one file.

        Raises
        ------
        InputNotFoundError
            Nothing is stored at `path`.
        StoreError
            The store failed or refused.
        """
        with explained(self.uri(path)):
            info = self._ask(lambda filesystem: filesystem.get_file_info(self.full_path(path)))
        if info.type != fs.FileType.File:
            raise InputNotFoundError(f"expected a file, found nothing at {self.uri(path)}")
        return Entry(path, info.size, info.mtime_ns / 1e9)

    def now(self) -> float:
        """Return the store's own clock, seconds since 1970: clocks of machines differ, the store has one."""
        probe = f".clock-{uuid.uuid4().hex}"
        self.write(probe, b"")
        try:
            return self.entry(probe).modified_s
        finally:
            self.delete(probe)

    def check_conditional(self) -> None:
        """Refuse a store that lets two writers create one file: commit records would not be safe there.

        Raises
        ------
        StoreError
            The store ignores `If-None-Match`, or failed.
        """
        if self.is_local:
            return
        probe = f".conditional-{uuid.uuid4().hex}"
        self.create(probe, b"first")
        try:
            refused = not self.create(probe, b"second")
        finally:
            self.delete(probe)
        if not refused:
            raise StoreError(
                f"{self.uri()}: expected a store that honours If-None-Match on PUT, found that it overwrites; two runs "
                "could both write here. Use another store (AWS, MinIO and Ceph honour it), or a local folder."
            )

    def exists(self, path: str) -> bool:
        """Whether a file or a folder is at `path`."""
        return self._type(path) != fs.FileType.NotFound

    def is_file(self, path: str = "") -> bool:
        """Whether a file, and no folder, is at `path`."""
        return self._type(path) == fs.FileType.File

    def list(self, path: str = "") -> list[str]:
        """List all files below a folder, sorted, relative to this store; empty where there is no such folder."""
        return [entry.path for entry in self.entries(path)]

    def entries(self, path: str = "") -> Sequence[Entry]:
        """Describe all files below a folder, sorted by path; empty where there is no such folder."""
        selector = fs.FileSelector(self.full_path(path), allow_not_found=True, recursive=True)
        with explained(self.uri(path)):
            infos = self._ask(lambda filesystem: filesystem.get_file_info(selector))
        start = len(self._base) + 1
        files = (info for info in infos if info.type == fs.FileType.File)
        return sorted(Entry(info.path[start:], info.size, info.mtime_ns / 1e9) for info in files)

    def children(self, path: str = "") -> Sequence[str]:
        """Names of the files and folders in a folder, sorted; empty where there is no such folder."""
        selector = fs.FileSelector(self.full_path(path), allow_not_found=True)
        with explained(self.uri(path)):
            infos = self._ask(lambda filesystem: filesystem.get_file_info(selector))
        return sorted(info.base_name for info in infos)

    def delete(self, path: str) -> None:
        """Delete a file, if it is there."""
        with explained(self.uri(path)), suppress(FileNotFoundError):
            self._ask(lambda filesystem: filesystem.delete_file(self.full_path(path)))

    def delete_folder(self, path: str) -> None:
        """Delete a folder and everything in it, if it is there."""
        with explained(self.uri(path)):
            if self.exists(path):
                self._ask(lambda filesystem: filesystem.delete_dir(self.full_path(path)))

    def below(self, path: str) -> "Store":
        """Return the store of a folder of this one."""
        return Store(self.uri(path))

    def _ask(self, request: Callable[[fs.FileSystem], Answer]) -> Answer:
        """Do something that may be done twice, as often as it takes."""
        return request(self.filesystem) if self.is_local else tried(lambda: request(s3_filesystem(retries=False)))

    def _type(self, path: str) -> fs.FileType:
        with explained(self.uri(path)):
            return self._ask(lambda filesystem: filesystem.get_file_info(self.full_path(path))).type

    def _create(self, full: str, data: bytes, durable: bool) -> bool:
        if not self.is_local:
            return put_if(full, data, IfNoneMatch="*")
        target = LocalFile(Path(full))
        try:
            target.put(memoryview(data))
            return target.link(durable)
        finally:
            with suppress(OSError):
                target.abandon()

    def _replace(self, path: str, data: bytes, version: str) -> bool:
        full = self.full_path(path)
        if not self.is_local:
            return put_if(full, data, IfMatch=version)
        with _locked(Path(full)):
            try:
                unchanged = hashlib.sha256(Path(full).read_bytes()).hexdigest() == version
            except FileNotFoundError:
                return False
            if unchanged:
                self.write(path, data)
            return unchanged

    def _has(self, path: str, data: bytes) -> bool:
        """Whether a write that was refused had happened before, its answer lost on the way."""
        return bool(data) and self._holds(file_record(path, data))

    def _holds(self, record: FileRecord) -> bool:
        """Whether exactly what a record describes is stored."""

        def sha256(file: pa.NativeFile) -> str:
            found = hashlib.sha256()
            while file.size() == record.size_bytes and (block := file.read(_BLOCK_BYTES)):
                found.update(block)
            return found.hexdigest()

        try:
            return self.reading(record.path, sha256) == record.sha256
        except InputNotFoundError:
            return False


def file_record(path: str, data: bytes | pa.Buffer) -> FileRecord:
    """Describe a file by path, size and SHA-256."""
    return FileRecord(path=path, size_bytes=memoryview(data).nbytes, sha256=hashlib.sha256(data).hexdigest())


def split_uri(uri: str) -> tuple[str, str]:
    """Split a path or URI into ("file", absolute path) or ("s3", "bucket/key").

    Raises
    ------
    ConfigError
        The scheme is neither file nor s3, the path starts from the home of an unknown user, or there are credentials.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        if uri.startswith("/") and not _TO_RESOLVE.search(uri):  # As most of a catalogue's are, and Path costs time.
            return "file", uri
        try:
            return "file", str(Path(uri).expanduser().absolute())
        except RuntimeError as error:
            raise ConfigError(f"{uri}: {error}") from error
    if scheme == "file":
        return "file", str(Path(rest).absolute())
    bucket = rest.partition("/")[0]
    if "@" in bucket or (":" in bucket and scheme == "s3" and not bucket.startswith("arn:")):
        raise ConfigError(
            f"{scheme}://...: expected a URI without credentials, found some before the place, which is not repeated "
            "here; give them as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or by a profile"
        )
    if scheme == "s3":
        return "s3", rest
    raise ConfigError(f"{uri}: expected a local path or an s3:// URI, found the scheme {scheme!r}")


def resolve(uri: str, root: str) -> str:
    """Return `uri` as an absolute path or URI; a relative one starts from `root`."""
    if "://" in uri or uri.startswith("/"):
        return uri
    return f"{root.rstrip('/')}/{uri}"


def _linked(source: str, target: str) -> bool:
    """Make one local file appear under a second name; return whether the disk can."""
    made = Path(target)
    made.parent.mkdir(parents=True, exist_ok=True)
    name = made.with_name(f".{made.name}-{uuid.uuid4().hex}.tmp")
    try:
        os.link(source, name)
    except OSError:  # Another disk, a disk without links, or no such file: reading it will tell.
        return False
    name.replace(made)
    name.unlink(missing_ok=True)  # To rename a link to a file that has the name already does nothing.
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with (path.parent / f".{path.name}.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
