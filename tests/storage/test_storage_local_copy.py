"""Files to map into memory: checked on every opening, and copied from an object store once."""

import threading
from pathlib import Path

import pytest

from engine.storage.local_copy import cache_folder, verified_path
from engine.storage.store import Store
from schemas.errors import IntegrityError, StoreError
from schemas.manifest import FileRecord


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "voorwerp"


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths in the order in which this thread reads them; a lease that another test holds is renewed in a thread."""
    paths: list[str] = []
    reading, thread = Store.reading, threading.get_ident()

    def counted(self: Store, path: str, read: object) -> object:
        if threading.get_ident() == thread:
            paths.append(path)
        return reading(self, path, read)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "reading", counted)
    return paths


def written(store: Store, data: bytes = b"vectors" * 1000) -> FileRecord:
    return store.write("index/boxes-00000.safetensors", data)


def test_a_file_is_found_as_it_was_written(store: Store) -> None:
    path = verified_path(store, written(store))
    assert path.read_bytes() == b"vectors" * 1000
    assert path.suffix == ".safetensors"


def test_an_empty_file_is_found_too(store: Store) -> None:
    assert verified_path(store, written(store, b"")).read_bytes() == b""


def test_a_local_file_is_used_in_its_place(local_store: Store, cache: Path) -> None:
    assert str(verified_path(local_store, written(local_store))) == local_store.uri("index/boxes-00000.safetensors")
    assert not cache.exists()


@pytest.mark.parametrize("data", [b"", b"vectors" * 999, b"vectorz" + b"vectors" * 999, b"vectors" * 1001])
def test_a_changed_file_is_refused_by_name_and_leaves_no_copy(store: Store, cache: Path, data: bytes) -> None:
    record = written(store)
    changed = store.write(record.path, data)
    with pytest.raises(
        IntegrityError, match=rf"{record.path}: expected SHA-256 {record.sha256}, found {changed.sha256}"
    ):
        verified_path(store, record)
    assert Store(str(cache)).list() == []


def test_a_missing_file_is_refused_by_name(store: Store, cache: Path) -> None:
    record = written(store)
    store.delete(record.path)
    with pytest.raises(IntegrityError, match=rf"{record.path}: missing, although a manifest names it"):
        verified_path(store, record)
    assert Store(str(cache)).list() == []


def test_what_is_no_file_is_refused_with_the_reason(local_store: Store) -> None:
    record = written(local_store)
    with pytest.raises(StoreError, match=r"the store failed at .*index: .*directory"):
        verified_path(local_store, record.model_copy(update={"path": "index"}))


def test_a_copy_is_made_once_and_serves_files_of_other_names(s3_store: Store, cache: Path, downloads: list) -> None:
    record = written(s3_store)
    path = verified_path(s3_store, record)
    assert verified_path(s3_store, record) == path
    assert downloads == [record.path]
    again = s3_store.write("another/place.safetensors", b"vectors" * 1000)
    assert verified_path(s3_store, again) == path
    assert downloads == [record.path]
    assert [file.name for file in cache.iterdir()] == [f"{record.sha256}.safetensors"]


def test_a_copy_serves_although_the_store_no_longer_has_the_file(s3_store: Store) -> None:
    record = written(s3_store)
    path = verified_path(s3_store, record)
    s3_store.delete(record.path)
    assert verified_path(s3_store, record) == path


@pytest.mark.parametrize("data", [b"", b"vectors" * 500, b"rubbish" * 1000])
def test_a_damaged_copy_is_made_again(s3_store: Store, downloads: list, data: bytes) -> None:
    record = written(s3_store)
    path = verified_path(s3_store, record)
    path.write_bytes(data)
    assert verified_path(s3_store, record).read_bytes() == b"vectors" * 1000
    assert downloads == [record.path] * 2


def test_a_damaged_copy_of_a_file_that_is_gone_is_refused(s3_store: Store) -> None:
    record = written(s3_store)
    verified_path(s3_store, record).write_bytes(b"rubbish")
    s3_store.delete(record.path)
    with pytest.raises(IntegrityError, match="missing"):
        verified_path(s3_store, record)


def test_an_empty_cache_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "voorwerp"


def test_a_cache_that_cannot_be_written_is_named(s3_store: Store, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=str(cache)):
        verified_path(s3_store, written(s3_store))
