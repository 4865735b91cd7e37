"""Cutouts in containers: packed, tarred, stacked or in a column, the same cutout gives the same vector."""

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.cluster import pack as packing
from engine.compute.rejects import Reject
from engine.storage.artefacts import current_manifest, release_chain
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs import gc, pack, release, verify
from schemas import paths
from schemas.config import PackJob
from schemas.errors import DataError, OutputError
from schemas.manifest import Commit
from schemas.partition import Partition
from tests.conftest import AS_USERS_RUN, make_job, write_survey

pytestmark = pytest.mark.cluster


def vectors(output: Path | str) -> dict[int, np.ndarray]:
    store = Store(str(output))
    embeddings = release_chain(store, current_manifest(store, "index"))["embeddings"]
    table = read_columns(store.below(paths.artefact("embeddings", embeddings.id)), ["object_id", "embedding"])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))


def assert_equal(found: dict[int, np.ndarray], expected: dict[int, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for object_id, vector in expected.items():
        np.testing.assert_array_equal(found[object_id], vector)


def pack_job(catalogue: Path | str, output: Path | str) -> PackJob:
    settings = {"catalogue": {"path": str(catalogue)}, "output": str(output), "plan": {"rows_per_partition": 20}}
    return PackJob.model_validate({**settings, "pack": {"rows_per_group": 3}})


@pytest.mark.fault(19, "files, tars, stacks and columns in one catalogue")
def test_files_tars_stacks_and_columns_in_one_catalogue_give_the_vectors_of_files(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path
) -> None:
    table = pd.read_csv(survey)
    files = [survey.parent / name for name in table["cutout"]]
    with tarfile.open(tmp_path / "shard-0.tar", "w") as tar:
        for number, file in enumerate(files):
            tar.add(file, f"{number}.jpg")
    with h5py.File(tmp_path / "stack.h5", "w") as stack:
        stack["images"] = np.stack([np.asarray(Image.open(file)) for file in files])
    hugging_face = [{"bytes": file.read_bytes(), "path": None} for file in files]
    pq.write_table(pa.table({"image": hugging_face}), tmp_path / "column.parquet", row_group_size=7)
    places = (
        lambda n: str(files[n]),
        lambda n: f"shard-0.tar/{n}.jpg",
        lambda n: f"stack.h5/{n}",
        lambda n: f"column.parquet#image[{n}]",
    )
    table["cutout"] = [places[number % 4](number) for number in range(len(files))]
    table.to_csv(tmp_path / "catalogue.csv", index=False)
    release.run(make_job(tmp_path / "catalogue.csv", tmp_path / "out", tiny_weights, embed=AS_USERS_RUN))
    assert_equal(vectors(tmp_path / "out"), vectors(finished))


def test_a_packed_catalogue_gives_the_vectors_of_its_files_and_opens_in_lsdb(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path
) -> None:
    packed = pack.run(pack_job(survey, tmp_path / "packed"))
    folder = Store(str(tmp_path / "packed")).below(paths.artefact("packed", packed.id))
    assert verify.run(str(tmp_path / "packed"))
    assert not list(gc.left_over(Store(str(tmp_path / "packed"))))
    table = lsdb.open_catalog(folder.uri()).compute()
    assert len(table) == 90
    assert {Path(name).read_bytes() for name in table["packed_from"]} == set(table["cutout"])
    release.run(make_job(folder.uri(), tmp_path / "out", tiny_weights, embed=AS_USERS_RUN))
    assert_equal(vectors(tmp_path / "out"), vectors(finished))


def test_packing_from_s3_to_s3_gives_the_same_vectors(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path, s3_server: str
) -> None:
    source = Store(f"{s3_server}/to-pack")
    for name in ["catalogue.csv", *(f"cutouts/{number}.jpg" for number in range(90))]:
        source.write(name, (survey.parent / name).read_bytes())
    packed = pack.run(pack_job(source.uri("catalogue.csv"), f"{s3_server}/packed"))
    folder = f"{s3_server}/packed/{paths.artefact('packed', packed.id)}"
    release.run(make_job(folder, tmp_path / "out", tiny_weights, embed=AS_USERS_RUN))
    assert_equal(vectors(tmp_path / "out"), vectors(finished))


def test_what_cannot_be_packed_keeps_its_row_and_is_a_reject_with_a_reason(tiny_weights: Path, tmp_path: Path) -> None:
    catalogue = write_survey(tmp_path / "survey", 30)
    (catalogue.parent / "cutouts" / "3.jpg").unlink()
    text = catalogue.read_text().splitlines()
    text[1] = ",".join(["1000", "400.0", *text[1].split(",")[2:]])
    catalogue.write_text("\n".join([*text, text[6]]) + "\n")
    job = pack_job(catalogue, tmp_path / "packed")
    packed = pack.run(job.model_copy(update={"catalogue": job.catalogue.model_copy(update={"on_duplicate": "first"})}))
    assert packed.counts == {"planned": 31, "packed": 28, "rejected": 3}
    assert packed.detail["rejected_by_reason"] == {"bad_coord": 1, "duplicate_id": 1, "not_found": 1}
    assert verify.run(str(tmp_path / "packed"))
    folder = Store(str(tmp_path / "packed")).below(paths.artefact("packed", packed.id)).uri()
    release.run(make_job(folder, tmp_path / "out", tiny_weights, embed=AS_USERS_RUN))
    embedded = current_manifest(Store(str(tmp_path / "out")), "embeddings")
    assert embedded.counts == {"planned": 29, "embedded": 28, "rejected": 1}
    assert embedded.detail["rejected_by_reason"] == {"not_found": 1}


@pytest.mark.fault(3, "an error in the middle of packing")
def test_packing_goes_on_where_it_stopped_and_a_second_time_changes_nothing(
    survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ray_session: None
) -> None:
    whole = pack.pack

    class StoppedError(Exception):
        pass

    def stopping(*arguments: object) -> Iterator[Commit]:
        yield next(whole(*arguments))
        raise StoppedError

    monkeypatch.setattr(pack, "pack", stopping)
    with pytest.raises(StoppedError):
        pack.run(pack_job(survey, tmp_path / "packed"))
    monkeypatch.undo()
    packed = Store(str(tmp_path / "packed")).below("packed")
    while any(entry.modified_s > packed.now() - 20 for entry in gc.left_over(packed)):
        time.sleep(0.1)  # Workers end what they are at, or were killed and left a file that nobody writes to.
    first = pack.run(pack_job(survey, tmp_path / "packed"))
    assert "partitions already done" in capsys.readouterr().err
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*") if path.is_file()}
    assert pack.run(pack_job(survey, tmp_path / "packed")) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "packed").rglob("*") if path.is_file()} == files
    assert verify.run(str(tmp_path / "packed"))


