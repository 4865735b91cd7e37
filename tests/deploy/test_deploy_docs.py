"""The commands of docs/operations.md, as an operator types them."""

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import app
from tests.deploy.manifests import GPU_IMAGE, IMAGE, ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text()


def test_who_follows_the_page_gets_manifests_that_pass_every_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    jobs = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    for name, job in zip(("dr1", "nightly", "service"), jobs, strict=True):
        Path(f"{name}.yaml").write_text(job)
    commands = "".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)).splitlines()
    for command in commands:
        typed = command.replace("$IMAGE", IMAGE).replace("$GPU_IMAGE", GPU_IMAGE)
        program, *arguments = shlex.split(typed.partition(" > ")[0])
        assert program == "voorwerp"
        assert not app(arguments, standalone_mode=False), command
        printed = capsys.readouterr()
        if written := typed.partition(" > ")[2]:
            Path(written).write_text(printed.out)
        else:
            assert "nothing is wrong" in printed.err
    assert [command.split()[2] for command in commands].count("check") == 6


def test_the_secrets_that_the_page_lists_are_those_that_pods_refer_to() -> None:
    listed = set(re.findall(r"^\| `(voorwerp-[a-z-]+)` \| `", PAGE, flags=re.MULTILINE))
    text = "".join(path.read_text() for path in (ROOT / "deploy").rglob("*.yaml"))
    referred = set(re.findall(r"secret(?:Key)?Ref:\s*\{?\s*name: ([a-z-]+)", text))
    assert listed == referred


def test_the_overlays_that_the_page_lists_are_those_that_there_are() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \| [a-z]", PAGE, flags=re.MULTILINE)
    assert sorted(set(listed)) == sorted(path.name for path in (ROOT / "deploy" / "overlays").iterdir())
