"""A preflight against the run that it predicts, and against samples that kill, hang or are broken."""

import json
import logging
import os
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import ray
import s3fs

from engine.cluster import probe
from engine.cluster.machine import memory_of_machine
from engine.cluster.session import connect
from engine.compute.estimate import (
    LEASE_RENEWED_EVERY_S,
    ONCE,
    READ,
    READ_PINNED,
    READ_ROW_GROUP,
    UPLOAD_BYTES,
    Requests,
)
from engine.storage.artefacts import claimed, read_manifest
from engine.storage.lease import LIFETIME_S
from engine.storage.parquet import read_row_group
from engine.storage.references import parse
from engine.storage.sink import PART_BYTES
from engine.storage.store import Store
from jobs import encoder, pack, release
from jobs.embed import choose_machines, make_task, read_units
from jobs.preflight import Options, Preflight
from schemas import paths
from schemas.config import PackJob, RayConfig, ReleaseJob
from schemas.errors import ConfigError, InputNotFoundError, PreflightError
from tests.conftest import AS_USERS_RUN, make_job, write_survey

N, N_MISSING = 72, 9
SABOTAGE = Path(__file__).parents[1] / "faults" / "sabotage"


def options(**changes: object) -> Options:
    settings = {"sample": 64, "prices": None, "report": None, "most_hours": None, "most_cost": None}
    return Options.model_validate(settings | changes)


def preflight(job: ReleaseJob, **changes: object) -> Preflight:
    found = release.run_preflight(job, options(**changes))
    assert found is not None
    return found


