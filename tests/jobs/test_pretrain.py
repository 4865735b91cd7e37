"""Votes to an encoder: counted, the same after a kill, by one worker or two, from memory or streamed; then used."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.train
import yaml
from safetensors.numpy import load_file

from engine.cluster import training
from engine.storage.artefacts import current_release
from engine.storage.hats_catalogue import read_columns
from engine.storage.models import read_model
from engine.storage.store import Store
from jobs import predict, pretrain, release, verify
from schemas.errors import ConfigError, DataError, InputNotFoundError, OutputError, WorkersLostError
from schemas.model import Model, PredictJob, PretrainJob
from tests.conftest import TINY_ARCHITECTURE, make_job, write_survey

pytestmark = pytest.mark.cluster

N = 96
TREE = {
    "questions": [
        {"name": "smooth", "answers": ["yes", "no"]},
        {"name": "bar", "answers": ["strong", "weak", "none"], "after": ["smooth_no"]},
    ]
}
COLUMNS = ["smooth_yes", "smooth_no", "bar_strong", "bar_weak", "bar_none"]
PRESET = {"bands": "grey", "resize": 40, "crop": 32, "mean": [0.4], "std": [0.3]}


def write_votes(path: Path, ids: np.ndarray) -> Path:
    random = np.random.default_rng(3)
    smooth = random.binomial(20, random.beta(1, 1, len(ids)))
    bar = np.stack([random.multinomial(20 - n, [0.2, 0.3, 0.5]) for n in smooth])
    counts = np.column_stack([smooth, 20 - smooth, bar])
    pq.write_table(pa.table({"object_id": ids, **{name: counts[:, at] for at, name in enumerate(COLUMNS)}}), path)
    return path


@pytest.fixture(scope="module")
def voted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A survey with votes: one object of unknown id, one without votes, one whose cutout is no image."""
    folder = tmp_path_factory.mktemp("voted")
    write_survey(folder, N)
    (folder / "cutouts" / "7.jpg").write_bytes(b"no image")
    write_votes(folder / "votes.parquet", np.arange(1000, 1000 + N + 1))
    votes = pq.read_table(folder / "votes.parquet").to_pandas()
    votes.loc[4, COLUMNS] = 0
    votes.to_parquet(folder / "votes.parquet")
    (folder / "tree.yaml").write_text(yaml.safe_dump(TREE))
    (folder / "preset.yaml").write_text(yaml.safe_dump(PRESET))
    return folder


def make(voted: Path, output: Path | str, **settings: object) -> PretrainJob:
    training = {"batch": 16, "most_epochs": 3, "learning_rate": 1e-3, **settings}
    return PretrainJob.model_validate(
        {
            "catalogue": {"path": str(voted / "catalogue.csv")},
            "votes": str(voted / "votes.parquet"),
            "output": str(output),
            "tree": str(voted / "tree.yaml"),
            "architecture": TINY_ARCHITECTURE,
            "preset": str(voted / "preset.yaml"),
            "split": {"validation": 0.2},
            "training": training,
        }
    )


def tensors_of(output: Path) -> dict[str, np.ndarray]:
    return {**load_file(output / "encoder.safetensors"), **load_file(output / "head.safetensors")}


