"""The launcher of a schedule, against an HTTP server that keeps jobs and runs as Kubernetes does."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from engine.storage.lease import lease
from engine.storage.store import Store
from jobs import launch
from jobs.cli import app
from jobs.deploy_rules import broken_rules
from schemas.config import ReleaseJob, load_job
from schemas.deploy import Schedule
from schemas.errors import BusyError, ConfigError, InputNotFoundError, StoreError
from tests.deploy.manifests import render

FOURTH = "2026-11-28T04:00:00Z"
RUNS = "/apis/ray.io/v1/namespaces/voorwerp/rayjobs"
LAUNCHERS = "/apis/batch/v1/namespaces/voorwerp/jobs"


class Api(ThreadingHTTPServer):
    """Lists and creates what is asked for; a name twice is a conflict."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kept: dict[str, list[dict[str, Any]]] = {RUNS: [], LAUNCHERS: []}
        self.refuses = False

    def launcher(self, name: str, tick: str) -> None:
        """Remember that the CronJob started a launcher for a tick."""
        annotations = {"batch.kubernetes.io/cronjob-scheduled-timestamp": tick}
        labels = {"voorwerp/schedule": "nightly"}
        self.kept[LAUNCHERS].append({"metadata": {"name": name, "annotations": annotations, "labels": labels}})

    def run(self, name: str, state: str | None) -> None:
        """Remember a run of the schedule."""
        status = {} if state is None else {"status": {"jobDeploymentStatus": state}}
        self.kept[RUNS].append({"metadata": {"name": name, "labels": {"voorwerp/schedule": "nightly"}}, **status})


