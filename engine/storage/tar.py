"""Tar in: where the members of an uncompressed tar lie, from its headers alone. Nothing is unpacked.

POSIX.1-2001 (ustar and pax) and GNU long names. Written here because tarfile trusts sizes that a hostile header gives.
"""

from collections.abc import Callable

from engine.storage.references import Bytes

ReadAt = Callable[[int, int], bytes]
"""(start, n_bytes) to bytes, fewer at the end of the file."""

_BLOCK = 512
_MOST_BYTES = 10**15
"""No member is larger; a header that says so is damaged."""
_MOST_NAME_BYTES = 1 << 20
_CHECKSUM = slice(148, 156)
_PAX, _GLOBAL_PAX = (b"x", b"X"), b"g"
_LONG_NAME, _LONG_LINK, _SPARSE = b"L", b"K", b"S"
_FILES = (b"0", b"\0", b"7")
_WITHOUT_DATA = (b"1", b"2", b"3", b"4", b"5", b"6")


def tar_members(read_at: ReadAt, n_bytes: int) -> dict[str, Bytes]:
    """Find the regular files of a tar, hopping from header to header.

    Parameters
    ----------
    read_at : callable
        Reads the tar, never beyond its end.
    n_bytes : int
        Its size.

    Returns
    -------
    dict
        By name, without a leading `./`; the last of several members of one name, as in `tar`. Sparse members, links
        and whatever follows the first damaged header are left out. The last member of a truncated tar goes beyond
        its end.
    """
    members: dict[str, Bytes] = {}
    place, name, size, is_sparse = 0, None, None, False
    while place + _BLOCK <= n_bytes:
        header = read_at(place, _BLOCK)
        place += _BLOCK
        kind, declared = header[156:157], _number(header[124:136])
        if declared is None or not _is_intact(header):
            break
        if kind in (*_PAX, _LONG_NAME):
            if declared > min(_MOST_NAME_BYTES, n_bytes - place):
                break
            data = read_at(place, declared)
            if kind == _LONG_NAME:
                name = _text(data)
            else:
                records = _pax_records(data)
                name = _text(records[b"path"]) if b"path" in records else name
                is_sparse = is_sparse or any(key.startswith(b"GNU.sparse.") for key in records)
                if b"size" in records and (size := _whole(records[b"size"], 10)) is None:
                    break
        elif kind not in (_GLOBAL_PAX, _LONG_LINK):
            declared = declared if size is None else size
            if kind == _SPARSE:
                place = _after_sparse_map(read_at, header, place, n_bytes)
            found = (name or _header_name(header)).removeprefix("./")
            if kind in _FILES and not is_sparse and not _header_name(header).endswith("/"):
                members[found] = Bytes(place, declared)
            else:
                members.pop(found, None)
            name, size, is_sparse = None, None, False
        if kind not in _WITHOUT_DATA:
            place += -(-declared // _BLOCK) * _BLOCK
    return members


def _is_intact(header: bytes) -> bool:
    if len(header) < _BLOCK:
        return False
    expected = _number(header[_CHECKSUM])
    plain = header[:148] + b" " * 8 + header[156:]
    # Some old tars sum signed bytes.
    return expected == sum(plain) or expected == sum(plain) - 256 * sum(byte > 127 for byte in plain)


def _number(field: bytes) -> int | None:
    """Read an octal field, or a positive binary one (GNU); None where it is neither, or larger than any file."""
    if field[:1] == b"\x80":
        number = int.from_bytes(field[1:], "big")
        return number if number <= _MOST_BYTES else None
    return _whole(field.split(b"\0")[0].strip() or b"0", 8)


def _whole(digits: bytes, base: int) -> int | None:
    """Read a number of at most `_MOST_BYTES`; None where it has a sign, a blank or another digit."""
    if not digits or len(digits) > 20 or digits.strip(b"0123456789"[:base]):
        return None
    number = int(digits, base)
    return number if number <= _MOST_BYTES else None


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _header_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Read records `LENGTH KEY=VALUE` and a line feed up to the first that is none."""
    records = {}
    place = 0
    while space := data.find(b" ", place, place + 20) + 1:
        length = _whole(data[place : space - 1], 10) or 0
        if not space - place < length <= len(data) - place:
            break
        key, _, value = data[space : place + length - 1].partition(b"=")
        records[key] = value
        place += length
    return records


def _after_sparse_map(read_at: ReadAt, header: bytes, place: int, n_bytes: int) -> int:
    more = header[482]
    while more and place + _BLOCK <= n_bytes:
        block = read_at(place, _BLOCK)
        more = block[504] if len(block) == _BLOCK else 0
        place += _BLOCK
    return place
