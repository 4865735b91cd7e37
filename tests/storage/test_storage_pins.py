"""Pins: asked for or listed, on disk or on S3, a file has one version; and a plan knows that of every cutout's file."""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import md5
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.storage import pins
from engine.storage.pins import Pin, locate_cutouts, open_pinned, pin_catalogue, pin_file, pin_files, pin_of
from engine.storage.s3 import s3fs_client
from engine.storage.store import Store
from schemas.errors import InputNotFoundError, StoreError
from tests.storage.boxes import column_of, stack_of, tar_of

ODD_NAMES = [
    "J0012+34.jpg",
    "a b.jpg",
    "é.jpg",
    "星系.jpg",
    "😀.jpg",
    "100%.jpg",
    "a%2Bb.jpg",
    "x#images[3]",
    "q?a=b&c.jpg",
    "<'\">.jpg",
    "back\\slash",
    "tab\t.jpg",
    "~",
    ".hidden",
]


def write_all(store: Store, names: Iterable[str]) -> list[str]:
    """Write small files that differ in size and content; return their URIs."""
    for number, name in enumerate(names):
        store.write(name, name.encode() * (number % 3 + 1))
    return [store.uri(name) for name in names]


def one_by_one(uris: Iterable[str]) -> dict[str, Pin]:
    return {uri: pin for uri in uris if (pin := pin_file(uri))}


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, for whom no folder is closed."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.fixture
def small_listings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listings of two files and more, in pieces of five files, in pages of three keys."""
    monkeypatch.setattr(pins, "LISTED_FROM", 2)
    monkeypatch.setattr(pins, "FILES_PER_LISTING", 5)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked for one by one."""
    uris: list[str] = []

    def pin_and_note(uri: str) -> Pin | None:
        uris.append(uri)
        return pin_file(uri)

    monkeypatch.setattr(pins, "pin_file", pin_and_note)
    return uris


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From where pages are listed."""
    places: list[str] = []
    client = s3fs_client()
    call_s3 = client.call_s3

    def call_and_note(method: str, **settings: str) -> dict[str, object]:
        if method == "list_objects_v2":
            places.append(settings.get("StartAfter", ""))
        return call_s3(method, **settings)

    monkeypatch.setattr(client, "call_s3", call_and_note)
    return places


def test_a_pin_is_the_size_and_what_changes_with_every_write(store: Store) -> None:
    store.write("a.jpg", b"one")
    first = pin_file(store.uri("a.jpg"))
    assert first is not None
    assert first.size_bytes == 3
    assert first.version == (
        str(Path(store.uri("a.jpg")).stat().st_mtime_ns) if store.is_local else md5(b"one").hexdigest()
    )
    time.sleep(0.02)  # A file system counts time in ticks.
    store.write("a.jpg", b"two")
    second = pin_file(store.uri("a.jpg"))
    assert second is not None
    assert (second.size_bytes, second.version == first.version) == (3, False)


def test_an_open_file_has_the_pin_of_the_file_and_its_bytes(store: Store) -> None:
    store.write("a.jpg", b"pixels")
    opened = open_pinned(store.uri("a.jpg"))
    assert opened.pin == pin_file(store.uri("a.jpg"))
    assert opened.file.read_at(3, 2) == b"xel"


def test_an_empty_file_has_a_pin(store: Store) -> None:
    store.write("empty", b"")
    pin = pin_file(store.uri("empty"))
    assert pin is not None
    assert pin.size_bytes == 0
    assert pin_files([store.uri("empty")]) == {store.uri("empty"): pin}


def test_an_upload_in_parts_has_the_etag_of_parts(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.sink.PART_BYTES", 5 * 2**20)
    with s3_store.writing("large") as sink:
        sink.write(bytes(5 * 2**20))
        sink.write(b"x")
    pin = pin_file(s3_store.uri("large"))
    assert pin is not None
    assert pin.version.endswith("-2")
    assert pin.size_bytes == 5 * 2**20 + 1


def test_folders_and_nothing_have_no_pin(store: Store) -> None:
    store.write("folder/a.jpg", b"x")
    uris = [store.uri(path) for path in ("folder", "folder/", "nope", "folder/a.jpg/b", "folder/nope/x")]
    assert [pin_file(uri) for uri in uris] == [None] * 5
    assert pin_files(uris) == {}
    for uri in uris:
        with pytest.raises(InputNotFoundError, match="no"):
            open_pinned(uri)


def test_what_is_no_regular_file_on_disk_has_no_pin(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    for path in ("/dev/zero", tmp_path / "pipe", tmp_path / "loop", tmp_path / "broken", f"{tmp_path}/{'x' * 300}"):
        assert pin_file(str(path)) is None


def test_a_link_has_the_pin_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("a.jpg")
    assert pin_file(str(tmp_path / "link.jpg")) == pin_file(str(tmp_path / "a.jpg"))


def test_a_folder_that_may_not_be_entered_is_a_fault_and_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "a.jpg").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    with as_nobody(), pytest.raises(StoreError, match="Permission denied"):
        pin_file(str(tmp_path / "closed" / "a.jpg"))


@pytest.mark.usefixtures("small_listings")
@pytest.mark.parametrize("folder", ["", "d", "a b/é+%"])
def test_listed_pins_are_those_asked_for_and_missing_files_are_left_out(
    s3_store: Store, folder: str, listed: list[str]
) -> None:
    below = s3_store.below(folder) if folder else s3_store
    uris = write_all(below, [f"{number:02}.jpg" for number in range(23)])
    missing = [below.uri(name) for name in ("", "/", "-.jpg", "04", "04.jpg0", "04.jpg/x", "11b.jpg", "99.jpg")]
    expected = one_by_one(uris)
    assert list(expected) == uris
    for wanted in (uris, uris[::-1], uris + missing, uris[::2] + missing, uris * 2, uris[3:9]):
        listed.clear()
        assert pin_files(wanted) == {uri: expected[uri] for uri in dict.fromkeys(wanted) if uri in expected}
        assert listed
    assert pin_files(missing) == {}


@pytest.mark.usefixtures("small_listings")
def test_keys_that_begin_alike_are_told_apart(s3_store: Store) -> None:
    names = ["a" * length + end for length in range(1, 6) for end in ("", ".")]
    uris = write_all(s3_store, [*names, "a-", "a0", "a/b", "ab/c/d"])
    assert pin_files(uris) == one_by_one(uris)
    for uri in uris[::2]:
        others = [other for other in uris if other != uri]
        assert pin_files(others).keys() == set(others)


@pytest.mark.usefixtures("small_listings")
def test_keys_of_any_characters_are_listed_as_they_are(s3_store: Store) -> None:
    uris = write_all(s3_store, ODD_NAMES)
    expected = one_by_one(uris)
    assert len(expected) == len(ODD_NAMES)
    assert pin_files(uris) == expected


def test_names_of_any_characters_have_pins(store: Store) -> None:
    uris = write_all(store, ODD_NAMES)
    found = pin_files(uris)
    assert [found[uri].size_bytes for uri in uris] == [len(store.read(name)) for name in ODD_NAMES]


def test_files_of_many_folders_are_pinned_at_once(store: Store) -> None:
    uris = write_all(store, [f"{folder}/{number}.jpg" for folder in range(4) for number in range(3)])
    assert list(pin_files(uris)) == sorted(uris)
    assert pin_files([]) == {}


def test_a_folder_is_listed_once_for_many_of_its_files(s3_store: Store, asked: list[str], listed: list[str]) -> None:
    uris = write_all(s3_store, [f"{number:02}" for number in range(40)])
    assert len(pin_files(uris)) == 40
    assert (asked, len(listed)) == (uris[:1], 1)
    asked.clear()
    assert len(pin_files(uris[:20])) == 20
    assert (asked, len(listed)) == (uris[:20], 1)


def test_a_large_folder_of_which_few_files_are_wanted_is_not_listed_to_its_end(
    s3_store: Store, asked: list[str], listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "LISTED_FROM", 4)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    uris = write_all(s3_store, [f"{number:02}" for number in range(60)])
    assert pin_files(uris[::10]) == {uri: pin_file(uri) for uri in uris[::10]}
    assert (len(listed), len(asked)) == (1, 5)


@pytest.mark.usefixtures("small_listings")
def test_folders_between_the_files_are_passed_over(s3_store: Store, listed: list[str]) -> None:
    uris = write_all(s3_store, ["a", "c", "e", "g", "i"])
    write_all(s3_store, [f"{name}{number}/x" for name in "abcdefghi" for number in range(4)])
    assert pin_files(uris) == one_by_one(uris)
    assert listed


def test_a_bucket_that_is_not_there_has_no_files(s3_server: str) -> None:
    for bucket in ("no-such-bucket-of-ours", "B_ad b", ""):
        assert pin_file(f"s3://{bucket}/a") is None
        assert pin_files(f"s3://{bucket}/d/{number}" for number in range(40)) == {}
        assert pin_files(f"s3://{bucket}/{number}" for number in range(40)) == {}


def test_a_catalogue_of_one_file_is_that_file(store: Store) -> None:
    store.write("catalogue.csv", b"a,b")
    found = pin_catalogue(store.below("catalogue.csv"))
    assert found == [("", *pin_file(store.uri("catalogue.csv")))]  # type: ignore[misc]


def test_a_catalogue_in_a_folder_is_every_file_below_it_in_order(store: Store) -> None:
    names = ["b/2.parquet", "b/10.parquet", "a b/é+.parquet", "c", ".hidden"]
    write_all(store, [f"catalogue/{name}" for name in names])
    write_all(store, ["catalogue-2/x", "catalogue2"])
    found = pin_catalogue(store.below("catalogue"))
    assert found == [(name, *pin_file(store.uri(f"catalogue/{name}"))) for name in sorted(names)]  # type: ignore[misc]


def test_a_catalogue_that_is_not_there_has_no_files(store: Store) -> None:
    assert pin_catalogue(store.below("nope")) == []


@pytest.mark.usefixtures("small_listings")
def test_a_catalogue_on_s3_is_listed_to_its_end_without_markers_of_folders(s3_store: Store) -> None:
    names = [f"{number:02}/part" for number in range(11)]
    write_all(s3_store, names)
    bucket, _, prefix = s3_store.full_path().partition("/")
    for folder in ("", "00/", "empty/"):
        s3fs_client().call_s3("put_object", Bucket=bucket, Key=f"{prefix}/{folder}")
    assert [path for path, _, _ in pin_catalogue(s3_store)] == names


def png_of(number: int) -> bytes:
    return b"image %d" % number * (number + 1)


def numbered_tar(numbers: Iterable[int]) -> bytes:
    return tar_of({f"./é {number}.png": png_of(number) for number in numbers})


def catalogue_of(cutouts: list[str | None]) -> pa.Table:
    return pa.table(
        {"object_id": range(len(cutouts)), "cutout": pa.array(cutouts, pa.string()), "flag": ["x"] * len(cutouts)}
    )


def test_cutouts_of_every_kind_are_located_and_pinned(store: Store) -> None:
    store.write("a b.png", png_of(0))
    store.write("shard.tar", numbered_tar(range(3)))
    store.write("stack.h5", stack_of(np.zeros((3, 8, 8), np.uint8)))
    store.write("column.parquet", column_of([png_of(number) for number in range(3)]))
    store.write("folder.tar/1.png", png_of(1))
    store.write("empty.tar", numbered_tar([]))
    rows = [
        ("a b.png", "a b.png", "a b.png"),
        ("shard.tar/é 2.png", None, "shard.tar"),
        ("shard.tar/./é 0.png", None, "shard.tar"),
        ("shard.tar/nope.png", "shard.tar/nope.png", None),
        ("empty.tar/a.png", "empty.tar/a.png", None),
        ("nope.tar/a.png", "nope.tar/a.png", None),
        ("folder.tar/1.png", "folder.tar/1.png", "folder.tar/1.png"),
        ("stack.h5/2", "stack.h5#images[2]", "stack.h5"),
        ("stack.h5#other[2]", "stack.h5#other[2]", "stack.h5"),
        ("nope.h5/2", "nope.h5#images[2]", None),
        ("column.parquet#image[1]", "column.parquet#image[1]", "column.parquet"),
        ("column.parquet#bytes=4-9", "column.parquet#bytes=4-9", "column.parquet"),
        ("nope.png", "nope.png", None),
        ("shard.tar", "shard.tar", "shard.tar"),
    ]
    located = locate_cutouts(catalogue_of([*(store.uri(uri) for uri, _, _ in rows), None, ""]))
    assert located.column_names == ["object_id", "cutout", "flag", "cutout_size", "cutout_version"]
    assert [str(located.schema.field(name).type) for name in ("cutout_size", "cutout_version")] == ["int64", "string"]
    for row, (_, reference, file) in enumerate(rows):
        if reference:
            assert located["cutout"][row].as_py() == store.uri(reference)
        assert pin_of(located, row) == (pin_file(store.uri(file)) if file else None)
    assert [pin_of(located, row) for row in (-2, -1)] == [None, None]
    assert located["cutout"].to_pylist()[-2:] == [None, None]
    tar = store.read("shard.tar")
    for row, number in ((1, 2), (2, 0)):
        uri, _, span = located["cutout"][row].as_py().partition("#bytes=")
        first, last = map(int, span.split("-"))
        assert (uri, tar[first : last + 1]) == (store.uri("shard.tar"), png_of(number))


def test_a_catalogue_of_nulls_alone_is_located() -> None:
    located = locate_cutouts(catalogue_of([None, None]))
    assert located["cutout_size"].to_pylist() == [None, None]
    assert located.schema.field("cutout").type == pa.string()


def test_a_tar_that_is_replaced_while_it_is_planned_keeps_the_pin_of_what_was_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("shard.tar", numbered_tar([0, 1]))
    before = pin_file(store.uri("shard.tar"))

    def pin_after_a_change(uris: Iterable[str]) -> dict[str, Pin]:
        time.sleep(0.02)
        store.write("shard.tar", numbered_tar([1, 0]))
        return pin_files(uris)

    monkeypatch.setattr(pins, "pin_files", pin_after_a_change)
    located = locate_cutouts(catalogue_of([store.uri("shard.tar/é 1.png")]))
    assert pin_of(located, 0) == before != pin_file(store.uri("shard.tar"))


def test_a_damaged_tar_lacks_its_members_and_stops_nothing(store: Store) -> None:
    store.write("noise.tar", bytes(range(256)) * 20)
    store.write("cut.tar", numbered_tar(range(9))[:2000])
    uris = [store.uri("noise.tar/a"), store.uri("cut.tar/é 0.png"), store.uri("cut.tar/é 8.png")]
    located = locate_cutouts(catalogue_of(uris))
    assert [pin_of(located, row) is None for row in range(3)] == [True, False, True]


def test_a_tar_larger_than_what_is_read_at_once_is_read_to_its_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "_READ_AHEAD_BYTES", 700)
    names = [f"é {number}.png" for number in range(60)]
    store.write("shard.tar", numbered_tar(range(60)))
    located = locate_cutouts(catalogue_of([store.uri(f"shard.tar/{name}") for name in names]))
    tar = store.read("shard.tar")
    for number, reference in enumerate(located["cutout"].to_pylist()):
        first, last = map(int, reference.partition("#bytes=")[2].split("-"))
        assert tar[first : last + 1] == png_of(number)
