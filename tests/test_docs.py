"""What the documentation says is true: commands run, files exist, the reference is the schemas'."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from engine.storage.artefacts import current_manifest
from engine.storage.store import Store

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), flags=re.DOTALL)


def test_the_reference_is_what_the_schemas_say() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))["reference"]()
    assert (ROOT / "docs" / "reference.md").read_text() == written, "run `make docs`"


def test_the_page_of_faults_is_what_the_marks_of_the_tests_say() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "make_faults.py"))["page"]()
    assert (ROOT / "docs" / "faults.md").read_text() == written, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_links_that_a_page_names_exist(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text())
    files = re.findall(r"`((?:schemas|engine|jobs|deploy|tests|docs)/[\w./]+)`", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [file for file in files if not (ROOT / file).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_make_targets_that_a_page_names_exist(page: Path) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"make ([a-z][\w-]+)(?=`|\s+#)", page.read_text())) <= targets


def test_the_cluster_job_in_deploy_is_a_valid_job() -> None:
    from schemas.config import ReleaseJob, load_job

    assert load_job(ReleaseJob, ROOT / "deploy" / "jobs" / "release.yaml", {}).reduce.n_components == 10


@pytest.mark.cluster
def test_the_first_real_run_of_the_readme_and_the_commands_and_snippets_of_the_guide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    from jobs import demo
    from jobs.cli import app

    monkeypatch.chdir(tmp_path)
    demo.run(Path("voorwerp-demo"), n_queries=2)
    (job,) = blocks(ROOT / "README.md", "yaml")
    Path("job.yaml").write_text(job)
    for page in (ROOT / "README.md", ROOT / "docs" / "using.md"):
        for command in "".join(blocks(page, "bash")).replace("\\\n", "").splitlines():
            program, *arguments = shlex.split(command)
            assert program == "voorwerp"
            app(arguments, standalone_mode=False)
    assert Path("neighbours.vot").stat().st_size > 1000
    assert "nearest to hdf-0007" in capsys.readouterr().out
    for snippet in blocks(ROOT / "docs" / "using.md", "python"):
        for kind in ("embeddings", "components"):
            found = current_manifest(Store("first-release"), kind).id
            snippet = snippet.replace(f"{kind}/<id>", f"{kind}/{found}")
        exec(compile(snippet, "using.md", "exec"), {})