def test_an_output_that_holds_another_packed_catalogue_is_refused(survey: Path, tmp_path: Path) -> None:
    pack.run(pack_job(survey, tmp_path / "packed"))
    other = write_survey(tmp_path / "other", 5)
    with pytest.raises(OutputError, match="already holds the plan of another run"):
        pack.run(pack_job(other, tmp_path / "packed"))


def test_stacks_are_refused_because_they_are_packed_already(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "stack.h5", "w") as stack:
        stack["images"] = np.zeros((2, 16, 16, 3), np.uint8)
    (tmp_path / "catalogue.csv").write_text(
        "object_id,ra_deg,dec_deg,cutout\n1,1.0,2.0,stack.h5/0\n2,3.0,4.0,stack.h5/1\n"
    )
    with pytest.raises(DataError, match="HDF5 stacks, which are packed already"):
        pack.run(pack_job(tmp_path / "catalogue.csv", tmp_path / "packed"))


def half_in_a_tar(folder: Path) -> Path:
    """Write a survey of twelve, the first six in a tar; return its catalogue."""
    catalogue = write_survey(folder, 12)
    table = pd.read_csv(catalogue)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for name in table["cutout"][:6]:
            tar.add(folder / name, Path(name).name)
    table["cutout"] = [f"shard.tar/{Path(name).name}" for name in table["cutout"][:6]] + table["cutout"][6:].tolist()
    table.to_csv(catalogue, index=False)
    return catalogue


def test_a_tar_that_was_replaced_before_it_is_packed_is_so_many_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, whole = pack_job(half_in_a_tar(tmp_path / "survey"), tmp_path / "packed"), pack.pack

    def replacing(partitions: list[Partition], task: packing.PackTask) -> Iterator[Commit]:
        (tmp_path / "survey" / "shard.tar").write_bytes(b"another")
        return whole(partitions, task)

    monkeypatch.setattr(pack, "pack", replacing)
    assert pack.run(job).detail["rejected_by_reason"] == {"changed": 6}
    assert verify.run(str(tmp_path / "packed"))


@pytest.mark.fault(13, "a tar that is replaced while it is packed")
def test_a_tar_that_is_replaced_while_it_is_packed_is_so_many_rejects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, write = pack_job(half_in_a_tar(tmp_path / "survey"), tmp_path / "packed"), packing._write
    rejected = []

    def replacing(*arguments: Any) -> dict[int, Reject]:
        rejected.append(write(*arguments))
        (tmp_path / "survey" / "shard.tar").write_bytes(b"another")
        return rejected[-1]

    def here(partitions: list[Partition], task: packing.PackTask) -> Iterator[Commit]:
        for partition in partitions:
            yield packing.pack_partition(partition, task)

    monkeypatch.setattr(packing, "_write", replacing)
    monkeypatch.setattr(pack, "pack", here)
    assert pack.run(job).detail["rejected_by_reason"] == {"changed": 6}
    assert rejected[0] == {}
    assert verify.run(str(tmp_path / "packed"))


@pytest.mark.fault(11, "a file that is written again")
def test_a_cutout_replaced_after_the_plan_is_a_reject_and_never_mixed_in(tiny_weights: Path, tmp_path: Path) -> None:
    catalogue = write_survey(tmp_path / "survey", 12)
    job = make_job(catalogue, tmp_path / "out", tiny_weights)
    release.run_plan(job)
    cutouts = catalogue.parent / "cutouts"
    (cutouts / "2.jpg").write_bytes((cutouts / "5.jpg").read_bytes())
    (cutouts / "7.jpg").unlink()
    release.run(job)
    manifest = current_manifest(Store(str(tmp_path / "out")), "embeddings")
    assert manifest.detail["rejected_by_reason"] == {"changed": 1, "not_found": 1}
    assert sorted(vectors(tmp_path / "out")) == [1000 + number for number in range(12) if number not in (2, 7)]
