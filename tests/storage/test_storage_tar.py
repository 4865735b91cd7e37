"""Tar in: the byte ranges are those of tarfile, and no header, however hostile, leads out of bounds or on for ever."""

import io
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engine.storage.references import Bytes
from engine.storage.tar import tar_members

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "pax": tarfile.PAX_FORMAT, "gnu": tarfile.GNU_FORMAT}
BLOCK = 512


class Tar:
    """Bytes that are read by range, within bounds, and not without end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.n_reads = 0
        self.n_read_bytes = 0

    def read_at(self, start: int, n_bytes: int) -> bytes:
        assert 0 <= start <= start + n_bytes <= len(self.data), "read beyond the end of the tar"
        self.n_reads += 1
        self.n_read_bytes += n_bytes
        assert self.n_reads <= 2 * (len(self.data) // BLOCK + 1), "read without end"
        return self.data[start : start + n_bytes]


def members(data: bytes) -> dict[str, Bytes]:
    return tar_members(Tar(data).read_at, len(data))


def contents(data: bytes) -> dict[str, bytes]:
    return {name: data[start : start + n_bytes] for name, (start, n_bytes) in members(data).items()}


def by_tarfile(data: bytes) -> dict[str, bytes]:
    """The files that tarfile finds, the last of each name; nothing where a later link or folder took the name."""
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as tar:
        last = {member.name.removeprefix("./"): member for member in tar.getmembers()}
        # A GNU sparse member is regular for tarfile, which puts its holes back.
        files = {name: member for name, member in last.items() if member.isreg() and not member.sparse}
        return {name: tar.extractfile(member).read() for name, member in files.items()}  # type: ignore[union-attr]


def tarred(files: list[tuple[str, bytes]], kind: str = "pax", **settings: object) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=FORMATS[kind], **settings) as tar:  # type: ignore[call-overload]
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def header(name: bytes = b"a", size: bytes = b"00000000003\0", kind: bytes = b"0", **fields: bytes) -> bytes:
    """A ustar header by hand, with a right checksum; fields by offset, as `at_345=b"prefix"`."""
    block = bytearray(BLOCK)
    block[:100] = name.ljust(100, b"\0")
    block[124:136] = size.ljust(12, b"\0")
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    for key, value in fields.items():
        start = int(key.removeprefix("at_"))
        block[start : start + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // BLOCK) * BLOCK, b"\0")


def pax(records: bytes) -> bytes:
    return header(b"pax", b"%011o\0" % len(records), b"x") + padded(records)


LONG = "/".join(["a-folder-of-some-length"] * 12) + "/galaxy.jpg"
SPLIT = "/".join(["folder"] * 20) + "/galaxy.jpg"
"""Fits into ustar's name and prefix together."""


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "files",
    [
        [],
        [("a.jpg", b"")],
        [("a.jpg", b"x"), ("b.jpg", bytes(512)), ("c.jpg", b"y" * 513), ("d.jpg", b"z" * 20_000)],
        [("./a.jpg", b"1"), ("././b.jpg", b"2"), ("c/./d.jpg", b"3"), ("/e.jpg", b"4"), (".hidden", b"5")],
        [("a", b"first"), ("b", b"b"), ("a", b"last")],
        [("é α=β 星系/J0012+34 #1%20.jpg", b"1"), ("new\nline", b"2"), ("a;b=c", b"3")],
        [(SPLIT, b"split"), ("after.jpg", b"x")],
        [("x" * 100, b"1"), ("y" * 99, b"2"), ("after.jpg", b"3")],
    ],
)
def test_the_files_of_a_tar_are_those_that_tarfile_finds(kind: str, files: list[tuple[str, bytes]]) -> None:
    data = tarred(files, kind)
    assert contents(data) == by_tarfile(data) == {name.removeprefix("./"): content for name, content in files}


@pytest.mark.parametrize("kind", ["pax", "gnu"])
@pytest.mark.parametrize("name", [LONG, "é" * 60, "x" * 101, "d/" + "y" * 300, "z" * 4000])
def test_names_longer_than_a_header_are_whole(kind: str, name: str) -> None:
    data = tarred([(name, b"long"), ("after.jpg", b"short")], kind)
    assert contents(data) == by_tarfile(data) == {name: b"long", "after.jpg": b"short"}


