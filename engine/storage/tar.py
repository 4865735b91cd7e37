"""Tar in: where the members of an uncompressed tar lie, from its headers alone. Nothing is unpacked.

POSIX.1-2001 (ustar and pax) and GNU long names. Written here because tarfile trusts sizes that a hostile header gives.
"""

from collections.abc import Callable

from engine.storage.references import Bytes

ReadAt = Callable[[int, int], bytes]
"""(start, n_bytes) to bytes, fewer at the end of the file."""

_BLOCK = 512
_MAX_NAMES_BYTES = 1 << 20
_CHECKSUM = slice(148, 156)


def tar_members(read_at: ReadAt, n_bytes: int) -> dict[str, Bytes]:
    """Find the regular files of a tar, hopping from header to header.

    Parameters
    ----------
    read_at : callable
        Reads the tar.
    n_bytes : int
        Its size.

    Returns
    -------
    dict
        By name, without a leading `./`; the last of several members of one name, as in `tar`. Sparse members, links
        and whatever follows the first damaged header are left out.
    """
    members: dict[str, Bytes] = {}
    place, name, size = 0, None, None
    while place + _BLOCK <= n_bytes:
        header = read_at(place, _BLOCK)
        place += _BLOCK
        kind = header[156:157]
        declared = _number(header[124:136])
        if declared is None or not _is_intact(header):
            break
        if kind in b"xgLK" and kind:
            if declared > _MAX_NAMES_BYTES:
                break
            data = read_at(place, declared)
            place += _padded(declared)
            if kind == b"L":
                name = _text(data.rstrip(b"\0"))
            elif kind == b"x":
                records = _pax_records(data)
                if any(key.startswith(b"GNU.sparse") for key in records):
                    break
                name = _text(records[b"path"]) if b"path" in records else name
                size = int(records[b"size"]) if records.get(b"size", b"x").isdigit() else size
            continue
        is_file = kind in (b"0", b"\0", b"7") and not _header_name(header).endswith("/")
        found = Bytes(place, declared if size is None else size)
        if is_file:
            members[(name or _header_name(header)).removeprefix("./")] = found
        if kind == b"S":
            place = _after_sparse_map(read_at, header, place)
        if is_file or kind not in b"123456":
            place += _padded(found.n_bytes)
        name = size = None
    return members


def _is_intact(header: bytes) -> bool:
    expected = _number(header[_CHECKSUM])
    plain = header[:148] + b" " * 8 + header[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in plain)  # Some old tars sum signed bytes.
    return any(header) and expected in (sum(plain), signed)


def _number(field: bytes) -> int | None:
    """Read an octal field, or a positive binary one (GNU); None where it is neither."""
    if field[:1] == b"\x80":
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip() or b"0"
    return int(digits, 8) if all(digit in b"01234567" for digit in digits) else None


def _padded(n_bytes: int) -> int:
    return -(-n_bytes // _BLOCK) * _BLOCK


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _header_name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read records `LENGTH KEY=VALUE` and a line feed up to the first that is none."""
    records = {}
    while data:
        digits, _, _ = data[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        if not len(digits) < length <= len(data):
            break
        key, _, value = data[len(digits) + 1 : length - 1].partition(b"=")
        records[key] = value
        data = data[length:]
    return records


def _after_sparse_map(read_at: ReadAt, header: bytes, place: int) -> int:
    more = header[482]
    while more:
        block = read_at(place, _BLOCK)
        place += _BLOCK
        more = block[504] if len(block) == _BLOCK else 0
    return place
