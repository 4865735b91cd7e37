"""Digests of ids and tables: equal content, equal digest, on every machine."""

import hashlib
import json
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_MODULUS = 1 << 128


def id_digest(ids: Iterable[int | str]) -> str:
    """Digest a bag of ids: free of order, aware of duplicates. 32 hex digits; of no ids, zeros.

    The sum modulo 2^128 of a hash of each id, so that digests add: `add_digests(d(A), d(B)) == d(A + B)`.
    """
    total = 0
    for value in ids:
        digest = hashlib.blake2b(str(value).encode(), digest_size=16).digest()
        total += int.from_bytes(digest, "little")
    return f"{total % _MODULUS:032x}"


def add_digests(digests: Iterable[str]) -> str:
    """Digest of the union, with duplicates, of bags whose digests are given."""
    return f"{sum(int(digest, 16) for digest in digests) % _MODULUS:032x}"


def table_digest(table: pa.Table) -> str:
    """SHA-256 over names, types and values of a table, row order included; independent of chunks and of pyarrow."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name]
        digest.update(f"{name}\0{column.type}\0{len(column)}\0".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        kind = column.type
        if pa.types.is_boolean(kind):
            column, kind = column.cast(pa.uint8()), pa.uint8()
        if pa.types.is_integer(kind) or pa.types.is_floating(kind):
            for chunk in column.chunks:
                digest.update(pc.fill_null(chunk, 0).to_numpy(zero_copy_only=False).tobytes())
        elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
            _update_binary(digest, column.cast(pa.large_string()).cast(pa.large_binary()))
        elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
            _update_binary(digest, column.cast(pa.large_binary()))
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()


def _update_binary(digest: "hashlib._Hash", column: pa.ChunkedArray) -> None:
    """Add all lengths as int64, then all bytes: what lies between the first and the last offset of each chunk."""
    filled = [pc.fill_null(chunk, b"") for chunk in column.chunks]
    for chunk in filled:
        digest.update(pc.binary_length(chunk).to_numpy(zero_copy_only=False).tobytes())
    for chunk in filled:
        _, offsets, data = chunk.buffers()
        if len(chunk) and data is not None:
            ends = np.frombuffer(offsets, np.int64)[chunk.offset :][[0, len(chunk)]]
            digest.update(memoryview(data)[ends[0] : ends[1]])
