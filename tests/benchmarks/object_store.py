"""A moto S3 server as a process of its own, so that its memory and its Python are not the benchmark's."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs

BUCKET = "bench"
START_TIMEOUT_S = 60


@contextmanager
def object_store(log: Path) -> Iterator[str]:
    """Serve an empty bucket and yield its URI; the AWS_* variables of this process point to it from then on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as printed, subprocess.Popen(command, stdout=printed, stderr=subprocess.STDOUT) as server:
        try:
            _wait_for(port, server)
            os.environ |= {
                "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
                "AWS_ACCESS_KEY_ID": "testing",
                "AWS_SECRET_ACCESS_KEY": "testing",
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            _filesystem().create_dir(BUCKET)
            yield f"s3://{BUCKET}"
        finally:
            server.terminate()


def upload(folder: Path, name: str) -> None:
    """Copy a folder into the bucket."""
    fs.copy_files(
        str(folder), f"{BUCKET}/{name}", source_filesystem=fs.LocalFileSystem(), destination_filesystem=_filesystem()
    )


def _filesystem() -> fs.S3FileSystem:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    return fs.S3FileSystem(endpoint_override=endpoint, region="us-east-1", allow_bucket_creation=True)


def _wait_for(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"moto_server did not answer on port {port} within {START_TIMEOUT_S} s")
