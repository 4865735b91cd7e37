"""What each version wrote is read by this one: opened, searched, verified, and found done where it is the same."""

import os
import sqlite3
import tarfile
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from engine.storage.artefacts import current_manifest, current_release
from engine.storage.campaigns import open_campaigns
from engine.storage.models import check_part, read_model
from engine.storage.store import Store
from engine.storage.tokens import open_tokens
from engine.storage.weights import read_weights
from jobs import finetune, neighbours, release, verify
from schemas.config import NeighboursJob
from schemas.errors import OutputError
from schemas.manifest import Manifest
from schemas.rating_events import held
from tests.golden import FOLDER
from tests.golden.make import TOKEN, N, labels_job, questions, settings

VERSIONS = sorted(path.name.removesuffix(".tar.xz") for path in FOLDER.glob("*.tar.xz"))
HERE = version("voorwerp")


@pytest.fixture(scope="module", params=VERSIONS)
def golden(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that a version wrote; its name is the version."""
    folder = tmp_path_factory.mktemp("golden") / request.param
    with tarfile.open(FOLDER / f"{request.param}.tar.xz") as tar:
        tar.extractall(folder, filter="data")
    return folder


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_this_version_is_kept_and_all_of_them_stay_small() -> None:
    assert HERE in VERSIONS, "run python -m tests.golden.make"
    assert sum(path.stat().st_size for path in FOLDER.glob("*.tar.xz")) < 300_000 * len(VERSIONS)


@pytest.mark.fault(39, "a release of each version")
def test_a_release_is_opened_and_verified(golden: Path) -> None:
    store = Store(str(golden / "release"))
    assert current_release(store).counts["embedded"] == N
    assert current_manifest(store, "index").counts["indexed"] == N
    assert verify.run(store.uri())


@pytest.mark.fault(39, "an answer of each version, asked again")
def test_a_release_gives_the_answers_that_it_gave(golden: Path, tmp_path: Path) -> None:
    job = NeighboursJob.model_validate({**questions(golden).model_dump(), "output": str(tmp_path / "again.parquet")})
    neighbours.run(job)
    kept = pq.read_table(golden / "answer" / "parts").to_pylist()
    found = pq.read_table(tmp_path / "again.parquet").to_pylist()
    assert sorted(found, key=str) == sorted(kept, key=str)
    assert len(found) == 2 * 5 + 1


def test_an_answer_that_is_there_is_not_made_again(golden: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = files(golden / "answer")
    neighbours.run(questions(golden))
    assert "is there already" in capsys.readouterr().err
    assert files(golden / "answer") == before


@pytest.mark.fault(39, "stages over artefacts of each version")
def test_what_is_done_is_found_done_or_refused_with_both_versions(
    golden: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # Nothing that is done needs it.
    job, before = settings(golden), files(golden / "release")
    if golden.name != HERE:
        with pytest.raises(OutputError, match=f"engine: the output holds '{golden.name}', this job asks for '{HERE}'"):
            release.run_embed(job)
        return
    stages = (release.run_embed, release.run_reduce, release.run_index)
    found: list[Manifest] = [stage(job) for stage in stages]
    store = Store(str(golden / "release"))
    assert found == [current_manifest(store, kind) for kind in ("embeddings", "components", "index")]
    after = files(golden / "release")
    changed = {os.path.relpath(path, golden / "release") for path in after if before.get(path) != after[path]}
    assert changed <= {"current.json"}
    assert before.keys() == after.keys()


@pytest.mark.fault(39, "a model of each version")
def test_a_model_is_read_whole_and_found_done(golden: Path) -> None:
    store = Store(str(golden / "model"))
    model = read_model(store)
    for record in model.files:
        check_part(store, model, record.path)
    assert read_weights(store.uri()).tensors
    if golden.name == HERE:
        assert finetune.run(labels_job(golden)) == model


@pytest.mark.fault(39, "a database of each version")
def test_a_database_is_brought_up_to_date_and_loses_nothing(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "campaigns.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((golden / "campaigns.sql").read_text())
    with closing(open_campaigns(str(path))) as store:
        assert store.names() == ["odd"]
        ratings = [one.event.rating for one in held(store.events("odd")).values()]
        assert sorted(ratings) == [0, 1, 2, 3, 4, 5]
        assert [record.n_ratings for _, record in store.rankings("odd", "ann")] == [0, 4]
    with closing(open_tokens(str(path))) as tokens:
        holder = tokens.verify((golden / TOKEN).read_text())
        assert holder is not None
        assert (holder.name, holder.scopes, holder.rater) == ("ann", ("read", "rate"), "ann")