class Counted(logging.Handler):
    """Requests that the S3 server of this process got, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Counter[str] = Counter()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        method = next(word for word in ("GET", "HEAD", "PUT", "POST", "DELETE") if f"{word} /" in line)
        self.kinds["LIST" if method == "GET" and "list-type=2" in line else method] += 1

    def __enter__(self) -> "Counted":
        logger = logging.getLogger("werkzeug")
        self._before = logger.level, logger.propagate
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logger = logging.getLogger("werkzeug")
        logger.removeHandler(self)
        logger.setLevel(self._before[0])
        logger.propagate = self._before[1]

    @property
    def requests(self) -> Requests:
        return Requests(
            n_get=self.kinds["GET"],
            n_head=self.kinds["HEAD"],
            n_put=self.kinds["PUT"] + self.kinds["POST"],
            n_list=self.kinds["LIST"],
        )


@pytest.fixture(scope="module")
def broken_survey(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Catalogue of a survey in which every eighth cutout is missing."""
    catalogue = write_survey(tmp_path_factory.mktemp("broken"), N)
    for number in range(0, N, N // N_MISSING):
        (catalogue.parent / "cutouts" / f"{number}.jpg").unlink()
    return catalogue


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_objects_bytes_and_rejects_are_those_of_the_run(
    broken_survey: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(broken_survey, tmp_path / "out", tiny_weights, embed=AS_USERS_RUN)
    found = preflight(job, sample=N)
    monkeypatch.setattr(Store, "delete_folder", lambda store, path: None)  # Units stay, to be weighed.
    embeddings = release.run_embed(job)
    assert (found.work.n_objects, found.probe.n_objects) == (N, N)
    assert len(found.probe.cutout_bytes) == N - N_MISSING
    assert found.probe.rejected == embeddings.detail["rejected_by_reason"] == {"not_found": N_MISSING}
    assert found.prediction.rejects.likely == embeddings.counts["rejected"]
    store = Store(job.output)
    written = {entry.path: entry.size_bytes for entry in store.entries()}
    kept = sum(size for path, size in written.items() if path.startswith("embeddings/") and "Npix=" in path)
    units = sum(size for path, size in written.items() if path.startswith(f"{paths.WORK}/") and "parts/" in path)
    assert kept
    assert units
    assert 1 / 1.25 < found.prediction.bytes_kept / kept < 1.25
    assert 1 / 1.25 < found.prediction.bytes_written / (kept + units) < 1.25
    sizes = [path.stat().st_size for path in (broken_survey.parent / "cutouts").iterdir()]
    assert found.prediction.bytes_read is not None
    assert found.prediction.bytes_read.likely == pytest.approx(N * sum(sizes) / len(sizes))
    assert found.prediction.requests.total == 0
    took = embeddings.detail["took"]
    assert took["gpu_s_per_million"] is None
    assert took["cpu_s_per_million"]["allocated"] > took["cpu_s_per_million"]["busy"] > 0
    held = found.machines.workers * found.machines.threads
    assert took["cutouts_per_s"] * took["cpu_s_per_million"]["allocated"] == pytest.approx(held * 1e6)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(("packed", "stages"), [(False, "together"), (True, "apart")])
def test_requests_are_those_that_an_object_store_gets(
    survey: Path, tiny_weights: Path, tmp_path: Path, s3_server: str, packed: bool, stages: str
) -> None:
    root = f"{s3_server}/preflight-{stages}"
    s3fs.S3FileSystem().put(str(survey.parent / "cutouts"), f"{root}/cutouts", recursive=True)
    table = pd.read_csv(survey)
    table["cutout"] = [f"{root}/{name}" for name in table["cutout"]]
    table.to_csv(tmp_path / "catalogue.csv", index=False)
    catalogue = str(tmp_path / "catalogue.csv")
    if packed:
        settings = {"catalogue": {"path": catalogue}, "output": f"{root}/packed", "plan": {"rows_per_partition": 60}}
        made = pack.run(PackJob.model_validate(settings))
        catalogue = f"{root}/packed/{paths.artefact('packed', made.id)}"
    job = make_job(catalogue, f"{root}/out", tiny_weights, embed={"stages": stages})
    found = preflight(job)
    with Counted() as counted:
        release.run_embed(job)
    assert (found.work.cutout_requests == READ_PINNED) != packed
    predicted = found.prediction.requests
    for kind in Requests.model_fields:
        assert getattr(counted.requests, kind) > getattr(ONCE, kind)
        ratio = getattr(predicted, kind) / getattr(counted.requests, kind)
        assert 1 / 1.2 < ratio < 1.2, (kind, predicted, counted.kinds)
    sizes = {path.stat().st_size for path in (survey.parent / "cutouts").iterdir()}
    assert set(found.probe.cutout_bytes) <= sizes


def test_a_read_and_a_read_of_a_row_group_are_the_requests_that_are_reckoned_with(
    survey: Path, tiny_weights: Path, s3_server: str
) -> None:
    store = Store(f"{s3_server}/reads")
    plan = release.run_plan(make_job(survey, store.uri(), tiny_weights))
    path = next(f"{paths.artefact('plan', plan.id)}/{file.path}" for file in plan.files if "Npix=" in file.path)
    with Counted() as counted:
        store.read(path)
    assert counted.requests == READ
    with Counted() as counted:
        read_row_group(store, path, 0)
    assert counted.requests == READ_ROW_GROUP
    assert UPLOAD_BYTES == PART_BYTES
    assert LEASE_RENEWED_EVERY_S == LIFETIME_S / 4


@pytest.fixture
def encoded(survey: Path, tiny_weights: Path, tmp_path: Path) -> ReleaseJob:
    """A job whose output holds its plan and its encoder."""
    return make_job(survey, tmp_path / "out", tiny_weights, cutouts={"max_seconds": 5.0}, embed=AS_USERS_RUN)


def sabotage(monkeypatch: pytest.MonkeyPatch, **what: object) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SABOTAGE), str(Path(__file__).parents[2])]))
    monkeypatch.setenv("VOORWERP_TEST_SABOTAGE", json.dumps(what))


