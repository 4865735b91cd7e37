"""The reader: every cutout as it was planned, from files and containers on disk and S3; or the reason why not."""

import io
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.storage import cutouts
from engine.storage.cutouts import CutoutReader, changed_containers
from engine.storage.images import CutoutError, decode_cutout
from engine.storage.pins import Opened, Pin, locate_cutouts, open_pinned, pin_file, pin_of
from engine.storage.references import Bytes, bytes_of, cell_of
from engine.storage.store import Store
from schemas.config import CutoutConfig
from schemas.reject import RejectReason
from tests.storage.boxes import column_of, flipped, hugging_face, stack_of, tar_of

ANY_PIN = Pin(6, "1")
IMAGES = [bytes([number]) * (1000 + number) for number in range(12)]
PIXELS = np.random.default_rng(0).integers(0, 255, (12, 12, 14, 3), dtype=np.uint8)

BOXES: Mapping[str, bytes] = {
    "a b#é.png": IMAGES[3],
    "shard.tar": tar_of({f"{number}.png": image for number, image in enumerate(IMAGES)}),
    "plain.parquet": column_of([*IMAGES[:11], None]),
    "hf.parquet": column_of(hugging_face([*IMAGES[:11], None]), compression="zstd"),
    "stack.h5": stack_of(PIXELS, chunks=(2, 12, 14, 1), compression="gzip"),
}
PATHS: Mapping[str, Callable[[int], str]] = {
    "a b#é.png": lambda number: "a b#é.png",
    "shard.tar": lambda number: f"shard.tar/{number}.png",
    "plain.parquet": lambda number: cell_of("plain.parquet", "image", number),
    "hf.parquet": lambda number: cell_of("hf.parquet", "image", number),
    "stack.h5": lambda number: f"stack.h5/{number}",
}
"""Where cutout 3 is, and where the others are in containers."""


def read(uri: str | None, max_bytes: int = 100, pin: Pin | None = ANY_PIN) -> bytes:
    data = CutoutReader(CutoutConfig(max_bytes=max_bytes)).read(uri, pin)
    assert isinstance(data, bytes)
    return data


def refused_uri(uri: str | None, max_bytes: int = 100, pin: Pin | None = ANY_PIN) -> RejectReason:
    return reason(lambda: read(uri, max_bytes, pin))


def reason(action: Callable[[], object]) -> RejectReason:
    with pytest.raises(CutoutError) as caught:
        action()
    assert caught.value.detail
    return caught.value.reason


def reader(**limits: Any) -> CutoutReader:
    return CutoutReader(CutoutConfig(**limits))


def planned(store: Store, *paths: str) -> list[tuple[str, Pin | None]]:
    """References and pins, as a plan would hold them."""
    located = locate_cutouts(pa.table({"cutout": [store.uri(path) for path in paths]}))
    return [(located["cutout"][row].as_py(), pin_of(located, row)) for row in range(len(paths))]


def put(store: Store, *names: str) -> None:
    for name in names:
        store.write(name, BOXES[name])


def expected(box: str, number: int) -> bytes | np.ndarray:
    return PIXELS[number] if box == "stack.h5" else IMAGES[number]


def is_same(found: bytes | np.ndarray, expected: bytes | np.ndarray) -> bool:
    return type(found) is type(expected) and bool(np.all(np.asarray(found) == np.asarray(expected)))


def test_a_cutout_is_read_from_its_uri(store: Store) -> None:
    store.write("a b/é.jpg", b"pixels")
    uri = store.uri("a b/é.jpg")
    assert read(uri, max_bytes=6, pin=pin_file(uri)) == b"pixels"


def test_a_missing_cutout_is_not_found(store: Store) -> None:
    assert refused_uri(store.uri("nope.jpg")) is RejectReason.NOT_FOUND
    assert refused_uri(store.uri("no/such/folder.jpg")) is RejectReason.NOT_FOUND


def test_a_folder_is_no_cutout(store: Store) -> None:
    store.write("folder/a.jpg", b"x")
    assert refused_uri(store.uri("folder")) is RejectReason.NOT_FOUND
    assert refused_uri(store.uri("folder") + "/") is RejectReason.NOT_FOUND


