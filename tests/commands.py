"""Commands in processes of their own, which begin with everything imported: that saves seconds for each."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["jobs.cli", "jobs.release", "jobs.verify", "jobs.neighbours", "jobs.preflight"])


def voorwerp(*arguments: str | Path, timeout_s: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `voorwerp` to its end, with these variables in its environment; return what it said and its exit code.

    Raises
    ------
    subprocess.TimeoutExpired
        It did not end.
    """
    words = [str(part) for part in arguments]
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "dumb")  # The server keeps the terminal that it was started in.
        process = _server.Process(target=_run, args=(words, dict(os.environ) | environment, os.getcwd(), name))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(["voorwerp", *words], timeout_s)
        said = [(Path(name) / stream).read_text() for stream in ("stdout", "stderr")]
    return subprocess.CompletedProcess(["voorwerp", *words], process.exitcode, *said)


def _run(arguments: list[str], environment: dict[str, str], folder: str, target: str) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(f"{target}/{name}", os.O_WRONLY | os.O_CREAT), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["voorwerp", *arguments]
    from jobs.cli import main

    main()