@pytest.mark.parametrize("kind", FORMATS)
def test_folders_links_and_devices_are_left_out_and_the_files_between_them_are_not(kind: str) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=FORMATS[kind]) as tar:
        types = (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
        for number, type_ in enumerate(types):
            other = tarfile.TarInfo(f"other-{number}")
            other.type = type_
            other.linkname = "file-0" if type_ in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            tar.addfile(other)
            file = tarfile.TarInfo(f"file-{number}")
            file.size = 700 + number
            tar.addfile(file, io.BytesIO(bytes([number]) * file.size))
    data = sink.getvalue()
    assert contents(data) == by_tarfile(data) == {f"file-{n}": bytes([n]) * (700 + n) for n in range(6)}


def test_a_link_with_a_long_target_hides_no_file() -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "t" * 300
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("file"))
    assert contents(sink.getvalue()) == by_tarfile(sink.getvalue()) == {"file": b""}


def test_a_name_that_a_link_takes_over_later_is_a_file_no_more() -> None:
    first = header(b"a") + padded(b"old")
    assert contents(first) == {"a": b"old"}
    assert contents(first + header(b"a", b"0", b"1")) == {}
    assert contents(first + header(b"a", b"0", b"2") + header(b"a") + padded(b"new")) == {"a": b"new"}


def run_tar(folder: Path, *arguments: str) -> bytes:
    subprocess.run(["tar", "-C", str(folder), "-cf", str(folder / "t.tar"), *arguments], check=True)
    return (folder / "t.tar").read_bytes()


@pytest.mark.parametrize("kind", ["gnu", "pax", "ustar", "v7"])
def test_tars_of_gnu_tar_are_read(tmp_path: Path, kind: str) -> None:
    files = {"a.jpg": b"one", "folder/b c.jpg": bytes(2000), "folder/" + "n" * (60 if kind == "v7" else 120): b"n"}
    if kind == "ustar":
        files = {name[:100]: content for name, content in files.items()}
    (tmp_path / "in" / "folder").mkdir(parents=True)
    for name, content in files.items():
        (tmp_path / "in" / name).write_bytes(content)
    (tmp_path / "in" / "folder" / "hard-link").hardlink_to(tmp_path / "in" / "a.jpg")
    data = run_tar(tmp_path, f"--format={kind}", "--sort=name", "-C", "in", ".")
    assert contents(data) == by_tarfile(data)
    # The hard link sorts behind the file that it is a link to.
    assert contents(data) == files


@pytest.mark.parametrize("version", ["gnu", "0.0", "0.1", "1.0"])
def test_sparse_members_are_left_out_and_the_files_behind_them_are_not(tmp_path: Path, version: str) -> None:
    # Thirty islands, so that the old GNU map needs extension blocks.
    with (tmp_path / "b-sparse").open("wb") as sparse:
        for island in range(30):
            sparse.seek(island * 2**20)
            sparse.write(b"x" * 4096)
    (tmp_path / "a").write_bytes(b"before")
    (tmp_path / "c").write_bytes(b"after")
    form = ["--format=gnu"] if version == "gnu" else ["--format=pax", f"--sparse-version={version}"]
    data = run_tar(tmp_path, *form, "--sparse", "a", "b-sparse", "c")
    assert len(data) < 2**20, "the file is not sparse on this disk"
    assert contents(data) == {"a": b"before", "c": b"after"}


def test_sizes_in_binary_are_read_and_negative_ones_end_the_tar() -> None:
    binary = b"\x80" + (3).to_bytes(11, "big")
    data = header(b"a", binary) + padded(b"abc") + header(b"b") + padded(b"xyz")
    assert contents(data) == by_tarfile(data) == {"a": b"abc", "b": b"xyz"}
    assert contents(data + header(b"c", b"\xff" * 12) + padded(b"xyz") + data) == {"a": b"abc", "b": b"xyz"}


def test_a_size_in_a_pax_record_replaces_that_of_the_header() -> None:
    data = pax(b"12 size=600\n") + header(b"a", b"00000000000\0") + padded(b"x" * 600) + header(b"b") + padded(b"xyz")
    assert contents(data) == by_tarfile(data) == {"a": b"x" * 600, "b": b"xyz"}