def test_a_path_below_a_file_is_not_found(store: Store) -> None:
    store.write("a.jpg", b"x")
    assert refused_uri(store.uri("a.jpg/b.jpg")) is RejectReason.NOT_FOUND


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "",
        "http://example.org/a.jpg",
        "ftp://x",
        "://",
        "~no-such-user-here/a.jpg",
        "/nul\0byte.jpg",
        "/" + "a" * 300,
        "/dev",
        "/dev/zero",
        "/dev/zero#bytes=0-5",
        "/nope.h5#images[0]",
        "/nope.parquet#image[0]",
    ],
)
def test_a_uri_that_leads_nowhere_is_a_reject_and_stops_nothing(uri: str | None) -> None:
    assert refused_uri(uri) is RejectReason.NOT_FOUND


@pytest.mark.parametrize(
    "rest", ["", "survey", "survey/", "/key", "survey//key", "no-such-bucket-of-ours/key", "B_ad b/x"]
)
def test_an_s3_uri_that_leads_nowhere_is_a_reject_and_stops_nothing(s3_server: str, rest: str) -> None:
    assert refused_uri(f"s3://{rest}") is RejectReason.NOT_FOUND


@pytest.mark.parametrize("box", BOXES)
def test_a_cutout_that_was_not_there_when_it_was_planned_is_not_found(store: Store, box: str) -> None:
    [(text, pin)] = planned(store, PATHS[box](3))
    assert pin is None
    put(store, box)
    assert reason(lambda: reader().read(text, pin)) is RejectReason.NOT_FOUND


@pytest.mark.parametrize("box", BOXES)
def test_cutouts_are_what_was_put_in(store: Store, box: str) -> None:
    put(store, box)
    numbers = [3] if box == "a b#é.png" else [3, 0, 10, 5, 4, 3]
    shared = reader()
    for number, (text, pin) in zip(numbers, planned(store, *map(PATHS[box], numbers)), strict=True):
        assert is_same(shared.read(text, pin), expected(box, number))


@pytest.mark.parametrize("box", BOXES)
def test_a_file_deleted_after_planning_is_not_found(store: Store, box: str) -> None:
    put(store, box)
    [(text, pin)] = planned(store, PATHS[box](3))
    store.delete(box)
    with pytest.raises(CutoutError, match="deleted since it was planned") as caught:
        reader().read(text, pin)
    assert caught.value.reason is RejectReason.NOT_FOUND


