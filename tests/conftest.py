"""Fixtures that several parts share: a small survey, a small encoder, an object store, one Ray cluster."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from PIL import Image

from schemas.config import ReleaseJob

BUCKET = "survey"
S3_SECRET = "a-key-that-is-written-nowhere"
"""Of the server of these tests: no file and no message may hold it."""
NEEDS_GPU = "needs a GPU"
NEEDS_CRDS = "needs KubeRay's custom resource definitions in VOORWERP_CRDS"
"""Why a test is skipped where everything is installed."""
TINY_ARCHITECTURE = "test_efficientnet"
AS_USERS_RUN = {"runtime": "auto"}
"""Of `embed`: the fastest runtime, whose vectors are the same to the last bit however batches fall."""


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run where all that can be installed is there, as in CI, and a test was skipped for another reason."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if os.environ.get("CI") and reporter else []
    unexpected = [
        report.nodeid
        for report in skipped
        if not any(reason in report.longreprtext for reason in (NEEDS_GPU, NEEDS_CRDS))
    ]
    if unexpected:
        reporter.ensure_newline()
        reporter.write_line(f"skipped, and should not have been: {', '.join(unexpected)}", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def galaxy_pixels(seed: int, side: int = 48) -> np.ndarray:
    """An elliptical light profile with noise, different for every seed: (side, side, 3) uint8."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    angle, ratio, size = generator.uniform(0, np.pi), generator.uniform(0.3, 1), generator.uniform(0.1, 0.4)
    u, v = x * np.cos(angle) + y * np.sin(angle), (y * np.cos(angle) - x * np.sin(angle)) / ratio
    light = np.exp(-np.hypot(u, v) / size)[..., None] * generator.uniform(0.5, 1, 3)
    return (255 * np.clip(light + generator.normal(0, 0.02, (side, side, 3)), 0, 1)).astype(np.uint8)


def write_survey(folder: Path, n: int) -> Path:
    """Write n JPEG cutouts and a CSV catalogue with an extra column; return the catalogue's path."""
    (folder / "cutouts").mkdir(parents=True)
    generator = np.random.default_rng(n)
    for number in range(n):
        Image.fromarray(galaxy_pixels(number)).save(folder / "cutouts" / f"{number}.jpg", quality=95)
    catalogue = pa.table(
        {
            "object_id": pa.array(range(1000, 1000 + n)),
            "ra_deg": generator.uniform(0, 360, n),
            "dec_deg": np.degrees(np.arcsin(generator.uniform(-1, 1, n))),
            "cutout": [f"cutouts/{number}.jpg" for number in range(n)],
            "magnitude": generator.uniform(14, 18, n),
        }
    )
    pacsv.write_csv(catalogue, folder / "catalogue.csv")
    return folder / "catalogue.csv"


def make_job(path: Path | str, output: Path | str, weights: Path | str, **sections: dict) -> ReleaseJob:
    """A release job over a small survey with the tiny encoder; sections override single keys."""
    settings = {
        "catalogue": {"path": str(path)},
        "encoder": {"architecture": TINY_ARCHITECTURE, "weights": str(weights)},
        "plan": {"rows_per_partition": 20, "rows_per_unit": 8},
        "embed": {"batch_size": 4, "workers": 1, "runtime": "torch"},  # Which a worker has ready soonest.
        "reduce": {"n_components": 5},
        "index": {"rows_per_shard": 40},
        "output": str(output),
    }
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section}
    return ReleaseJob.model_validate(settings)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded random weights of a small timm network, as a file: tests name their encoder like everyone else."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(7)
    network = timm.create_model(TINY_ARCHITECTURE, pretrained=False, in_chans=1)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogue of a survey of 90 galaxies; not to be changed."""
    return write_survey(tmp_path_factory.mktemp("survey"), 90)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """An S3 server in this process with an empty bucket; AWS_* variables point to it for the rest of the session."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": S3_SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    os.environ.update(settings)
    import s3fs

    s3fs.S3FileSystem().mkdir(BUCKET)
    yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(scope="session")
def ray_session(s3_server: str) -> None:
    """One local Ray cluster for all cluster tests; it starts after the S3 settings, which its workers inherit."""
    from engine.cluster.session import connect
    from schemas.config import RayConfig

    connect(RayConfig())


@pytest.fixture(scope="session")
def finished(survey: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Path:
    """Output of a finished release of the small survey; not to be changed."""
    from jobs import release

    output = tmp_path_factory.mktemp("release")
    release.run(make_job(survey, output, tiny_weights, embed={"workers": 2, **AS_USERS_RUN}))
    return output
