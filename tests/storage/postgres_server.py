"""A private PostgreSQL server in a temporary folder, reachable through a socket in it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_ACCOUNT = "postgres"
"""Who runs it where the tests run as root, which PostgreSQL refuses."""


def programs() -> Path | None:
    """Where PostgreSQL's programs are: on the path, or where Debian puts them; None where they are not."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


@contextmanager
def running(bin_folder: Path) -> Iterator[str]:
    """Run a server for the length of a block; yield the URL of its database."""
    # Not below pytest's folders: only their owner may enter those.
    folder = Path(tempfile.mkdtemp(prefix="voorwerp-postgres-"))
    account: dict[str, Any] = {"cwd": folder}
    if os.getuid() == 0:
        shutil.chown(folder, _ACCOUNT, _ACCOUNT)
        account |= {"user": _ACCOUNT, "group": _ACCOUNT, "extra_groups": []}
    try:
        settings = ["-A", "trust", "-U", "voorwerp", "--no-sync", "--locale=C", "-E", "UTF8"]
        command = [bin_folder / "initdb", "-D", folder / "data", *settings]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **account)
        options = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=fatal"]
        command = [bin_folder / "postgres", "-D", folder / "data", "-k", folder, *options]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL, **account)
        try:
            deadline = time.monotonic() + 30
            while "ready" not in _status(folder / "data" / "postmaster.pid"):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"postgresql://voorwerp@/postgres?host={folder}"
        finally:
            server.send_signal(subprocess.signal.SIGINT)  # Fast shutdown: connections are closed, not waited for.
            server.wait(30)
    finally:
        shutil.rmtree(folder)


def _status(file: Path) -> str:
    return file.read_text().splitlines()[-1] if file.exists() and file.stat().st_size else ""
