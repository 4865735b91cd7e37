import pytest

from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError
from engine.storage.pins import Pin, pin_file
from engine.storage.store import Store
from schemas.config import CutoutConfig
from schemas.reject import RejectReason

ANY_PIN = Pin(6, "1")


def read(uri: str | None, max_bytes: int = 100, pin: Pin | None = ANY_PIN) -> bytes:
    data = CutoutReader(CutoutConfig(max_bytes=max_bytes)).read(uri, pin)
    assert isinstance(data, bytes)
    return data


def refused_uri(uri: str | None, max_bytes: int = 100, pin: Pin | None = ANY_PIN) -> RejectReason:
    with pytest.raises(CutoutError) as caught:
        read(uri, max_bytes, pin)
    return caught.value.reason


def test_a_cutout_is_read_from_its_uri(store: Store) -> None:
    store.write("a b/é.jpg", b"pixels")
    uri = store.uri("a b/é.jpg")
    assert read(uri, max_bytes=6, pin=pin_file(uri)) == b"pixels"


def test_a_cutout_that_is_too_large_is_not_read(store: Store) -> None:
    store.write("a.jpg", bytes(101))
    uri = store.uri("a.jpg")
    assert refused_uri(uri, pin=pin_file(uri)) is RejectReason.TOO_LARGE


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
    ],
)
def test_a_uri_that_leads_nowhere_is_a_reject_and_stops_nothing(uri: str | None) -> None:
    assert refused_uri(uri) is RejectReason.NOT_FOUND


@pytest.mark.parametrize(
    "rest", ["", "survey", "survey/", "/key", "survey//key", "no-such-bucket-of-ours/key", "B_ad b/x"]
)
def test_an_s3_uri_that_leads_nowhere_is_a_reject_and_stops_nothing(s3_server: str, rest: str) -> None:
    assert refused_uri(f"s3://{rest}") is RejectReason.NOT_FOUND