@pytest.mark.fault(11, "a file that is written again")
@pytest.mark.parametrize("change", ["same size", "longer", "shorter"])
@pytest.mark.parametrize("box", BOXES)
def test_a_file_replaced_after_planning_is_changed(store: Store, box: str, change: str) -> None:
    put(store, box)
    [(text, pin)] = planned(store, PATHS[box](3))
    data = BOXES[box]
    time.sleep(0.02)  # A file system counts time in ticks.
    store.write(box, {"same size": flipped(data, len(data) // 2), "longer": data + b"x", "shorter": data[:-1]}[change])
    shared = reader()
    for _ in range(2):
        with pytest.raises(CutoutError, match=r"planned as version .* of .* bytes, found version") as caught:
            shared.read(text, pin)
        assert caught.value.reason is RejectReason.CHANGED


@pytest.mark.parametrize("box", BOXES)
def test_a_container_that_is_open_is_checked_again_for_another_pin(store: Store, box: str) -> None:
    put(store, box)
    [(text, pin)] = planned(store, PATHS[box](3))
    assert pin is not None
    shared = reader()
    shared.read(text, pin)
    assert reason(lambda: shared.read(text, pin._replace(version="other"))) is RejectReason.CHANGED
    shared.read(text, pin)


@pytest.mark.parametrize("box", [box for box in BOXES if box != "stack.h5"])
def test_a_cutout_that_is_too_large_is_a_reject_and_one_as_large_as_allowed_is_not(store: Store, box: str) -> None:
    put(store, box)
    [(text, pin)] = planned(store, PATHS[box](3))
    assert reason(lambda: reader(max_bytes=1002).read(text, pin)) is RejectReason.TOO_LARGE
    assert reader(max_bytes=1003).read(text, pin) == IMAGES[3]


def test_a_cutout_that_is_too_large_is_not_even_opened(store: Store) -> None:
    assert refused_uri(store.uri("nope.jpg"), pin=Pin(101, "1")) is RejectReason.TOO_LARGE
    assert refused_uri(store.uri("nope.tar#bytes=0-100"), pin=Pin(999, "1")) is RejectReason.TOO_LARGE


@pytest.mark.parametrize("span", [(0, 7), (3, 4), (6, 1), (7, 1), (10**17, 5), (10**17, 0), (10**17, -5)])
def test_bytes_beyond_the_end_of_a_file_are_an_integrity_error_and_stop_nothing(
    store: Store, span: tuple[int, int]
) -> None:
    store.write("a.tar", b"pixels")
    uri = store.uri("a.tar")
    assert refused_uri(bytes_of(uri, Bytes(*span)), pin=pin_file(uri)) is RejectReason.INTEGRITY


@pytest.mark.parametrize(("span", "found"), [((0, 6), b"pixels"), ((5, 1), b"s"), ((3, 0), b""), ((4, -2), b"")])
def test_bytes_within_a_file_are_those_bytes(store: Store, span: tuple[int, int], found: bytes) -> None:
    store.write("a.bin", b"pixels")
    uri = store.uri("a.bin")
    assert read(bytes_of(uri, Bytes(*span)), pin=pin_file(uri)) == found


def test_the_last_member_of_a_truncated_tar_is_an_integrity_error(store: Store) -> None:
    store.write("cut.tar", BOXES["shard.tar"][: 512 * 5])
    (first, second) = planned(store, "cut.tar/0.png", "cut.tar/1.png")
    assert reader().read(*first) == IMAGES[0]
    assert reason(lambda: reader().read(*second)) is RejectReason.INTEGRITY


def test_a_member_that_is_not_in_its_tar_is_not_found(store: Store) -> None:
    put(store, "shard.tar")
    [(text, pin)] = planned(store, "shard.tar/99.png")
    assert reason(lambda: reader().read(text, pin)) is RejectReason.NOT_FOUND


@pytest.mark.parametrize("box", ["plain.parquet", "hf.parquet"])
def test_a_null_image_is_not_found(store: Store, box: str) -> None:
    put(store, box)
    [(text, pin)] = planned(store, PATHS[box](11))
    with pytest.raises(CutoutError, match=r"no image in row 11 of column 'image' of .*\.parquet") as caught:
        reader().read(text, pin)
    assert caught.value.reason is RejectReason.NOT_FOUND


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("plain.parquet#image[12]", RejectReason.NOT_FOUND),
        ("plain.parquet#nope[0]", RejectReason.NOT_FOUND),
        ("plain.parquet#ra[0]", RejectReason.DECODE_ERROR),
        ("stack.h5#images[12]", RejectReason.NOT_FOUND),
        ("stack.h5#nope[0]", RejectReason.NOT_FOUND),
        ("stack.h5#/[0]", RejectReason.SHAPE),
        ("shard.tar#image[0]", RejectReason.DECODE_ERROR),
        ("not.h5#images[0]", RejectReason.DECODE_ERROR),
        ("cut.parquet#image[0]", RejectReason.DECODE_ERROR),
        ("cut.h5#images[0]", RejectReason.DECODE_ERROR),
        ("flipped.parquet#image[5]", RejectReason.INTEGRITY),
    ],
)
def test_a_cell_that_cannot_be_read_is_a_reject_with_its_reason(
    store: Store, reference: str, expected: RejectReason
) -> None:
    put(store, "plain.parquet", "stack.h5", "shard.tar")
    store.write("not.h5", b"<html></html>")
    store.write("cut.parquet", BOXES["plain.parquet"][:-20])
    store.write("cut.h5", BOXES["stack.h5"][:-20])
    store.write("flipped.parquet", flipped(BOXES["plain.parquet"], BOXES["plain.parquet"].index(IMAGES[5]) + 500))
    [(text, pin)] = planned(store, reference)
    shared = reader()
    for _ in range(2):
        assert reason(lambda: shared.read(text, pin)) is expected


def test_bytes_that_are_not_those_of_their_md5_are_an_integrity_error(s3_store: Store) -> None:
    # Nothing that S3 stores can be damaged from outside, so the pin is of what was meant to be there.
    s3_store.write("a.jpg", b"pixelz")
    uri, pin = s3_store.uri("a.jpg"), Pin(6, md5(b"pixels").hexdigest())
    found = open_pinned(uri)
    wrong = Opened(found.file, pin)
    with pytest.MonkeyPatch.context() as patch:
        opened: list[str] = []
        patch.setattr(cutouts, "open_pinned", lambda uri: opened.append(uri) or wrong)  # type: ignore[func-returns-value]
        with pytest.raises(CutoutError, match=r"MD5 is the ETag .*check_md5: false") as caught:
            reader().read(uri, pin)
        assert caught.value.reason is RejectReason.INTEGRITY
        assert opened == [uri] * cutouts.READS
        assert reader(check_md5=False).read(uri, pin) == b"pixelz"


def test_etags_of_uploads_in_parts_are_no_md5(s3_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.sink.PART_BYTES", 5 * 2**20)
    with s3_store.writing("large.fits") as sink:
        sink.write(bytes(5 * 2**20))
        sink.write(b"end")
    uri = s3_store.uri("large.fits")
    pin = pin_file(uri)
    assert pin is not None
    assert pin.version.endswith("-2")
    data = reader().read(uri, pin)
    assert data == bytes(5 * 2**20) + b"end"


def test_pieces_of_files_are_not_compared_with_the_md5_of_the_whole(s3_store: Store) -> None:
    put(s3_store, "shard.tar")
    [(text, pin)] = planned(s3_store, "shard.tar/3.png")
    assert pin is not None
    assert pin.version == md5(BOXES["shard.tar"]).hexdigest()
    assert reader(check_md5=True).read(text, pin) == IMAGES[3]


@pytest.mark.parametrize("box", [box for box in BOXES if box != "a b#é.png"])
def test_a_container_is_opened_once_by_many_threads(store: Store, box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, box)
    cells = planned(store, *(PATHS[box](number % 11) for number in range(64)))
    opened: list[str] = []

    def open_slowly(uri: str) -> Opened:
        opened.append(uri)
        time.sleep(0.02)  # Long enough for the other threads to come.
        return open_pinned(uri)

    monkeypatch.setattr(cutouts, "open_pinned", open_slowly)
    shared, barrier = reader(), threading.Barrier(16)

    def check(number: int) -> bool:
        if number < 16:
            barrier.wait()
        return is_same(shared.read(*cells[number]), expected(box, number % 11))

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(check, range(64)))
    assert opened == [store.uri(box)]


def test_no_more_containers_stay_open_than_allowed(local_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts, "CONTAINERS_OPEN", 3)
    for number in range(8):
        local_store.write(f"{number}.tar", BOXES["shard.tar"])
        local_store.write(f"{number}.parquet", BOXES["plain.parquet"])
    cells = planned(
        local_store, *(f"{n}.tar/{n}.png" for n in range(8)), *(f"{n}.parquet#image[{n}]" for n in range(8))
    )
    opened: list[Opened] = []
    monkeypatch.setattr(cutouts, "open_pinned", lambda uri: opened.append(open_pinned(uri)) or opened[-1])  # type: ignore[func-returns-value]
    shared = reader()
    for number, cell in enumerate(cells):
        assert shared.read(*cell) == IMAGES[number % 8]
        assert len(shared._files._slots) <= 3
        assert len(shared._containers._slots) <= 3
    shared.read(*cells[7])
    assert len(opened) == 16
    shared.read(*cells[0])
    assert len(opened) == 17


def test_row_groups_of_all_columns_together_are_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutouts, "ROW_GROUPS_KEPT_BYTES", 10_000)
    store.write("a.parquet", BOXES["plain.parquet"])
    store.write("b.parquet", BOXES["hf.parquet"])
    rows = [(file, row) for row in range(11) for file in ("a.parquet", "b.parquet")]
    cells = planned(store, *(cell_of(file, "image", row) for file, row in rows))
    shared = reader()
    for (_, row), cell in zip(rows, cells, strict=True):
        assert shared.read(*cell) == IMAGES[row]
        assert shared._row_groups._weight <= 10_000
    assert len(shared._row_groups._slots) == 2