@pytest.fixture(scope="module")
def trained(voted: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> tuple[Path, Model]:
    output = tmp_path_factory.mktemp("model")
    return output, pretrain.run(make(voted, output))


def test_every_row_of_votes_is_accounted_for(voted: Path, trained: tuple[Path, Model]) -> None:
    output, model = trained
    counts = model.counts
    assert (counts["votes"], counts["unknown"], counts["without_votes"], counts["rejected"]) == (N + 1, 1, 1, 1)
    assert counts["train"] + counts["validation"] + counts["test"] == N - 2
    rejects = pq.read_table(output / "rejects.parquet").to_pylist()
    assert [(row["object_id"], row["reason"]) for row in rejects] == [(1007, "decode_error")]
    splits = pq.read_table(output / "splits.parquet")
    assert set(splits["object_id"].to_pylist()) == set(range(1000, 1000 + N)) - {1004, 1007}
    assert len(model.validation_losses) == 3
    assert {"loss", "loss smooth", "error smooth", "loss bar"} <= set(model.metrics)
    for record in model.files:
        Store(str(output)).read_verified(record)
    assert not Store(str(output / "work")).list()


def test_a_model_that_is_there_stays_and_another_is_refused(voted: Path, trained: tuple[Path, Model]) -> None:
    output, model = trained
    assert pretrain.run(make(voted, output)) == model
    with pytest.raises(OutputError, match="holds a model made of other training"):
        pretrain.run(make(voted, output, most_epochs=4))


def test_a_release_takes_the_model_and_its_votes_are_predicted(
    voted: Path, trained: tuple[Path, Model], tmp_path: Path
) -> None:
    output, _ = trained
    job = make_job(voted / "catalogue.csv", tmp_path, output, encoder={"architecture": None})
    release.run(job)
    made = current_release(Store(str(tmp_path)))
    assert made.architecture == TINY_ARCHITECTURE
    manifest = predict.run(PredictJob(model=str(output), release=str(tmp_path)))
    assert manifest.counts == {"predicted": N - 1}
    assert predict.run(PredictJob(model=str(output), release=str(tmp_path))) == manifest
    assert verify.run(str(tmp_path))
    part = next((tmp_path / "predictions" / manifest.id / "dataset").rglob("Npix=*.parquet"))
    kept = part.read_bytes()
    part.write_bytes(kept[:-1] + b"?")
    assert not verify.run(str(tmp_path))
    part.write_bytes(kept)
    names = [f"{column}_{what}" for column in COLUMNS for what in ("fraction", "concentration")]
    folder = Store(str(tmp_path)).below(f"predictions/{manifest.id}")
    table = read_columns(folder, ["object_id", *names]).to_pandas()
    assert np.allclose(table[["smooth_yes_fraction", "smooth_no_fraction"]].sum(axis=1), 1, atol=1e-6)
    assert table[[f"{column}_concentration" for column in COLUMNS]].to_numpy().min() >= 1
    total = table["smooth_yes_concentration"] + table["smooth_no_concentration"]
    assert np.allclose(table["smooth_yes_concentration"] / total, table["smooth_yes_fraction"], atol=1e-6)


def test_two_workers_streaming_and_s3_train_as_one_in_memory_does(
    voted: Path, tmp_path: Path, s3_server: str, ray_session: None
) -> None:
    asked = {"most_epochs": 1, "dropout": 0.0, "learning_rate": 1e-4}
    one = pretrain.run(make(voted, tmp_path / "one", **asked))
    there = f"{s3_server}/models/two"
    two = pretrain.run(make(voted, there, workers=2, memory_mib=0, checkpoint_seconds=0, **asked))
    assert read_model(Store(there)) == two
    assert two.identity == one.identity
    assert two.training_losses == pytest.approx(one.training_losses, rel=1e-5)
    assert two.validation_losses == pytest.approx(one.validation_losses, rel=1e-5)
    assert {key: two.metrics[key] for key in two.metrics} == pytest.approx(one.metrics, rel=1e-4)


DRIVER = """
import sys
from jobs import pretrain
from schemas.config import load_job
from schemas.model import PretrainJob
from pathlib import Path
pretrain.run(load_job(PretrainJob, Path(sys.argv[1]), {}))
"""


def worker_of(driver: int) -> int | None:
    """The process id of a train worker among a driver's cluster."""
    listed = subprocess.run(["ps", "-eo", "pid,sid,args"], capture_output=True, text=True).stdout.splitlines()
    for line in listed:
        if "RayTrainWorker" in line and "ray::" in line:
            pid = int(line.split()[0])
            if os.path.exists(f"/proc/{pid}/environ") and f"VOORWERP_DRIVER={driver}" in _environment(pid):
                return pid
    return None


def _environment(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return ""


@pytest.mark.fault(27, "SIGKILL to a worker and to the command in the middle of a training")
def test_killed_workers_and_drivers_change_nothing(voted: Path, tmp_path: Path, ray_session: None) -> None:
    asked = {"most_epochs": 16, "patience": 16, "batch": 16, "checkpoint_seconds": 0}
    pretrain.run(make(voted, tmp_path / "clean", **asked))
    job = tmp_path / "killed.yaml"
    job.write_text(yaml.safe_dump(make(voted, tmp_path / "killed", **asked).model_dump(mode="json")))
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}

    def begin(mark: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(job)],
            env={**environment, "VOORWERP_DRIVER": mark, "PYTHONPATH": os.getcwd()},
            start_new_session=True,
        )

    def states() -> list[Path]:
        return sorted((tmp_path / "killed").glob("work/*/train/checkpoint_*/state.json"))

    def wait_for(n_states: int, process: subprocess.Popen[bytes]) -> None:
        since = time.monotonic()
        seen = {path.parent.name for path in states()}
        while len(seen) < n_states:
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() - since < 240
            time.sleep(0.02)
            seen |= {path.parent.name for path in states()}

    process = begin("1")
    wait_for(3, process)
    worker = worker_of(1)
    assert worker, "no worker to kill"
    os.kill(worker, signal.SIGKILL)
    wait_for(6, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = len(states())
    assert before
    assert not (tmp_path / "killed" / "model.json").exists()
    assert begin("2").wait(400) == 0
    clean, killed = tensors_of(tmp_path / "clean"), tensors_of(tmp_path / "killed")
    for name, value in clean.items():
        np.testing.assert_allclose(killed[name], value, rtol=1e-6, atol=1e-7, err_msg=name)


class Trainer:
    """Of which only what it raises is looked at."""

    def __init__(self, error: Exception | None, seconds: float = 0.0) -> None:
        self._error, self._seconds = error, seconds

    def fit(self) -> None:
        time.sleep(self._seconds)
        if self._error:
            raise self._error


def test_what_ray_lost_is_said_and_what_was_raised_stays_what_it_is(ray_session: None) -> None:
    board = training._Board.remote()  # type: ignore[attr-defined]

    def run(trainer: Trainer) -> None:
        with training._lost_workers():
            training._run(trainer, board, lambda *epoch: None)  # type: ignore[arg-type]

    died = ray.exceptions.ActorDiedError()
    defect = ray.train.WorkerGroupError("one of two", {0: died, 1: KeyError("a defect")})
    run(Trainer(None))
    with pytest.raises(WorkersLostError, match=r"is there enough memory.* goes on from the last checkpoint"):
        run(Trainer(ray.train.WorkerGroupError("both", {0: died, 1: ray.exceptions.OutOfMemoryError("none left")})))
    with pytest.raises(ray.train.WorkerGroupError, match="one of two"):
        run(Trainer(defect))
    with pytest.raises(KeyError):
        run(Trainer(KeyError("a defect")))
    ray.kill(board)
    with pytest.raises(WorkersLostError, match="goes on from the last checkpoint"):
        run(Trainer(None, seconds=60.0))


def test_what_cannot_be_trained_on_is_refused(voted: Path, tmp_path: Path, ray_session: None) -> None:
    job = make(voted, tmp_path / "none")

    def refused(error: type[Exception], message: str, **changes: object) -> None:
        with pytest.raises(error, match=message):
            pretrain.run(PretrainJob.model_validate({**job.model_dump(), **changes}))

    refused(InputNotFoundError, "votes: expected a table, found nothing", votes=str(tmp_path / "no.parquet"))
    refused(DataError, "expected a column 'smooth-or-featured_smooth'", tree="gz_decals")
    refused(ConfigError, "expected some of smooth, bar, found ring", questions=["ring"])
    refused(ConfigError, "expected a timm model, found 'efficientnet_b99'", architecture="efficientnet_b99")
    refused(DataError, "weights: expected the .* tensors of", weights=str(wrong_weights(tmp_path)))
    refused(ConfigError, "training.workers: expected 1, 2, 4 or 8", training={"workers": 3})
    refused(DataError, "training diverged in epoch 1: .* smaller learning_rate", training={"learning_rate": 1e30})
    write_votes(tmp_path / "other.parquet", np.arange(5))
    refused(DataError, "expected votes for objects of the catalogue, found none", votes=str(tmp_path / "other.parquet"))
    write_votes(tmp_path / "few.parquet", np.arange(1000, 1005))
    refused(DataError, "expected at least 8 objects to train with, found", votes=str(tmp_path / "few.parquet"))


def wrong_weights(folder: Path) -> Path:
    from safetensors.numpy import save_file

    save_file({"conv.weight": np.zeros(3, np.float32)}, folder / "wrong.safetensors")
    return folder / "wrong.safetensors"