class _Handler(BaseHTTPRequestHandler):
    server: Api

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        key, _, value = parse_qs(url.query)["labelSelector"][0].partition("=")
        items = [one for one in self.server.kept[url.path] if one["metadata"]["labels"].get(key) == value]
        kind = "RayJobList" if url.path == RUNS else "JobList"
        self._answer(200, {"kind": kind, "apiVersion": "v1", "metadata": {}, "items": items})

    def do_POST(self) -> None:
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        kept = self.server.kept[urlsplit(self.path).path]
        if sent["metadata"]["name"] in (one["metadata"]["name"] for one in kept):
            self._answer(409, {"reason": "AlreadyExists"})
        else:
            kept.append(sent)
            self._answer(201, sent)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(403 if self.server.refuses else status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    with Api() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        name = "test"
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": name,
            "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
            "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
            "users": [{"name": name, "user": {}}],
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setenv(launch.JOB_VARIABLE, "nightly-4")
        server.launcher("nightly-4", FOURTH)
        yield server
        server.shutdown()


@pytest.fixture
def schedule(tmp_path: Path) -> Path:
    """File of a schedule as its pod sees it; its output is on this machine, where a lease can be held."""
    documents = list(yaml.safe_load_all(render("schedule", name="nightly")))
    (text,) = (
        document["data"]["schedule.yaml"] for document in documents if document.get("data", {}).get("schedule.yaml")
    )
    content = yaml.safe_load(text)
    content["job"]["output"] = f"{tmp_path}/{{date}}/release-{{time}}"
    (tmp_path / "schedule.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "schedule.yaml"


def test_a_tick_creates_a_run_that_is_told_its_date(api: Api, schedule: Path, tmp_path: Path) -> None:
    launch.run(schedule)
    (run,) = api.kept[RUNS]
    assert run["metadata"]["name"] == "nightly-202611280400"
    assert run["metadata"]["labels"]["voorwerp/release"] == "nightly-202611280400"
    assert run["spec"]["entrypoint"] == (
        f"voorwerp release /etc/voorwerp/job.yaml --set=output={tmp_path}/2026-11-28/release-0400"
    )
    assert not broken_rules([run])


def test_what_a_run_is_told_is_what_its_command_line_makes_of_it(schedule: Path, tmp_path: Path) -> None:
    from jobs.cli_options import overrides

    tick = launch.Tick("nightly", datetime(2026, 11, 28, 4, tzinfo=UTC))
    _, _, file, *told = launch.run_of(launch.read(schedule), tick)["spec"]["entrypoint"].split(" ")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(launch.read(schedule).job))
    assignments = [word.removeprefix("--set=") for word in told]
    job = load_job(ReleaseJob, tmp_path / Path(file).name, overrides({}, assignments))
    assert job.output == f"{tmp_path}/2026-11-28/release-0400"


def test_a_launcher_that_is_tried_again_finds_its_run(
    api: Api, schedule: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch.run(schedule)
    launch.run(schedule)
    assert len(api.kept[RUNS]) == 1
    assert "is there already" in capsys.readouterr().err


@pytest.mark.fault(37, "a tick while a run goes on")
@pytest.mark.parametrize("state", [None, "Running", "Initializing", "Suspended", "Retrying"])
def test_while_a_run_goes_on_the_next_release_is_missed_by_name(api: Api, schedule: Path, state: str | None) -> None:
    api.run("nightly-202611270400", state)
    with pytest.raises(BusyError, match=r"nightly-202611280400 is missed: run nightly-202611270400 .* has not ended"):
        launch.run(schedule)
    assert len(api.kept[RUNS]) == 1


@pytest.mark.parametrize("state", ["Complete", "Failed"])
def test_a_run_that_has_ended_is_in_nobodys_way(api: Api, schedule: Path, state: str) -> None:
    api.run("nightly-202611270400", state)
    launch.run(schedule)
    assert [run["metadata"]["name"] for run in api.kept[RUNS]][1:] == ["nightly-202611280400"]


@pytest.mark.fault(37, "a tick while somebody works on the output")
def test_while_somebody_works_on_the_output_the_release_is_missed_by_name_with_exit_code_75(
    api: Api, schedule: Path, tmp_path: Path
) -> None:
    with lease(Store(f"{tmp_path}/2026-11-28/release-0400")), pytest.raises(BusyError) as caught:
        app(["deploy", "launch", str(schedule)], standalone_mode=False)
    assert caught.value.exit_code == 75
    assert "release nightly-202611280400 is missed: " in str(caught.value)
    assert "is in use by" in str(caught.value)
    assert not api.kept[RUNS]
    launch.run(schedule)
    assert len(api.kept[RUNS]) == 1


@pytest.mark.fault(37, "ticks at which no launcher ran")
def test_ticks_at_which_no_launcher_ran_are_named(api: Api, schedule: Path, capsys: pytest.CaptureFixture[str]) -> None:
    api.launcher("nightly-1", "2026-11-25T04:00:00Z")
    launch.run(schedule)
    said = capsys.readouterr().err
    assert [f"release nightly-2026112{day}0400 is missed" in said for day in (4, 5, 6, 7, 8)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_of_very_many_missed_ticks_the_first_twenty_are_named() -> None:
    schedule = Schedule(name="often", cron="* * * * *", job={}, run={})
    tick = launch.Tick("often", datetime(2026, 11, 28, 4, tzinfo=UTC))
    missed = launch.missed_ticks(schedule, tick, [datetime(2026, 11, 27, tzinfo=UTC)])
    assert len(missed) == 20
    assert missed[0].release == "often-202611270001"


def test_a_value_that_shells_would_change_is_refused(api: Api, schedule: Path) -> None:
    content = yaml.safe_load(schedule.read_text())
    content["job"]["output"] += "/$(date)"
    schedule.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="expected letters, digits"):
        launch.run(schedule)
    assert not api.kept[RUNS]


def test_an_api_that_refuses_is_a_store_that_failed(api: Api, schedule: Path) -> None:
    api.refuses = True
    with pytest.raises(StoreError, match="the Kubernetes API failed or refused: 403"):
        launch.run(schedule)


def test_a_file_that_is_no_schedule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="expected the file of a schedule"):
        launch.run(tmp_path / "none.yaml")
    (tmp_path / "job.yaml").write_text("catalogue: a\n")
    with pytest.raises(ConfigError, match="unknown key"):
        launch.run(tmp_path / "job.yaml")
