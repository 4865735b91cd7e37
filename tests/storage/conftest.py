"""Stores of both kinds: every promise of the one door is kept on local disk and on S3."""

from pathlib import Path
from uuid import uuid4

import pytest

from engine.storage.store import Store


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