def test_a_damaged_row_group_is_not_read_again_for_every_row(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_store.write("a.parquet", flipped(BOXES["plain.parquet"], BOXES["plain.parquet"].index(IMAGES[5]) + 500))
    read_groups: list[int] = []
    whole = cutouts.ImageColumn.read
    monkeypatch.setattr(
        cutouts.ImageColumn,
        "read",
        lambda self, group: read_groups.append(group) or whole(self, group),  # type: ignore[func-returns-value]
    )
    shared = reader()
    for text, pin in planned(local_store, *(cell_of("a.parquet", "image", row) for row in range(4, 8))):
        with pytest.raises(CutoutError, match="CRC") as caught:
            shared.read(text, pin)
        assert caught.value.reason is RejectReason.INTEGRITY
    assert read_groups == [1]


def test_one_image_has_the_same_pixels_from_a_file_a_tar_a_column_and_a_stack(store: Store) -> None:
    pixels = np.random.default_rng(5).integers(0, 255, (20, 24, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    png = sink.getvalue()
    store.write("a.png", png)
    store.write("a.tar", tar_of({"0.png": b"", "a.png": png}))
    store.write("plain.parquet", column_of([b"", png]))
    store.write("hf.parquet", column_of(hugging_face([b"", png])))
    for name, stacked in (("last", pixels), ("first", pixels.transpose(2, 0, 1))):
        store.write(f"{name}.h5", stack_of(np.stack([np.zeros_like(stacked), stacked]), compression="gzip"))
    names = ("a.png", "a.tar/a.png", "plain.parquet#image[1]", "hf.parquet#image[1]", "last.h5/1", "first.h5/1")
    for text, pin in planned(store, *names):
        found = decode_cutout(reader().read(text, pin), CutoutConfig())
        np.testing.assert_array_equal(found.values, pixels.transpose(2, 0, 1))
        assert (found.values.dtype, found.full_scale) == (np.uint8, 255.0)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Pin | None, bytes | np.ndarray]]:
    """Cutouts of every kind: reference, pin, and what it is."""
    store = Store(str(tmp_path_factory.mktemp("mixed")))
    put(store, *BOXES)
    places = [(box, number) for box in BOXES for number in ([3] if box == "a b#é.png" else range(11))]
    cells = planned(store, *(PATHS[box](number) for box, number in places))
    return [(*cell, expected(*place)) for cell, place in zip(cells, places, strict=True)]


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.sampled_from([1, 2, 64]), st.sampled_from([1, 3000, 2**20]))
def test_sixteen_threads_with_one_reader_get_the_right_cutouts(
    mixed: list[tuple[str, Pin | None, bytes | np.ndarray]], seed: int, containers_open: int, kept_bytes: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutouts, "CONTAINERS_OPEN", containers_open)
        patch.setattr(cutouts, "ROW_GROUPS_KEPT_BYTES", kept_bytes)
        shared = reader()
    order = np.random.default_rng(seed).integers(0, len(mixed), 200)
    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(lambda at: is_same(shared.read(*mixed[at][:2]), mixed[at][2]), order))


@pytest.mark.fault(13, "a container that is written again while it is open")
def test_a_container_that_is_replaced_while_it_is_open_is_noticed(store: Store) -> None:
    store.write("shard.tar", b"0123456789")
    tar = store.uri("shard.tar")
    names = [f"{tar}#bytes=2-4", f"{tar}#bytes=5-9", store.uri("absent.tar#bytes=0-1"), store.uri("file.png"), None]
    store.write("file.png", b"before")
    objects = locate_cutouts(pa.table({"cutout": names}))
    assert reader().read(f"{tar}#bytes=2-4", pin_of(objects, 0)) == b"234"
    assert changed_containers(objects) == {}
    store.write("shard.tar", b"abcdefghijk")
    store.write("file.png", b"after")  # No container: it is opened for each read.
    assert changed_containers(objects).keys() == {tar}
    assert changed_containers(objects.slice(2)) == {}
    store.delete("shard.tar")
    assert "found nothing" in changed_containers(objects)[tar]