def test_pax_records_of_solaris_and_of_the_whole_tar_hide_no_file() -> None:
    solaris = header(b"pax", b"%011o\0" % 12, b"X") + padded(b"12 path=abc\n")
    comment = header(b"pax_global_header", b"%011o\0" % 14, b"g") + padded(b"14 comment=abc")
    data = comment + solaris + header(b"short") + padded(b"xyz")
    assert contents(data) == by_tarfile(data) == {"abc": b"xyz"}


def test_a_checksum_of_signed_bytes_is_right_as_well() -> None:
    block = bytearray(header("é".encode()))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 if byte > 127 else byte for byte in block)
    data = bytes(block) + padded(b"abc")
    assert contents(data) == by_tarfile(data) == {"é": b"abc"}


def test_an_old_folder_is_told_from_a_file_by_its_slash() -> None:
    data = header(b"folder/", b"0", b"\0") + header(b"a", kind=b"\0") + padded(b"abc")
    assert contents(data) == by_tarfile(data) == {"a": b"abc"}


def test_the_prefix_field_is_a_folder_only_in_ustar() -> None:
    ustar = header(b"a.jpg", at_345=b"folder") + padded(b"abc")
    assert contents(ustar) == by_tarfile(ustar) == {"folder/a.jpg": b"abc"}
    gnu = header(b"a.jpg", at_257=b"ustar  \0", at_345=b"12345670123") + padded(b"abc")
    assert contents(gnu) == {"a.jpg": b"abc"}


HOSTILE_SIZES = [
    b"-0000000001\0",
    b"+0000000001\0",
    b"0o000000017\0",
    b"0_000000017\0",
    b"00000000009\0",
    b"0000 000001\0",
    b"\xff" * 12,
    b"\x80" + b"\xff" * 11,
    b"\x80" + (2**63).to_bytes(11, "big"),
    b"\x80" + (10**15 + 1).to_bytes(11, "big"),
    b"\x81" + bytes(11),
    b"abcdefghijkl",
    "٣٣٣٣٣".encode(),
]


@pytest.mark.fault(25, "sizes of members beyond reason")
@pytest.mark.parametrize("size", HOSTILE_SIZES)
@pytest.mark.parametrize("kind", [b"0", b"L", b"x", b"g", b"K", b"S", b"5", b"V"])
def test_a_hostile_size_ends_the_tar_and_keeps_what_came_before(size: bytes, kind: bytes) -> None:
    data = header(b"a") + padded(b"abc") + header(b"bad", size, kind) + header(b"c") + padded(b"xyz")
    assert contents(data) == {"a": b"abc"}


@pytest.mark.parametrize("value", [b"-1", b"x", b"", b"1" * 19, b"9" * 5000, b"1e3", b"0x10", b" 1"])
def test_a_hostile_size_in_a_pax_record_ends_the_tar(value: bytes) -> None:
    # Python refuses to read integers of more than 4,300 digits, with an error of its own.
    record = b" size=" + value + b"\n"
    length = next(n for n in range(len(record), len(record) + 9) if len(str(n)) + len(record) == n)
    data = header(b"a") + padded(b"abc") + pax(b"%d" % length + record) + header(b"b") + padded(b"xyz")
    assert contents(data) == {"a": b"abc"}


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + (10**15).to_bytes(11, "big")])
def test_a_member_that_goes_beyond_the_end_says_so(size: bytes) -> None:
    data = header(b"a") + padded(b"abc") + header(b"huge", size) + padded(b"abc")
    found = members(data)
    assert list(found) == ["a", "huge"]
    assert found["huge"].start == 3 * BLOCK
    assert found["huge"].start + found["huge"].n_bytes > len(data)


@pytest.mark.parametrize("kind", [b"L", b"x", b"K", b"g"])
def test_a_name_that_goes_beyond_the_end_ends_the_tar(kind: bytes) -> None:
    data = header(b"a") + padded(b"abc") + header(b"bad", b"00000100000\0", kind) + padded(b"abc")
    assert contents(data) == {"a": b"abc"}


def test_a_name_of_two_megabytes_is_not_read() -> None:
    data = header(b"a") + padded(b"abc") + header(b"bad", b"%011o\0" % 2**21, b"L") + bytes(2**21)
    tar = Tar(data)
    assert list(tar_members(tar.read_at, len(data))) == ["a"]
    assert tar.n_read_bytes < 10 * BLOCK


