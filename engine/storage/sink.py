"""Writing piece by piece: a file that nobody sees before its end, counted and hashed on the way.

On local disk a temporary file that is renamed; on S3 a multipart upload that is completed, because the streams of
pyarrow complete theirs even when they are dropped half-way.
"""

import hashlib
import os
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa

from engine.storage.failures import explained
from engine.storage.s3 import call, call_once
from schemas.errors import StoreError
from schemas.manifest import FileRecord

PART_BYTES = 8 * 2**20
"""Of an upload; S3 takes 10,000 parts, so a file may have 80 GB."""


class LocalFile:
    """A temporary file beside the one that it becomes."""

    def __init__(self, target: Path) -> None:
        make_folder(target.parent)
        self._target = target
        self._temporary = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
        self._file = self._temporary.open("wb")

    def put(self, data: memoryview) -> None:
        """Append."""
        self._file.write(data)

    def finish(self) -> None:
        """Become the file, in place of an earlier one."""
        self.settle()
        os.replace(self._temporary, self._target)
        sync_folder(self._target.parent)

    def link(self, durable: bool) -> bool:
        """Become the file unless there is one; return whether it did."""
        if durable:
            self.settle()
        self._file.flush()
        try:
            os.link(self._temporary, self._target)
        except FileExistsError:
            return False
        if durable:
            sync_folder(self._target.parent)
        return True

    def settle(self) -> None:
        """Bring the content onto the disk, so that a name never outlives it in a loss of power."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def abandon(self) -> None:
        """Remove what was not published."""
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)


class Upload:
    """An S3 object in the making: one PUT where it is small, a multipart upload where it is not."""

    def __init__(self, full: str) -> None:
        self._full = full
        self._waiting = bytearray()
        self._id: str | None = None
        self._parts: list[dict[str, Any]] = []

    def put(self, data: memoryview) -> None:
        """Append."""
        for start in range(0, len(data), PART_BYTES):  # Never a second copy of it all.
            self._waiting += data[start : start + PART_BYTES]
            if len(self._waiting) >= PART_BYTES:
                self._send(bytes(self._waiting[:PART_BYTES]))
                del self._waiting[:PART_BYTES]

    def finish(self) -> None:
        """Become the object, in place of an earlier one."""
        if not self._id:
            call("put_object", self._full, Body=bytes(self._waiting))
            return
        if self._waiting:
            self._send(bytes(self._waiting))
        call("complete_multipart_upload", self._full, UploadId=self._id, MultipartUpload={"Parts": self._parts})
        self._id = None

    def abandon(self) -> None:
        """Drop the parts that were sent; if that fails, the bucket's lifecycle rules are left to do it."""
        if self._id:
            call_once("abort_multipart_upload", self._full, UploadId=self._id)

    def _send(self, part: bytes) -> None:
        if not self._id:
            self._id = str(call("create_multipart_upload", self._full)["UploadId"])
        number = len(self._parts) + 1
        answer = call("upload_part", self._full, UploadId=self._id, PartNumber=number, Body=part)
        self._parts.append({"PartNumber": number, "ETag": answer["ETag"]})


class Sink:
    """What a file is written to, also by Arrow: `pa.PythonFile(sink, mode="w")`."""

    def __init__(self, path: str, uri: str, target: LocalFile | Upload) -> None:
        self.closed = False
        self._path, self._uri, self._target = path, uri, target
        self._size_bytes, self._sha256 = 0, hashlib.sha256()
        self._failure: StoreError | None = None

    @property
    def record(self) -> FileRecord:
        """Path, size and SHA-256 of what was written until now: of the file, once the block has ended."""
        return FileRecord(path=self._path, size_bytes=self._size_bytes, sha256=self._sha256.hexdigest())

    def write(self, data: bytes | bytearray | memoryview | pa.Buffer) -> int:
        """Append; return how many bytes.

        Raises
        ------
        StoreError
            The store failed or refused.
        """
        if self._failure:  # Writers that close after a failure write once more; the store need not be asked again.
            raise self._failure
        view = memoryview(data).cast("B")
        try:
            with explained(self._uri, writing=True, size_bytes=self._size_bytes + len(view)):
                self._target.put(view)
        except StoreError as error:
            self._failure = error
            raise
        self._size_bytes += len(view)
        self._sha256.update(view)
        return len(view)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size_bytes

    def flush(self) -> None:
        """Do nothing: nobody sees the file before its end."""

    def close(self) -> None:
        """Accept no more; the file appears when the block of `Store.writing` ends."""
        self.closed = True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a loss of power."""
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for part in missing:
        sync_folder(part.parent)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder onto the disk: without, a loss of power may undo a rename that was reported done."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
