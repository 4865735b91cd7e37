"""The stages of a release: their order, and what may follow them."""

from pathlib import Path

import pytest

from jobs.stages import LATER, STAGES, later_jobs
from schemas.errors import ConfigError
from schemas.map import MapJob
from tests.conftest import make_job


def test_every_stage_comes_after_what_it_needs() -> None:
    for number, stage in enumerate(STAGES):
        assert set(stage.needs) <= {earlier.name for earlier in STAGES[:number]}


def test_what_follows_is_composed_with_the_release_and_in_order(tmp_path: Path) -> None:
    then = {"report": {}, "map": {"sample": 100}}
    job = make_job("catalogue.csv", tmp_path / "out", "package:lite0", then=then)
    found = later_jobs(job)
    assert [later.name for later, _ in found] == ["map", "report"]
    assert found[0][1] == MapJob(release=str(tmp_path / "out"), sample=100)
    assert later_jobs(make_job("catalogue.csv", tmp_path / "out", "package:lite0")) == []


@pytest.mark.parametrize(
    ("then", "message"),
    [({"map": {"smaple": 3}}, r"then\.map: .*smaple"), ({"predict": {}}, r"then\.predict: .*model")],
)
def test_what_cannot_follow_is_refused_before_anything_runs(tmp_path: Path, then: dict, message: str) -> None:
    from jobs import release

    with pytest.raises(ConfigError, match=message):
        release.run(make_job("nowhere.csv", tmp_path / "out", "package:lite0", then=then))
    assert not (tmp_path / "out").exists()


def test_every_job_that_may_follow_takes_a_release() -> None:
    assert all("release" in later.model.model_fields for later in LATER)
