"""What a job says as JSON lines: of which run, unit and attempt; and no secret in either format."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from jobs import report
from jobs.cli import app
from jobs.report import note, progress, unit_done, warn, wrong
from schemas.errors import ConfigError
from schemas.log import LOG_VARIABLE, RUN
from schemas.manifest import Commit
from tests.jobs.conftest import Generated

SECRET = "pl4nted-Secret-Value"


def voorwerp(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-c", "from jobs.cli import main; main()", *map(str, arguments)]
    return subprocess.run(run, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG_VARIABLE, "json")
    monkeypatch.setattr(report.console, "quiet", True)


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_job_says_everything_in_json_lines_with_its_run(survey: Path, tmp_path: Path) -> None:
    where = ["plan", "--catalogue", survey, "-o", tmp_path / "out", "--architecture", "resnet18"]
    done = voorwerp("--log-format", "json", *where, "--weights", "package:lite0")
    assert done.returncode == 0, done.stderr
    found = lines(done.stderr)
    assert {line["event"] for line in found} == {"begin", "end", "note"}
    (run,) = {line["run"] for line in found}
    assert re.fullmatch("[0-9a-f]{32}", run)
    (end,) = [line for line in found if (line["event"], line.get("stage")) == ("end", "plan")]
    assert (end["done"], end["total"], end["counted"]) == (90, 90, "objects")
    assert end["milliseconds"] >= 0


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_secret_of_the_environment_or_of_a_url_is_said(form: str, tmp_path: Path) -> None:
    url = f"postgresql://ann:{SECRET}@127.0.0.1:1/campaigns?sslpassword={SECRET}"
    done = voorwerp(
        *("--log-format", form, "campaign", "status", SECRET, "--database", url),
        AWS_SECRET_ACCESS_KEY=SECRET,
        VOORWERP_DATABASE=url,
    )
    assert done.returncode == 74
    said = done.stdout + done.stderr
    assert "127.0.0.1" in said
    assert "***" in said
    assert SECRET not in said
    if form == "json":
        (error,) = lines(done.stderr)
        assert (error["level"], error["error"], error["exit_code"]) == ("error", "StoreError", 74)


def test_units_of_a_search_are_lines_that_add_up(generated: Generated, tmp_path: Path, as_json: None) -> None:
    asked = tmp_path / "asked.csv"
    asked.write_text("object_id\n" + "\n".join(str(one) for one in generated.ids[:50]) + "\n")
    arguments = ["neighbours", generated.output, "--queries", asked, "-k", "3", "--output", f"{tmp_path}/answer/"]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    units = [line for line in lines(result.stderr) if line["event"] == "unit"]
    assert sum(line["n_planned"] for line in units) == 50
    for line in units:
        assert line["n_planned"] == line["n_ok"] + sum(line["rejected"].values())
        assert (line["stage"], line["attempt"], line["level"]) == ("neighbours", 1, "info")
        assert line["unit"]
        assert line["run"]


def test_a_unit_at_a_later_attempt_is_a_warning(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    commit = Commit(
        unit="u",
        attempt=3,
        n_planned=4,
        n_ok=3,
        rejected={"worker_crash": 1},
        ok_digest="",
        rejected_digest="",
        files=[],
        durations_s={"total": 1.5},
    )
    unit_done("embed", commit)
    (line,) = lines(capsys.readouterr().err)
    assert line.items() >= {"level": "warning", "unit": "u", "attempt": 3, "milliseconds": 1500}.items()
    assert line["rejected"] == {"worker_crash": 1}


def test_what_is_said_to_people_is_said_in_lines(as_json: None, capsys: pytest.CaptureFixture[str]) -> None:
    token = RUN.set(None)
    note("embed", "[bold]two[/bold] of three")
    warn("take care")
    wrong("[this] is a file, and missing")
    with progress("index", 5, "objects") as advance:
        advance(5)
    report.failed(ConfigError("not so"))
    RUN.reset(token)
    found = [(line["level"], line["event"], line.get("message")) for line in lines(capsys.readouterr().err)]
    assert found == [
        ("info", "note", "two of three"),
        ("warning", "warning", "take care"),
        ("error", "problem", "[this] is a file, and missing"),
        ("info", "begin", None),
        ("info", "end", None),
        ("error", "error", "not so"),
    ]


def test_warnings_of_libraries_and_defects_are_lines_without_secrets_too() -> None:
    code = f"""
import warnings
from jobs.report import log_as
log_as("json")
warnings.warn("out of date: {SECRET}")
raise ValueError("a defect at https://ann:{SECRET}@host/")
"""
    environment = os.environ | {"SOME_SECRET": SECRET}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    warning, defect = lines(done.stderr)
    assert (warning["event"], warning["level"], "out of date: ***" in warning["message"]) == ("log", "warning", True)
    assert (defect["error"], defect["message"]) == ("ValueError", "a defect at https://ann:***@host/")
    assert "Traceback" in defect["traceback"]
    assert SECRET not in done.stderr


def test_another_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected text or json, found 'xml'"):
        app(["--log-format", "xml", "doctor"], standalone_mode=False)
