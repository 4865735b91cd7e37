"""Doctor: what is right is said to be right, what is wrong is found, and nothing is left behind."""

import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.storage.campaigns import open_campaigns
from engine.storage.lease import lease
from engine.storage.store import Store
from jobs import doctor_checks as checks
from jobs.cli import app
from schemas.config import RayConfig, ReleaseJob
from tests.conftest import NEEDS_GPU, TINY_ARCHITECTURE, make_job

Usage = namedtuple("Usage", "total used free")


def doctor(*arguments: str | Path, code: int = 0) -> dict[str, dict[str, str]]:
    """Run the command without Ray; return what it found by check."""
    result = CliRunner().invoke(app, ["doctor", "--no-ray", "--json", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)["checks"]


@pytest.fixture
def job(survey: Path, tiny_weights: Path, tmp_path: Path) -> ReleaseJob:
    return make_job(survey, tmp_path / "out", tiny_weights)


def written(job: ReleaseJob, folder: Path) -> Path:
    path = folder / "job.json"  # Which is YAML as well.
    path.write_text(job.model_dump_json())
    return path


def test_an_installation_that_works_is_well_and_nothing_is_left_behind(job: ReleaseJob, tmp_path: Path) -> None:
    path = written(job, tmp_path)
    found = doctor("--job", path, "--database", tmp_path / "none.sqlite")
    assert list(found) == [
        *("Python", "libraries", "encoding", "memory", "shared memory", "disk"),
        *("store", "clock", "lease", "job", "weights", "database"),
    ]
    for name in ("Python", "libraries", "store", "clock", "lease", "job", "weights", "database"):
        assert found[name]["status"] == "ok", found[name]
    assert TINY_ARCHITECTURE in found["job"]["found"]
    assert os.listdir(tmp_path) == [path.name]


def test_a_store_in_a_bucket_is_probed_and_left_as_it_was(s3_server: str) -> None:
    store = Store(f"{s3_server}/doctor")
    store.write("there", b"before")
    found = doctor(store.uri())
    assert (found["store"]["status"], found["clock"]["status"], found["lease"]["status"]) == ("ok", "ok", "ok")
    assert store.list() == ["there"]


def test_a_store_that_lets_two_writers_write_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overwrite(store: Store, path: str, data: bytes, durable: bool = True) -> bool:
        store.write(path, data)
        return True

    monkeypatch.setattr(Store, "create", overwrite)
    found = checks.store(str(tmp_path))
    assert (found.status, "two writers" in found.found, bool(found.advice)) == ("failure", True, True)
    assert os.listdir(tmp_path) == []


def test_a_bucket_that_is_not_there_is_a_failure_that_names_it_and_ends_with_1(s3_server: str) -> None:
    found = doctor("s3://no-such-bucket/out", code=1)
    assert found["store"]["status"] == "failure"
    assert "no-such-bucket" in found["store"]["found"]


def test_a_clock_that_is_wrong_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.clock(str(tmp_path)).status == "ok"
    real = Store.now
    for off_s, status in ((-60.0, "warning"), (60.0, "warning"), (3600.0, "failure"), (-3600.0, "failure")):
        monkeypatch.setattr(Store, "now", lambda store, off_s=off_s: real(store) + off_s)
        found = checks.clock(str(tmp_path))
        assert (found.status, found.advice[:9]) == (status, "Set this ")


def test_a_run_that_works_at_the_output_is_told_of(tmp_path: Path) -> None:
    with lease(Store(str(tmp_path))):
        found = doctor(tmp_path)["lease"]
    assert found["status"] == "warning"
    assert str(os.getpid()) in found["found"]


def test_inputs_of_a_job_that_are_not_there_are_found(
    job: ReleaseJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = job.model_copy(update={"catalogue": job.catalogue.model_copy(update={"path": str(tmp_path / "gone.csv")})})
    assert checks.job(gone).status == "failure"
    weights = job.encoder.model_copy(update={"weights": str(tmp_path / "gone.safetensors")})
    path = written(gone.model_copy(update={"encoder": weights}), tmp_path)
    found = doctor("--job", path, code=1)
    assert "gone.csv" in found["job"]["found"]
    assert "gone.safetensors" in found["weights"]["found"]


def test_a_hub_that_does_not_answer_is_found(job: ReleaseJob, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def refuse(url: str) -> None:
        raise OSError(f"no route to {url}")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", refuse)
    config = job.model_copy(update={"encoder": job.encoder.model_copy(update={"weights": "hf-hub:ann/encoder"})})
    with pytest.raises(Exception, match="ann/encoder"):
        checks.weights(config)


def test_a_database_is_looked_at_and_not_made_or_changed(tmp_path: Path) -> None:
    path = tmp_path / "campaigns.sqlite"
    assert checks.database(str(path)).status == "ok"
    assert not path.exists()
    with closing(open_campaigns(str(path))):
        pass
    assert checks.database(str(path)).found.endswith("can be read")
    empty = tmp_path / "old.sqlite"
    empty.touch()
    assert checks.database(str(empty)).status == "warning"
    (tmp_path / "text.sqlite").write_text("this is no database, however long it is looked at" * 100)
    assert doctor("--database", tmp_path / "text.sqlite", code=1)["database"]["status"] == "failure"


def test_a_server_that_cannot_be_reached_is_a_failure_without_its_password() -> None:
    url = "postgresql://ann:hunter2hunter2@127.0.0.1:1/campaigns"
    found = doctor("--database", url, code=1)["database"]
    assert found["status"] == "failure"
    assert "hunter2" not in json.dumps(found)


def test_a_library_that_is_too_old_or_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "numpy>=999",
        "pyarrow>=1",
        "no-such-library>=1",
        "no-such-extra>=1; extra == 'gpu'",
        "old>=1; python_version<'3'",
    ]
    monkeypatch.setattr(checks, "requires", lambda name: lines)
    found = checks.libraries()
    assert found.status == "failure"
    assert found.found == f"no-such-library is missing, expected >=1; numpy {version('numpy')}, expected >=999"
    monkeypatch.setattr(checks, "requires", lambda name: ["numpy>=1", "pytest>=999; extra == 'dev'"])
    found = checks.libraries()
    assert (found.status, found.found) == ("warning", f"pytest {version('pytest')}, expected >=999")


def test_a_gpu_that_pytorch_cannot_use_is_a_failure_and_no_openvino_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = checks.encoding()
    assert (found.status, "voorwerp[cpu]" in found.advice) == ("warning", True)
    monkeypatch.setattr(checks, "FIRST_GPU", tmp_path)
    found = checks.encoding()
    assert (found.status, "cannot use the GPU" in found.found) == ("failure", True)


def test_a_gpu_is_named() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip(NEEDS_GPU)
    found = checks.encoding()
    assert found.status != "failure"
    assert torch.cuda.get_device_name(0) in found.found


def test_another_python_than_is_needed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "metadata", lambda name: {"Requires-Python": ">=3.99"})
    assert checks.python().status == "failure"
    assert "expected >=3.99" in checks.python().found


@pytest.mark.parametrize(
    ("gib", "cores", "status"), [(2, 1, "failure"), (16, 32, "warning"), (64, 32, "ok"), (4, 1, "ok")]
)
def test_little_memory_is_found(gib: int, cores: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cluster import machine

    monkeypatch.setattr(machine, "memory_of_machine", lambda: gib * checks.GIB)
    monkeypatch.setattr(machine, "cpus_of_machine", lambda: cores)
    assert checks.memory().status == status


def test_little_shared_memory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.cluster import machine

    monkeypatch.setattr(machine, "memory_of_machine", lambda: 100 * checks.GIB)
    for gib, status in ((0.0625, "warning"), (31, "ok")):
        usage = Usage(int(gib * checks.GIB), 0, 0)
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert checks.shared_memory(tmp_path).status == status
    assert checks.shared_memory(tmp_path / "none").status == "ok"


@pytest.mark.parametrize(("free_gib", "status"), [(400, "ok"), (60, "ok"), (9, "failure")])
def test_a_disk_that_is_nearly_full_is_found(
    free_gib: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = Usage(1000 * checks.GIB, (1000 - free_gib) * checks.GIB, free_gib * checks.GIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    assert checks.disk(str(tmp_path / "not" / "yet")).status == status


def test_a_small_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(20 * checks.GIB, 15 * checks.GIB, 5 * checks.GIB))
    assert checks.disk("s3://bucket/out").status == "warning"


def test_a_check_that_fails_in_any_way_is_a_finding_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> Callable[[], None]:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(checks, "encoding", broken)
    found = doctor(code=1)
    assert (found["encoding"]["status"], found["encoding"]["found"]) == ("failure", "No module named 'torch'")
    assert found["database"]["status"] == "ok"


def test_the_table_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "clock", lambda output: checks.Finding("warning", "[bold] is no markup", "Do this."))
    result = CliRunner().invoke(app, ["doctor", "--no-ray", str(tmp_path)])
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    at = next(number for number, line in enumerate(lines) if line[:1] == ["clock"])
    assert lines[at][1:] == ["warning", "[bold]", "is", "no", "markup"]
    assert lines[at + 1] == ["Do", "this."]


def test_a_cluster_that_cannot_be_reached_is_a_failure() -> None:
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "doctor", "--json"]
    environment = os.environ | {"RAY_ADDRESS": "127.0.0.1:1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)["checks"]["Ray"]
    assert (found["status"], "127.0.0.1:1" in found["found"]) == ("failure", True)


@pytest.mark.cluster
def test_every_node_of_a_cluster_works_and_has_the_versions_of_the_driver(
    ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.cluster import health

    found = checks.ray(RayConfig())
    assert (found.status, "1 node" in found.found) == ("ok", True)
    mine = health.own_versions()
    monkeypatch.setattr(health, "own_versions", lambda: mine | {"python": "2.7.18"})
    found = checks.ray(RayConfig())
    assert found.status == "failure"
    assert f"python {mine['python']}, not 2.7.18" in found.found
    from engine.cluster.session import ray as session_ray

    assert session_ray.is_initialized()  # The doctor leaves a connection that was there before.
