"""Containers: every image as it was put in; and of damaged and hostile ones a reject, never another image."""

import io
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.storage import containers
from engine.storage.containers import ImageColumn, ImageStack, is_image_type
from engine.storage.images import CutoutError
from schemas.errors import StoreError
from schemas.reject import RejectReason
from tests.storage.boxes import column_of, flipped, hugging_face, stack_of

IMAGES = [bytes([number]) * (1000 + number) for number in range(10)]
PIXELS = np.random.default_rng(0).integers(0, 255, (10, 12, 14, 3), dtype=np.uint8)


class Disk(io.RawIOBase):
    """A file on a disk that fails, shrinks or damages what is read, from a moment on; counts what is read."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)
        self.read_places: list[int] = []
        self.fails = False
        self.damages_reads = 0
        self.length = len(data)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(place, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        place = self._file.tell()
        self.read_places.append(place)
        if self.fails:
            raise OSError(5, "Input/output error")
        data = self._file.read(len(buffer))[: max(0, self.length - place)]
        if self.damages_reads:
            self.damages_reads -= 1
            data = flipped(data, len(data) // 2)
        buffer[: len(data)] = data
        return len(data)


def on(disk: Disk) -> pa.NativeFile:
    return pa.PythonFile(disk, mode="r")


def column(data: bytes, name: str = "image") -> ImageColumn:
    return ImageColumn(pa.BufferReader(data), name)


def stack(data: bytes, name: str = "images") -> ImageStack:
    return ImageStack(pa.BufferReader(data), name)


def image(images: ImageColumn, row: int) -> bytes | None:
    group, place = images.place(row)
    return images.read(group)[place].as_py()


def reason(action: Callable[[], object]) -> RejectReason:
    with pytest.raises(CutoutError) as caught:
        action()
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("rows_per_group", [1, 3, 10, 100])
@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "struct"])
def test_the_images_of_a_column_are_those_that_were_put_in(kind: str, rows_per_group: int) -> None:
    put_in: list[bytes | None] = [*IMAGES, None, b""]
    array = hugging_face(put_in) if kind == "struct" else pa.array(put_in, getattr(pa, kind)())
    images = column(column_of(array, rows_per_group=rows_per_group))
    assert [image(images, row) for row in range(12)] == put_in


@pytest.mark.parametrize("settings", [{"compression": "zstd"}, {"use_dictionary": True}, {"data_page_version": "2.0"}])
def test_images_are_read_however_their_pages_are_written(settings: dict[str, object]) -> None:
    images = column(column_of(IMAGES * 3, rows_per_group=7, data_page_size=3000, **settings))
    assert [image(images, row) for row in range(30)] == IMAGES * 3


@pytest.mark.parametrize("name", ["image.bytes", "é b", "a[0]", "", "id2"])
def test_a_column_is_found_by_any_name(name: str) -> None:
    assert image(column(column_of(IMAGES, name), name), 7) == IMAGES[7]


def test_a_column_of_images_beside_one_that_begins_alike_is_not_mixed_up_with_it() -> None:
    table = pa.table({"image": hugging_face(IMAGES), "image.bytes2": IMAGES[::-1], "imag": IMAGES[::-1]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    assert image(column(sink.getvalue().to_pybytes()), 2) == IMAGES[2]


def test_a_row_has_its_place_in_its_row_group() -> None:
    images = column(column_of(IMAGES, rows_per_group=4))
    assert [images.place(row) for row in (0, 3, 4, 7, 8, 9)] == [(0, 0), (0, 3), (1, 0), (1, 3), (2, 0), (2, 1)]


@pytest.mark.parametrize("row", [-1, 10, 10**17])
def test_a_row_that_is_not_there_is_not_found(row: int) -> None:
    assert reason(lambda: column(column_of(IMAGES)).place(row)) is RejectReason.NOT_FOUND
    assert reason(lambda: stack(stack_of(PIXELS)).image(row)) is RejectReason.NOT_FOUND


def test_a_column_without_rows_has_none() -> None:
    assert reason(lambda: column(column_of(pa.array([], pa.binary()))).place(0)) is RejectReason.NOT_FOUND


def test_a_column_or_dataset_that_is_not_there_is_not_found() -> None:
    assert reason(lambda: column(column_of(IMAGES), "nope")) is RejectReason.NOT_FOUND
    assert reason(lambda: column(column_of(hugging_face(IMAGES)), "image.bytes")) is RejectReason.NOT_FOUND
    for name in ("nope", "no/pe", "images/nope", "../images"):
        assert reason(lambda name=name: stack(stack_of(PIXELS), name)) is RejectReason.NOT_FOUND


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        ["a", "b"],
        [[b"a"], [b"b"]],
        [{"bytes": 1}, {"bytes": 2}],
        [{"path": "a"}, {"path": "b"}],
        [b"aa", b"bb"],
    ],
)
def test_a_column_that_holds_no_images_is_a_decode_error(values: list[Any]) -> None:
    array = pa.array(values, pa.binary(2)) if values[0] == b"aa" else pa.array(values)
    assert not is_image_type(array.type)
    assert reason(lambda: column(column_of(array))) is RejectReason.DECODE_ERROR


@pytest.mark.parametrize(
    "data", [b"", b"x", b"PAR1", b"PAR1PAR1", bytes(3000), b"\x89HDF\r\n\x1a\n", b"<html></html>" * 99]
)
def test_what_is_no_container_is_a_decode_error(data: bytes) -> None:
    assert reason(lambda: column(data)) is RejectReason.DECODE_ERROR
    assert reason(lambda: stack(data)) is RejectReason.DECODE_ERROR


@pytest.mark.parametrize("missing", [1, 8, 100, 5000])
def test_a_truncated_container_is_a_decode_error(missing: int) -> None:
    assert reason(lambda: column(column_of(IMAGES)[:-missing])) is RejectReason.DECODE_ERROR
    assert reason(lambda: stack(stack_of(PIXELS)[:-missing])) is RejectReason.DECODE_ERROR


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("is_struct", [False, True])
def test_a_flipped_bit_in_a_page_is_an_integrity_error_of_its_row_group_alone(
    compression: str, is_struct: bool
) -> None:
    noise = [np.random.default_rng(number).bytes(1000) for number in range(10)]
    data = column_of(hugging_face(noise) if is_struct else noise, rows_per_group=4, compression=compression)
    images = column(flipped(data, data.index(noise[5][100:200]) + 50))
    assert reason(lambda: image(images, 5)) is RejectReason.INTEGRITY
    assert [image(images, row) for row in (0, 3, 8, 9)] == [noise[row] for row in (0, 3, 8, 9)]


DAMAGED = column_of(IMAGES, rows_per_group=4)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.tuples(st.integers(0, len(DAMAGED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_column_gives_the_right_images_or_rejects(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DAMAGED)
    for place, value in changes:
        data[place] = value
    for row in (0, 5, 9):
        with suppress(CutoutError):
            assert image(column(bytes(data)), row) == IMAGES[row]


@pytest.mark.fault(16, "a row group of zeros")
def test_a_row_group_that_unpacks_to_more_than_allowed_is_refused_before_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # One megabyte a hundred times, in a file of few bytes that says so little of itself.
    data = column_of([bytes(2**20)] * 100, rows_per_group=100, use_dictionary=True, compression="zstd")
    assert len(data) < 2**14
    monkeypatch.setattr(containers, "MOST_PIECE_BYTES", 2**23)
    monkeypatch.setattr(containers, "_ROWS_AT_ONCE", 4)
    before = pa.default_memory_pool()
    counted = pa.proxy_memory_pool(before)
    pa.set_memory_pool(counted)
    try:
        assert reason(lambda: column(data).read(0)) is RejectReason.TOO_LARGE
    finally:
        pa.set_memory_pool(before)
    assert 2**20 < counted.max_memory() < 2**25


def test_a_row_group_of_exactly_what_is_allowed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    images = column(column_of(IMAGES[:4]))
    monkeypatch.setattr(containers, "MOST_PIECE_BYTES", images.read(0).nbytes)
    assert len(images.read(0)) == 4
    monkeypatch.setattr(containers, "MOST_PIECE_BYTES", images.read(0).nbytes - 1)
    assert reason(lambda: images.read(0)) is RejectReason.TOO_LARGE


def test_an_open_column_keeps_no_row_group_in_memory() -> None:
    images = column(column_of([bytes(2**20)] * 8, rows_per_group=8))
    before = pa.total_allocated_bytes()
    assert images.read(0).nbytes > 2**23
    assert pa.total_allocated_bytes() - before < 2**20


@pytest.mark.parametrize(
    "settings", [{}, {"chunks": (1, 12, 14, 3)}, {"chunks": (4, 5, 14, 1), "compression": "gzip", "shuffle": True}]
)
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "<f4", ">f8", "<i2", "f2"])
def test_the_images_of_a_stack_are_those_that_were_put_in(settings: dict[str, Any], dtype: str) -> None:
    images = stack(stack_of(PIXELS.astype(dtype), "a/b/é", **settings), "a/b/é")
    for row in (9, 0, 5, 5):
        found = images.image(row)
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, PIXELS[row].astype(dtype))


def test_a_stack_of_one_band_has_images_of_two_axes() -> None:
    np.testing.assert_array_equal(stack(stack_of(PIXELS[..., 0])).image(3), PIXELS[3, ..., 0])


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((4, 9), np.uint8),
        np.zeros((2, 2, 4, 4, 4), np.uint8),
        np.zeros((2, 4, 4), "c8"),
        np.zeros((2, 4, 4), bool),
        np.zeros((2, 4, 4), "S3"),
        np.zeros((2, 4, 4), [("a", "u1"), ("b", "u1")]),
        np.array([[["a"]]], dtype=h5py.string_dtype()),
        np.uint8(3),
    ],
    ids=["2 axes", "5 axes", "complex", "bool", "text", "compound", "strings", "scalar"],
)
def test_a_dataset_that_holds_no_images_is_rejected_by_shape(images: np.ndarray) -> None:
    assert reason(lambda: stack(stack_of(images))) is RejectReason.SHAPE


def hdf5(write: Callable[[h5py.File], object]) -> bytes:
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        write(file)
    return sink.getvalue()


def test_a_group_a_type_and_an_empty_dataset_are_rejected_by_shape() -> None:
    def write(file: h5py.File) -> None:
        file.create_group("group/below")
        file["type"] = np.dtype("f4")
        file["empty"] = h5py.Empty("f4")

    for name in ("group", "group/below", "/", "type", "empty"):
        assert reason(lambda name=name: stack(hdf5(write), name)) is RejectReason.SHAPE


def test_links_within_a_file_are_followed_and_those_out_of_it_never_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["images"] = np.full((2, 8, 8), 77, np.uint8)

    def write(file: h5py.File) -> None:
        file["images"] = PIXELS
        file["soft"] = h5py.SoftLink("/images")
        file["hard"] = file["images"]
        file["broken"] = h5py.SoftLink("/nope")
        file["outside"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "images")
        file["other"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "nope")

    data = hdf5(write)
    for name in ("soft", "hard"):
        np.testing.assert_array_equal(stack(data, name).image(1), PIXELS[1])
    assert reason(lambda: stack(data, "broken")) is RejectReason.DECODE_ERROR
    # Behind a file object, HDF5 takes every file for the one that it has.
    np.testing.assert_array_equal(stack(data, "outside").image(1), PIXELS[1])
    assert reason(lambda: stack(data, "other")) is RejectReason.DECODE_ERROR


@pytest.mark.fault(25, "HDF5 that points into other files")
def test_data_that_lie_in_other_files_are_refused_and_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes([77]) * 128)

    def write(file: h5py.File) -> None:
        external = [(str(tmp_path / "secret.bin"), 0, 128)]
        file.create_dataset("external", (2, 8, 8), np.uint8, external=external)
        layout = h5py.VirtualLayout((2, 8, 8), np.uint8)
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "images", (2, 8, 8))
        file.create_virtual_dataset("virtual", layout)

    for name in ("external", "virtual"):
        assert reason(lambda name=name: stack(hdf5(write), name)) is RejectReason.DECODE_ERROR


def test_compression_that_is_not_installed_is_named() -> None:
    data = stack_of(PIXELS, chunks=(1, 12, 14, 3), compression="lzf")
    # lzf is filter 32000; 32077 is nobody's.
    place = data.index((32000).to_bytes(2, "little"))
    with pytest.raises(CutoutError, match="filter 32077") as caught:
        stack(data[:place] + (32077).to_bytes(2, "little") + data[place + 2 :])
    assert caught.value.reason is RejectReason.DECODE_ERROR


@pytest.mark.parametrize("chunks", [(100, 1000, 1000), (1, 10_000, 10_000), (1, 100, 100), None])
def test_chunks_and_images_of_more_than_allowed_are_refused_before_they_are_read(
    chunks: tuple[int, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Zeros that were never written take no space in the file.
    monkeypatch.setattr(containers, "MOST_PIECE_BYTES", 10**8 - 1)
    shape = (100, 1000, 1000) if chunks == (100, 1000, 1000) else (100, 10_000, 10_000)
    data = hdf5(lambda file: file.create_dataset("images", shape, np.uint8, chunks=chunks, compression=chunks and 9))
    assert len(data) < 10_000
    assert reason(lambda: stack(data)) is RejectReason.TOO_LARGE
    monkeypatch.setattr(containers, "MOST_PIECE_BYTES", 10**8)
    stack(data)


def test_chunks_that_many_images_share_are_unpacked_once() -> None:
    images = np.random.default_rng(1).integers(0, 9, (64, 32, 32, 3), dtype=np.uint8)
    disk = Disk(stack_of(images, chunks=(64, 4, 4, 1), compression="gzip"))
    found = ImageStack(on(disk), "images")
    np.testing.assert_array_equal(found.image(0), images[0])
    n_reads = len(disk.read_places)
    for row in range(64):
        np.testing.assert_array_equal(found.image(row), images[row])
    assert len(disk.read_places) == n_reads > 192


def test_a_damaged_chunk_is_an_integrity_error_of_its_images_alone() -> None:
    data = stack_of(PIXELS, chunks=(1, 12, 14, 3), fletcher32=True)
    images = stack(flipped(data, data.index(PIXELS[4].tobytes()) + 100))
    assert reason(lambda: images.image(4)) is RejectReason.INTEGRITY
    np.testing.assert_array_equal(images.image(5), PIXELS[5])


def test_damage_on_the_way_is_read_again() -> None:
    disk = Disk(column_of(IMAGES))
    images = ImageColumn(on(disk), "image")
    disk.damages_reads = 1
    assert image(images, 5) == IMAGES[5]
    assert disk.damages_reads == 0
    disk = Disk(stack_of(PIXELS, chunks=(1, 12, 14, 3), fletcher32=True))
    found = ImageStack(on(disk), "images")
    found.image(0)  # The table of chunks is read by now.
    disk.damages_reads = 1
    np.testing.assert_array_equal(found.image(5), PIXELS[5])
    assert disk.damages_reads == 0


def test_a_disk_that_fails_is_a_fault_of_the_store_and_no_damage() -> None:
    column_disk, stack_disk = Disk(column_of(IMAGES)), Disk(stack_of(PIXELS))
    images, found = ImageColumn(on(column_disk), "image"), ImageStack(on(stack_disk), "images")
    actions: list[Callable[[], object]] = [
        lambda: ImageColumn(on(column_disk), "image"),
        lambda: ImageStack(on(stack_disk), "images"),
        lambda: images.read(1),
        lambda: found.image(1),
    ]
    column_disk.fails = stack_disk.fails = True
    for action in actions:
        with pytest.raises(StoreError, match="Input/output error"):
            action()
    column_disk.fails = stack_disk.fails = False
    for action in actions:
        action()


@pytest.mark.parametrize("moment", range(8))
def test_a_disk_that_fails_at_any_read_of_a_stack_is_a_fault_of_the_store(moment: int) -> None:
    class Dying(Disk):
        def readinto(self, buffer: Any) -> int:
            self.fails = len(self.read_places) >= moment
            return super().readinto(buffer)

    disk = Dying(stack_of(PIXELS, chunks=(1, 12, 14, 3)))
    with pytest.raises(StoreError, match="Input/output error"):
        ImageStack(on(disk), "images").image(5)
    assert len(disk.read_places) == moment + 1


def test_a_stack_that_shrinks_gives_no_pixels_that_were_never_there() -> None:
    # h5py takes what it is given, and leaves the rest of the image as the memory was.
    for chunks in (None, (1, 12, 14, 3)):
        disk = Disk(stack_of(PIXELS, chunks=chunks))
        images = ImageStack(on(disk), "images")
        np.testing.assert_array_equal(images.image(0), PIXELS[0])
        disk.length -= PIXELS[0].nbytes // 2
        assert reason(lambda images=images: images.image(9)) is RejectReason.INTEGRITY


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 8, 8, 3), (10, 64, 64)])
@pytest.mark.parametrize("version", ["earliest", "latest"])
def test_small_stacks_of_old_and_new_hdf5_are_read(shape: tuple[int, ...], version: str) -> None:
    pixels = np.arange(np.prod(shape)).reshape(shape).astype(np.float32)
    sink = io.BytesIO()
    with h5py.File(sink, "w", libver=version) as file:
        file["images"] = pixels
    for row in range(shape[0]):
        np.testing.assert_array_equal(stack(sink.getvalue()).image(row), pixels[row])


def test_many_threads_read_one_column_and_one_stack_without_mixing() -> None:
    images, found = column(column_of(IMAGES, rows_per_group=3)), stack(stack_of(PIXELS, chunks=(2, 12, 14, 1)))

    def check(number: int) -> bool:
        row = number * 7 % 10
        return image(images, row) == IMAGES[row] and np.array_equal(found.image(row), PIXELS[row])

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(check, range(400)))


def test_a_process_that_met_bad_stacks_ends_as_usual(tmp_path: Path) -> None:
    # A stack that is open when Python ends kills its process: none may be left by an error.
    (tmp_path / "good.h5").write_bytes(stack_of(PIXELS))
    (tmp_path / "cut.h5").write_bytes(stack_of(PIXELS)[:-9])
    script = (
        "import sys, pyarrow.fs as fs\n"
        "from engine.storage.containers import ImageStack\n"
        "from engine.storage.images import CutoutError\n"
        "def met(path, name, row):\n"
        "    try: ImageStack(fs.LocalFileSystem().open_input_file(path), name).image(row)\n"
        "    except CutoutError as error: print(error.reason)\n"
        "met('good.h5', 'images', 0)\n"
        "met('good.h5', 'images', 99)\n"
        "met('good.h5', 'nope', 0)\n"
        "met('cut.h5', 'images', 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()) == (0, ["not_found", "not_found", "decode_error"]), done.stderr