@pytest.mark.fault(17, "a cutout that kills its process")
def test_a_cutout_that_kills_its_process_ends_the_preflight_with_words_and_not_the_command(
    encoded: ReleaseJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage(monkeypatch, deadly=list(range(1000, 1090)))
    with pytest.raises(PreflightError, match=r"ended with status -9(.|\n)*A run would find the cutout"):
        preflight(encoded)


def test_a_cutout_that_takes_too_long_ends_the_preflight(encoded: ReleaseJob, monkeypatch: pytest.MonkeyPatch) -> None:
    sabotage(monkeypatch, endless=list(range(1000, 1090)))
    with pytest.raises(PreflightError, match=r"a cutout took longer than 5\.0 s"):
        preflight(encoded)


def test_an_encoder_that_cannot_run_here_is_refused_as_in_a_run(encoded: ReleaseJob) -> None:
    half = encoded.model_copy(update={"embed": encoded.embed.model_copy(update={"precision": "float16"})})
    with pytest.raises(ConfigError, match=r"^embed\.precision: expected float32 or bfloat16 on a CPU, found float16$"):
        preflight(half)


def test_a_plan_without_objects_needs_no_preflight(tmp_path: Path, survey: Path, tiny_weights: Path) -> None:
    table = pd.read_csv(survey).assign(ra_deg=400.0)
    table.to_csv(tmp_path / "nowhere.csv", index=False)
    assert release.run_preflight(make_job(tmp_path / "nowhere.csv", tmp_path / "out", tiny_weights), options()) is None


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_an_encoder_is_timed_in_a_task_of_the_cluster(encoded: ReleaseJob) -> None:
    preflight(encoded)
    store = Store(encoded.output)
    plan = read_manifest(store, "plan", claimed(store, "plan"))
    preset = encoder.preset_of(encoded.encoder, encoded.embed)
    network = encoder.run(encoded.encoder, preset, store)
    machines = choose_machines(encoded.embed, connect(RayConfig()))
    task = make_task(plan, network, preset, encoded.cutouts, encoded.embed, store, "x", "x", machines)
    objects = probe.read_sample(store, plan.id, read_units(plan, store), [(0, 0)]).objects
    found = probe.measure_on_cluster(objects, task, threads=1, n_views=5)
    assert found.runtime == "openvino"
    assert len(found.seconds) == probe.MOST_BATCHES
    assert min(found.seconds) > 0
    assert found.memory.peak > found.memory.shared > 0
    gone = task.model_copy(update={"encoder_id": "0000000000000000"})
    with pytest.raises(InputNotFoundError, match=r"expected a file, found nothing at .*encoder/0000000000000000"):
        probe.measure_on_cluster(objects, gone, threads=1, n_views=5)


@pytest.mark.cluster
@pytest.mark.usefixtures("ray_session")
def test_a_preflight_for_a_cluster_says_that_cutouts_were_read_here(
    encoded: ReleaseJob, capsys: pytest.CaptureFixture[str]
) -> None:
    address = ray.get_runtime_context().gcs_address
    found = preflight(encoded.model_copy(update={"ray": RayConfig(address=address)}), sample=16)
    assert f"which may be nearer to them or further away than {address}" in " ".join(capsys.readouterr().err.split())
    assert not found.machines.is_local
    assert found.machines.cores == ray.cluster_resources()["CPU"]
    assert found.memory_bytes is None
    assert found.probe.encode_s


def test_requests_of_cutouts_are_counted_by_the_kind_of_their_containers() -> None:
    def count(*texts: str | None) -> Requests:
        return probe.requests_of_unit([parse(text) if text else None for text in texts])

    assert count("s3://b/1.jpg", "s3://b/2.jpg", None, "/local/3.jpg") == READ_PINNED * 2
    # A tar is opened once and looked at again in the end; each member is a request.
    assert count("s3://b/a.tar#bytes=0-9", "s3://b/a.tar#bytes=10-19") == Requests(n_head=2, n_get=2)
    # A column has a footer, and is read by row groups: rows 0, 1 and 63 lie in one, 64 in the next.
    cells = [f"s3://b/a.parquet#image[{row}]" for row in (0, 1, 63, 64)]
    assert count(*cells) == Requests(n_head=2, n_get=1 + 2)
    # A stack is read image by image.
    assert count("s3://b/a.h5#images[0]", "s3://b/a.h5#images[1]") == Requests(n_head=2, n_get=1 + 2)


def test_memory_of_this_process_and_machine_is_plausible() -> None:
    found = probe.memory_of_process()
    assert 0 < found.shared < found.peak < memory_of_machine()
    held = bytearray(os.urandom(1)) * 200_000_000
    assert probe.memory_of_process().peak >= min(found.peak, len(held))
