"""Stores of both kinds: every promise of the one door is kept on local disk and on S3."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import s3fs

from engine.storage.s3 import s3_filesystem, s3fs_client
from engine.storage.store import Store
from tests.storage.faulty_s3 import FaultyS3


@pytest.fixture
def local_store(tmp_path: Path) -> Store:
    """An empty folder."""
    return Store(str(tmp_path / "store"))


@pytest.fixture
def s3_store(s3_server: str) -> Store:
    """An empty prefix of the test bucket."""
    return Store(f"{s3_server}/{uuid4().hex}")


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest) -> Store:
    """An empty folder, then an empty prefix."""
    return request.getfixturevalue(f"{request.param}_store")


@pytest.fixture
def faulty_s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    """A store that refuses on command, in place of the healthy one, asked once per request."""
    server = FaultyS3()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr("engine.storage.failures.S3_TRIES", 1)
    _forget_clients()
    yield server
    _forget_clients()
    server.stop()


def _forget_clients() -> None:
    s3_filesystem.cache_clear()
    s3fs_client.cache_clear()
    s3fs.S3FileSystem.clear_instance_cache()
