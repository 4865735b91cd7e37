"""The one door to files: whole writes, records created once, and errors that say where."""

import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.storage.s3 import s3fs_client
from engine.storage.store import Store, file_record, resolve, split_uri
from schemas.errors import ConfigError, InputNotFoundError, IntegrityError, StoreError
from tests.disks import disk


@contextmanager
def no_file_larger_than(size_bytes: int) -> Iterator[None]:
    """Make larger writes fail as on a full disk (EFBIG instead of ENOSPC)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_written_is_read_and_recorded(store: Store) -> None:
    record = store.write("a/b.bin", b"content")
    assert store.read("a/b.bin") == b"content"
    assert (record.path, record.size_bytes) == ("a/b.bin", 7)
    assert record.sha256 == hashlib.sha256(b"content").hexdigest()


def test_a_write_replaces_the_whole_file(store: Store) -> None:
    store.write("a", b"a long first version")
    store.write("a", b"short")
    assert store.read("a") == b"short"
    assert store.list() == ["a"]


def test_an_empty_file_is_a_file(store: Store) -> None:
    store.write("empty", b"")
    assert store.read("empty") == b""
    assert store.exists("empty")


def test_odd_characters_in_names_survive(store: Store) -> None:
    name = "J0012+34 é #1%20/α=β,γ.jpg"
    store.write(name, b"x")
    assert store.create(name + "2", b"y")
    assert store.list() == [name, name + "2"]
    assert (store.read(name), store.read(name + "2")) == (b"x", b"y")


def test_reading_what_is_not_there_names_the_place(store: Store) -> None:
    with pytest.raises(InputNotFoundError, match=r"nothing at .*/nope"):
        store.read("nope")


def test_a_folder_is_listed_sorted_whole_and_relative_to_the_store(store: Store) -> None:
    for name in ("b/2", "b/10", "a/x/y", "c"):
        store.write(name, b"")
    assert store.list() == ["a/x/y", "b/10", "b/2", "c"]
    assert store.list("b") == ["b/10", "b/2"]
    assert store.below("b").list() == ["10", "2"]
    assert store.list("nothing/here") == []


def test_files_and_folders_exist_and_nothing_else_does(store: Store) -> None:
    store.write("a/b", b"")
    assert [store.exists(path) for path in ("a", "a/b", "a/c", "b")] == [True, True, False, False]


def test_a_deleted_folder_is_gone_and_deleting_it_again_is_no_error(store: Store) -> None:
    store.write("a/b/c", b"")
    store.write("ab", b"")
    store.delete_folder("a")
    store.delete_folder("a")
    assert store.list() == ["ab"]


def test_a_record_is_created_once(store: Store) -> None:
    assert store.create("claims/plan.json", b"first")
    assert not store.create("claims/plan.json", b"second")
    assert store.read("claims/plan.json") == b"first"
    assert store.list() == ["claims/plan.json"]


def test_of_eight_writers_at_once_exactly_one_creates(store: Store) -> None:
    for trial in range(5):
        barrier = Barrier(8)

        def create(number: int, path: str = f"commits/{trial}", barrier: Barrier = barrier) -> bool:
            barrier.wait()
            return store.create(path, b"%d" % number * 1000)

        with ThreadPoolExecutor(8) as threads:
            created = list(threads.map(create, range(8)))
        assert created.count(True) == 1
        assert store.read(f"commits/{trial}") == b"%d" % created.index(True) * 1000


def read_while_writing(store: Store, old: bytes, new: bytes) -> set[bytes]:
    """Replace one file by the other many times; return everything that a reader saw meanwhile."""
    store.write("current", old)
    seen = {store.read("current")}
    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(lambda: [store.write("current", data) for data in (new, old) * 10])
        while not writing.done():
            seen.add(store.read("current"))
        writing.result()
    return seen


def test_readers_of_a_pointer_see_the_old_or_the_new(store: Store) -> None:
    # `current.json` always has one length; on S3 its size and its bytes are two requests.
    old, new = b"o" * 200_000, b"n" * 200_000
    assert read_while_writing(store, old, new) <= {old, new}


def test_readers_of_a_local_file_see_the_old_or_the_new_of_any_length(local_store: Store) -> None:
    old, new = b"o" * 500_000, b"n" * 900_000
    assert read_while_writing(local_store, old, new) <= {old, new}


@pytest.mark.fault(5, "a write that fails")
def test_a_failed_local_write_leaves_the_old_file_and_no_other(local_store: Store) -> None:
    local_store.write("a/b", b"old")
    # pytest's own output file must still fit below the limit.
    with no_file_larger_than(8 * 2**20), pytest.raises(StoreError, match="a/b"):
        local_store.write("a/b", bytes(9 * 2**20))
    with no_file_larger_than(8 * 2**20), pytest.raises(StoreError, match="a/c"):
        local_store.create("a/c", bytes(9 * 2**20))
    assert local_store.list() == ["a/b"]
    assert local_store.read("a/b") == b"old"


def test_a_write_onto_a_folder_fails_and_leaves_nothing_behind(local_store: Store) -> None:
    local_store.write("folder/file", b"")
    with pytest.raises(StoreError, match="folder"):
        local_store.write("folder", b"x")
    assert local_store.list() == ["folder/file"]


def test_a_write_below_a_file_fails(local_store: Store) -> None:
    local_store.write("file", b"")
    for write in (local_store.write, local_store.create):
        with pytest.raises(StoreError, match="file/below"):
            write("file/below", b"x")


def test_a_bucket_that_is_not_there_is_a_fault_of_the_store(s3_server: str) -> None:
    nowhere = Store("s3://no-such-bucket-of-ours/out")
    with pytest.raises(StoreError, match="no-such-bucket-of-ours"):
        nowhere.write("a", b"x")
    with pytest.raises(StoreError, match="no-such-bucket-of-ours"):
        nowhere.create("a", b"x")


def test_s3_without_credentials_is_a_fault_of_the_store() -> None:
    # In a process of its own: filesystems are made once per process. The port is closed, no request gets out.
    script = (
        "from engine.storage.store import Store; from schemas.errors import StoreError\n"
        "try: Store('s3://bucket/out').create('a', b'x')\n"
        "except StoreError as error: print('refused', error)"
    )
    plain = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    settings = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nonexistent"}
    found = subprocess.run([sys.executable, "-c", script], env=plain | settings, capture_output=True, text=True)
    assert found.stdout.startswith("refused"), found.stderr[-500:]


def test_local_paths_become_absolute_and_uris_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/edwin")
    assert split_uri("a/b") == ("file", f"{tmp_path}/a/b")
    assert split_uri("/a/b") == split_uri("file:///a/b") == ("file", "/a/b")
    assert split_uri("~/a") == ("file", "/home/edwin/a")
    assert split_uri("s3://bucket/key/x") == ("s3", "bucket/key/x")
    assert Store("a/").uri("b") == f"{tmp_path}/a/b"
    assert Store("s3://bucket/").uri("b") == "s3://bucket/b"
    assert Store("/").uri("b") == "/b"


@settings(deadline=None)
@given(st.lists(st.sampled_from(["/", ".", "..", "a", "~", " ", "\n", "é"]), max_size=8).map("".join))
def test_an_absolute_path_is_as_pathlib_writes_it(rest: str) -> None:
    assert split_uri(f"/{rest}") == ("file", str(Path(f"/{rest}").absolute()))


@pytest.mark.parametrize("uri", ["http://host/x", "gs://bucket/x", "S4://bucket", "://x"])
def test_other_schemes_are_refused_by_name(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected a local path or an s3:// URI, found the scheme"):
        split_uri(uri)


@pytest.mark.parametrize(
    "uri", ["s3://KEY:a-secret@bucket/x", "s3://KEY:a/secret@bucket/x", "https://me:a-secret@example.org/x"]
)
def test_credentials_in_a_uri_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ConfigError, match="expected a URI without credentials") as raised:
        Store(uri).exists("")
    assert "secret" not in str(raised.value).replace("AWS_SECRET_ACCESS_KEY", "")
    assert Store("s3://arn:aws:s3:eu-west-1:123456789012:accesspoint/mine/x@y").uri()


@pytest.mark.parametrize(
    ("uri", "root", "expected"),
    [
        ("a.jpg", "/data", "/data/a.jpg"),
        ("a.jpg", "s3://bucket/survey/", "s3://bucket/survey/a.jpg"),
        ("/a.jpg", "s3://bucket", "/a.jpg"),
        ("s3://other/a.jpg", "/data", "s3://other/a.jpg"),
        ("file:///a.jpg", "s3://bucket", "file:///a.jpg"),
    ],
)
def test_relative_uris_start_from_the_root_and_absolute_ones_do_not(uri: str, root: str, expected: str) -> None:
    assert resolve(uri, root) == expected


@settings(max_examples=30)
@given(st.binary(max_size=50))
def test_a_file_record_describes_bytes_and_buffers_alike(data: bytes) -> None:
    record = file_record("x", data)
    assert file_record("x", pa.py_buffer(data)) == record
    assert (record.size_bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize("size", [0, 1, 100, 5000, 20_000])
def test_a_file_that_stays_open_is_read_here_and_there(store: Store, size: int) -> None:
    data = os.urandom(size)
    store.write("a", data)
    file = store.keep_open("a")
    assert file.size() == size
    assert file.read() == data
    assert file.read() == file.read(3) == b""
    for start in {0, size // 2, max(0, size - 50), size}:
        for n_bytes in (0, 1, 50, 4096, 30_000):
            assert file.read_at(n_bytes, start) == data[start : start + n_bytes]
            file.seek(start)
            assert file.read(n_bytes) == data[start : start + n_bytes]
            assert file.tell() == min(size, start + n_bytes)
    with pytest.raises(InputNotFoundError, match=r"nothing at .*/nope"):
        store.keep_open("nope")


PART_BYTES = 5 * 2**20
"""The least that S3 takes for a part that is not the last."""


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.sink.PART_BYTES", PART_BYTES)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("sizes", [(), (0,), (3, 0, 9), (PART_BYTES,), (PART_BYTES - 1, 2), (1, 2 * PART_BYTES, 7)])
def test_a_file_written_piece_by_piece_is_that_written_at_once(store: Store, sizes: tuple[int, ...]) -> None:
    pieces = [os.urandom(size) for size in sizes]
    with store.writing("a/pieces") as sink:
        for piece in pieces:
            assert sink.write(memoryview(piece)) == len(piece)
        assert sink.tell() == sum(sizes)
        assert not store.exists("a/pieces")
    assert store.read("a/pieces") == b"".join(pieces)
    assert sink.record == store.write("a/pieces", b"".join(pieces))
    assert store.list() == ["a/pieces"]


def test_arrow_writes_parquet_through_a_sink(store: Store) -> None:
    table = pa.table({"a": range(1000)})
    with store.writing("a.parquet") as sink, pq.ParquetWriter(pa.PythonFile(sink, mode="w"), table.schema) as writer:
        for batch in table.to_batches(100):
            writer.write_batch(batch)
    with store.open("a.parquet") as file:
        assert pq.read_table(file) == table
    assert file_record("a.parquet", store.read("a.parquet")) == sink.record


def write_half(store: Store, path: str, data: bytes, then: Callable[[], None] = lambda: None) -> None:
    with store.writing(path) as sink:
        pa.PythonFile(sink, mode="w").write(data)
        then()
        raise KeyboardInterrupt


@pytest.mark.fault(5, "an error between the pieces of a write")
@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [3, PART_BYTES + 3])
def test_a_block_that_raises_writes_nothing_and_keeps_what_was_there(store: Store, size: int) -> None:
    store.write("old", b"old")
    for path in ("old", "new"):
        with pytest.raises(KeyboardInterrupt):
            write_half(store, path, bytes(size))
    assert store.list() == ["old"]
    assert store.read("old") == b"old"


@pytest.mark.fault(5, "an error between the parts of an upload")
@pytest.mark.usefixtures("small_parts")
def test_an_abandoned_upload_leaves_no_parts_to_pay_for(s3_store: Store) -> None:
    bucket, _, key = s3_store.full_path("abandoned").partition("/")

    def uploads() -> list[str]:
        begun = s3fs_client().call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads", [])
        return [upload["Key"] for upload in begun if upload["Key"] == key]

    begun: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        write_half(s3_store, "abandoned", bytes(PART_BYTES), lambda: begun.extend(uploads()))
    assert begun == [key]
    assert uploads() == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Store]:
    """A disk of 2 MiB."""
    with disk(tmp_path / "disk", 2 << 20) as folder:
        yield Store(str(folder))


def write_stream(store: Store, path: str, data: bytes) -> None:
    with store.writing(path) as sink:
        for start in range(0, len(data), 1 << 18):
            sink.write(data[start : start + (1 << 18)])


@pytest.mark.fault(6, "a disk of 2 MiB, mounted")
@pytest.mark.parametrize("write", [Store.write, Store.create, write_stream])
def test_a_full_disk_is_named_and_gets_nothing(small_disk: Store, write: Callable[[Store, str, bytes], object]) -> None:
    small_disk.write("out/old", b"old")
    needed = r"needs about (2,\d\d\d,\d\d\d|4,194,304) bytes, found [\d,]+ free"
    for path in ("out/old", "out/new"):
        with pytest.raises(StoreError, match=f"no space left on {small_disk.uri(path)}, {needed}"):
            write(small_disk, path, bytes(4 << 20))
    assert small_disk.list() == ["out/old"]
    assert small_disk.read("out/old") == b"old"
    small_disk.write("out/new", bytes(1 << 20))  # What had been written is freed.


def test_a_full_disk_is_named_when_a_value_is_replaced(small_disk: Store) -> None:
    small_disk.write("old", b"old")
    with pytest.raises(StoreError, match=f"no space left on {small_disk.uri('old')}, needs about 4,194,304 bytes"):
        small_disk.replace("old", bytes(4 << 20), small_disk.read_versioned("old")[1])
    assert small_disk.read("old") == b"old"


def test_the_same_bytes_created_again_count_as_created_and_empty_ones_do_not(store: Store) -> None:
    # The repetition of a write whose answer was lost looks like this.
    assert store.create("claim", b"mine")
    assert store.create("claim", b"mine")
    assert not store.create("claim", b"mime")
    assert store.create("mark", b"")
    assert not store.create("mark", b"")


@pytest.mark.parametrize("origin", ["local", "s3"])
def test_a_file_is_taken_over_whole_from_any_store_and_outlives_it(
    store: Store, origin: str, request: pytest.FixtureRequest
) -> None:
    source, target = request.getfixturevalue(f"{origin}_store").below("before"), store.below("now")
    record = source.write("index/shard.faiss", b"vectors" * 1000)
    assert target.take_over(source, record) == record
    assert target.take_over(source, record) == record  # A run that goes on does it again.
    source.delete(record.path)
    assert target.read_verified(record) == b"vectors" * 1000
    assert target.list() == [record.path]


def test_what_is_not_there_or_is_another_file_in_s3_is_not_taken_over(s3_store: Store, local_store: Store) -> None:
    source = s3_store.below("before")
    record = source.write("shard.faiss", b"vectors")
    source.write("shard.faiss", b"vectorz")
    for target in (s3_store.below("now"), local_store):
        with pytest.raises(IntegrityError, match=record.sha256):
            target.take_over(source, record)
        assert target.list() == []
    source.delete("shard.faiss")
    for target in (s3_store.below("now"), local_store):
        with pytest.raises(IntegrityError, match="missing"):
            target.take_over(source, record)