def test_of_a_hundred_thousand_pax_records_the_last_counts() -> None:
    records = b"6 a=b\n" * (2**20 // 6 - 3) + b"14 path=found\n"
    assert contents(pax(records) + header(b"a") + padded(b"abc")) == {"found": b"abc"}


@pytest.mark.parametrize(
    "records", [b"", b"x", b" ", b"5", b"0 \n", b"1 a=b\n", b"99 path=b\n", b"-6 a=b\n", b"12path=b\n", b" 9 path=b\n"]
)
def test_damaged_pax_records_leave_the_name_of_the_header(records: bytes) -> None:
    assert contents(pax(records) + header(b"a") + padded(b"abc")) == {"a": b"abc"}


def test_a_sparse_map_without_end_ends_with_the_tar() -> None:
    more = bytearray(BLOCK)
    more[504] = 1
    assert members(header(b"s", b"0", b"S", at_482=b"\1") + bytes(more) * 50) == {}


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda block: block[:3] + bytes([block[3] ^ 4]) + block[4:],
    "checksum of letters": lambda block: block[:148] + b"abcdefgh" + block[156:],
    "zeros": lambda block: bytes(BLOCK),
    "noise": lambda block: bytes((7 * n + n * n) % 256 for n in range(BLOCK)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_follows_a_damaged_header_is_left_out(damage: str) -> None:
    data = header(b"a") + padded(b"abc") + DAMAGE[damage](header(b"b")) + padded(b"xyz") + header(b"c") + padded(b"xyz")
    assert contents(data) == {"a": b"abc"}


def test_no_tar_and_no_bytes_hold_no_members() -> None:
    for data in (b"", b"x", bytes(511), bytes(10_240), b"\x1f\x8b" + bytes(2000), b"PK\3\4" * 500):
        assert members(data) == {}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_tar_has_the_members_before_its_end(kind: str) -> None:
    files = [(f"{'long-' * 30 if kind != 'ustar' else ''}{n}.jpg", bytes([n]) * (300 * n)) for n in range(1, 6)]
    data = tarred(files, kind)
    whole = members(data)
    for length in range(0, len(data), 100):
        found = members(data[:length])
        assert found == {name: place for name, place in whole.items() if name in found}
        assert [name for name, (start, n_bytes) in whole.items() if start + n_bytes <= length and n_bytes] == [
            name for name, (start, n_bytes) in found.items() if start + n_bytes <= length
        ]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=130).filter(
    lambda name: name not in (".", "..")
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1500)), max_size=6), st.sampled_from(["pax", "gnu"]))
@example([("a" * 100, b"x"), ("b" * 101, b"y")], "gnu")
def test_whatever_is_put_into_a_tar_is_found_there(files: list[tuple[str, bytes]], kind: str) -> None:
    data = tarred(files, kind, encoding="utf-8")
    assert contents(data) == by_tarfile(data) == dict(files)


BLOCKS = st.one_of(
    st.builds(
        header,
        st.sampled_from([b"a", b"./b", b"c/", b""]),
        st.one_of(st.sampled_from(HOSTILE_SIZES), st.integers(0, 3000).map(lambda size: b"%011o\0" % size)),
        st.sampled_from([b"0", b"\0", b"7", b"1", b"5", b"x", b"g", b"L", b"K", b"S", b"X", b"V", b"?", b""]),
        at_482=st.sampled_from([b"\0", b"\1"]),
    ),
    st.binary(min_size=BLOCK, max_size=BLOCK),
    st.sampled_from(
        [bytes(BLOCK), padded(b"12 size=600\n"), padded(b"22 GNU.sparse.major=1\n"), padded(b"11 path=x\n")]
    ),
)


@settings(deadline=None, max_examples=150)
@given(st.lists(BLOCKS, max_size=12), st.integers(0, BLOCK))
def test_no_arrangement_of_headers_leads_out_of_bounds_or_on_for_ever(blocks: list[bytes], cut: int) -> None:
    data = b"".join(blocks)
    data = data[: len(data) - cut]
    for name, (start, n_bytes) in members(data).items():
        assert not name.startswith("./")
        assert BLOCK <= start <= len(data)
        assert 0 <= n_bytes <= 10**15


def test_a_file_that_shrinks_while_it_is_read_ends_the_tar() -> None:
    data = tarred([("a", b"abc"), ("b", b"xyz")])
    for length in range(0, len(data), 256):
        found = tar_members(lambda start, n_bytes, end=length: data[start : min(start + n_bytes, end)], len(data))
        assert found.items() <= members(data).items()
