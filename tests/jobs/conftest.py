"""A release of the small survey, made once."""

from pathlib import Path

import pytest

from schemas.config import ReleaseJob
from tests.conftest import TINY_ARCHITECTURE


def make_job(path: Path | str, output: Path | str, weights: Path | str, **sections: dict) -> ReleaseJob:
    """A release job over a small survey with the tiny encoder; sections override single keys."""
    settings = {
        "catalogue": {"path": str(path)},
        "encoder": {"architecture": TINY_ARCHITECTURE, "weights": str(weights)},
        "plan": {"rows_per_partition": 20, "rows_per_unit": 8},
        "embed": {"batch_size": 4, "workers": 2},
        "reduce": {"n_components": 5},
        "index": {"rows_per_shard": 40},
        "output": str(output),
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return ReleaseJob.model_validate(settings)


@pytest.fixture(scope="session")
def finished(survey: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """Output of a finished release of the small survey; not to be changed."""
    from jobs import release

    output = tmp_path_factory.mktemp("release")
    release.run(make_job(survey, output, tiny_weights))
    return output
