"""An S3 object that stays open and is read here and there: by offset, or as a file by Arrow and h5py."""

import io

from engine.storage.failures import explained, tried
from engine.storage.s3 import s3_filesystem

_LEAST_BYTES = 1 << 12
"""Of a request. Arrow reads an error's text to where the bytes should go, and forgets the error if it does not fit."""


class S3File(io.RawIOBase):
    """An object that is open for reading. Each read is made as often as it takes; `read_at` from several threads.

    Errors are ours already, so that a library in between hands on what the store said.

    Raises
    ------
    InputNotFoundError
        Nothing is there; of reads, nothing any more.
    StoreError
        The store failed or refused.
    """

    def __init__(self, full_path: str) -> None:
        super().__init__()
        self._uri, self._place = f"s3://{full_path}", 0
        with explained(self._uri):
            self._file = tried(lambda: s3_filesystem(retries=False).open_input_file(full_path))

    def metadata(self) -> dict[str, bytes]:
        """Return what the store says of the object, its `ETag` among it."""
        return self._file.metadata()

    def size(self) -> int:
        """Return the number of bytes when it was opened."""
        return self._file.size()

    def read_at(self, n_bytes: int, start: int) -> bytes:
        """Read from an offset on; fewer bytes at the end."""
        first = start if n_bytes >= _LEAST_BYTES else max(0, min(start, self.size() - _LEAST_BYTES))
        with explained(self._uri):
            data = tried(lambda: self._file.read_at(max(n_bytes, _LEAST_BYTES), first))
        return data[start - first : start - first + n_bytes]

    def read(self, n_bytes: int | None = -1, /) -> bytes:
        """Read on from where the last read ended; everything without a number."""
        if n_bytes is None or n_bytes < 0:
            n_bytes = max(0, self.size() - self._place)
        data = self.read_at(n_bytes, self._place) if self._place < self.size() else b""
        self._place += len(data)
        return data

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        """Read on into a buffer; return how many bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
        """Choose where the next read begins."""
        self._place = place + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size()}[whence]
        return self._place

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._place

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def seekable(self) -> bool:
        """Whether `seek` works: yes."""
        return True
