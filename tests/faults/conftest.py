"""A store behind a proxy that can make it bad."""

import os
from collections.abc import Iterator
from typing import NamedTuple
from uuid import uuid4

import pytest

from engine.storage import failures, s3, sink
from engine.storage.store import Store
from tests.faults.fault_proxy import FaultProxy

TRIES = 4
PART_BYTES = 5 * 2**20
ACCESS_KEY, SECRET_KEY = "AKIAEXAMPLE", "a-secret-that-nobody-prints"


OLD = bytes(range(256)) * 40


class Bad(NamedTuple):
    """A store behind a proxy, with `old` in it."""

    store: Store
    proxy: FaultProxy


@pytest.fixture(scope="module")
def proxy(s3_server: str) -> Iterator[FaultProxy]:
    """A proxy that every client of this process goes through; its bucket and its key are as good as any."""
    with FaultProxy(os.environ["AWS_ENDPOINT_URL"]) as proxy, pytest.MonkeyPatch.context() as patch:
        patch.setattr(failures, "S3_TRIES", TRIES)
        patch.setattr(failures, "FIRST_PAUSE_S", 0.005)
        patch.setattr(s3, "S3_REQUEST_TIMEOUT_S", 1)
        patch.setattr(sink, "PART_BYTES", PART_BYTES)
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        forget_clients()
        yield proxy
    forget_clients()


def forget_clients() -> None:
    s3.s3_filesystem.cache_clear()
    s3.s3fs_client.cache_clear()


@pytest.fixture
def bad(s3_server: str, proxy: FaultProxy) -> Iterator[Bad]:
    store = Store(f"{s3_server}/{uuid4().hex}")
    store.write("old", OLD)
    yield Bad(store, proxy)
    proxy.heal()
