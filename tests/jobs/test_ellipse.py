"""Ellipse features of a release: those of the pure function, found again, accounted for and verified."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from engine.compute.ellipse import ellipse_features
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix, read_table
from engine.storage.store import Store
from jobs import ellipse, gc, verify
from schemas import paths
from schemas.config import RayConfig
from schemas.errors import InputNotFoundError
from schemas.manifest import Manifest

pytestmark = pytest.mark.cluster


@pytest.fixture
def own(finished: Path, tmp_path: Path) -> Path:
    """The finished release, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "own"))


def features_of(output: Path, manifest: Manifest) -> dict[int, np.ndarray]:
    table = read_columns(Store(str(output)).below(paths.artefact("ellipse", manifest.id)), ["object_id", "ellipse"])
    assert table.schema.field("ellipse").type == pa.list_(pa.float32(), 30)
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["ellipse"]), strict=True))


def test_every_embedded_object_has_the_features_of_its_grey_cutout(own: Path, survey: Path) -> None:
    manifest = ellipse.run(str(own), RayConfig(), side_pixels=64)
    assert manifest.counts == {"measured": 90, "unmeasured": 0}
    found = features_of(own, manifest)
    expected = {}
    for row in pd.read_csv(survey).itertuples():
        pixels = np.asarray(Image.open(survey.parent / row.cutout), np.float32) / 255
        grey = Image.fromarray(pixels.mean(axis=2, dtype=np.float32)).resize((64, 64), Image.Resampling.LANCZOS)
        expected[row.object_id] = ellipse_features(np.asarray(grey))
    assert found.keys() == expected.keys()
    same = [np.isclose(found[object_id], features, atol=1e-3) for object_id, features in expected.items()]
    assert np.mean(same) > 0.99  # Resizing differs by rounding, so that a pixel may change sides of a contour.
    opened = lsdb.open_catalog(str(own / "ellipse" / manifest.id)).compute()
    assert list(opened.columns) == ["object_id", "ra_deg", "dec_deg", "ellipse"]
    assert opened.index.is_monotonic_increasing
    assert len(opened) == 90


def test_an_artefact_is_found_again_verified_and_kept_by_gc(own: Path) -> None:
    first = ellipse.run(str(own), RayConfig(), side_pixels=32)
    before = {path: path.stat().st_mtime_ns for path in own.rglob("*") if path.is_file()}
    assert ellipse.run(str(own), RayConfig(), side_pixels=32) == first
    other = ellipse.run(str(own), RayConfig(), side_pixels=24)
    assert other.id != first.id
    assert gc.run(str(own), grace_hours=0, dry_run=False) == []
    assert all(path.stat().st_mtime_ns == changed for path, changed in before.items())
    assert verify.run(str(own))


def test_damage_to_an_artefact_is_a_problem(own: Path) -> None:
    manifest = ellipse.run(str(own), RayConfig(), side_pixels=32)
    folder = own / "ellipse" / manifest.id
    (folder / "dataset" / "left.parquet").write_bytes(b"over")
    assert not verify.run(str(own))
    (folder / "dataset" / "left.parquet").unlink()
    part = next(folder.rglob("Npix=*.parquet"))
    part.write_bytes(part.read_bytes()[:-1] + b"X")
    assert not verify.run(str(own))


@pytest.fixture
def lost(survey: Path) -> Iterator[set[int]]:
    """Ids whose cutouts are away; they come back as they were."""
    away = {number: survey.parent / "cutouts" / f"{number}.jpg" for number in (3, 40)}
    for file in away.values():
        file.rename(file.with_suffix(".lost"))
    yield {1000 + number for number in away}
    for file in away.values():
        file.with_suffix(".lost").rename(file)


def test_cutouts_that_were_lost_since_they_were_embedded_are_rejects_and_counted(own: Path, lost: set[int]) -> None:
    manifest = ellipse.run(str(own), RayConfig(), side_pixels=32)
    assert manifest.counts == {"measured": 88, "unmeasured": 2}
    assert manifest.detail["rejected_by_reason"] == {"not_found": 2}
    assert features_of(own, manifest).keys() == set(range(1000, 1090)) - lost
    rejects = read_table(Store(str(own)).below(f"ellipse/{manifest.id}"), paths.REJECTS).to_pylist()
    assert {row["object_id"] for row in rejects} == lost
    assert {row["reason"] for row in rejects} == {"not_found"}
    assert verify.run(str(own))


def test_a_release_that_was_not_embedded_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="holds no embeddings yet"):
        ellipse.run(str(tmp_path), RayConfig())
