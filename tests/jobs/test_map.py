"""Maps of a release: every object once, the same again, resumed, verified, drawn, refused where there can be none."""

import io
import json
import shutil
from collections import Counter
from pathlib import Path

import lsdb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from engine.cluster import map as map_engine
from engine.compute import layout as layouts
from engine.compute.atlas import grid_over, nearest_to_centres
from engine.compute.layout import Layout
from engine.storage.arrays import read_arrays
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs import gc, verify
from jobs import map as map_job
from schemas import paths
from schemas.errors import ConfigError, DataError, InputNotFoundError
from schemas.manifest import Manifest
from schemas.map import AtlasConfig, MapJob
from tests.generated import clustered, positions, write_release, write_space
from tests.jobs.conftest import command

pytestmark = pytest.mark.cluster
N = 500
SETTINGS = {"sample": 200, "neighbours": 10, "points": 120}


def mapped(output: Path, **settings: object) -> Manifest:
    return map_job.run(MapJob.model_validate({"release": str(output), **SETTINGS, **settings}))


def make(output: Path, vectors: np.ndarray, n: int = N) -> np.ndarray:
    """A release of n objects in ten partitions, with a map space; return its ids."""
    ids = np.random.default_rng(5).permutation(n).astype(np.int64) + 10**17
    ra_deg, dec_deg = positions(n, 6)
    magnitude = np.where(np.arange(n) % 50 == 0, np.nan, np.arange(n) / 10)
    objects = {
        "object_id": ids,
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "mag_r": magnitude,
        "n_votes": pa.array([None if row % 7 == 0 else row for row in range(n)], pa.int32()),
        "is_star": np.arange(n) % 2 == 0,
        "note": ["text"] * n,
        "map_x": np.zeros(n),
    }
    write_release(output, objects, vectors[:, :4], rows_per_partition=80)
    write_space(output, "map", ids, vectors)
    return ids


def folder_of(output: Path, manifest: Manifest) -> Store:
    return Store(str(output)).below(paths.artefact("map", manifest.id))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    made = clustered(N, 15, 8)
    made[3] = made[4] = made[400]
    return made


@pytest.fixture(scope="module")
def release(
    vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> tuple[Path, np.ndarray]:
    output = tmp_path_factory.mktemp("mapped") / "out"
    return output, make(output, vectors)


@pytest.fixture(scope="module")
def made(release: tuple[Path, np.ndarray]) -> Manifest:
    return mapped(release[0])


@pytest.fixture
def own(release: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    """A release without a map, to be changed."""
    shutil.copytree(release[0], tmp_path / "own", ignore=shutil.ignore_patterns("map", "work"))
    return tmp_path / "own"


def test_every_object_is_on_the_map_once_where_the_pure_function_places_it(
    release: tuple[Path, np.ndarray], made: Manifest, vectors: np.ndarray
) -> None:
    output, ids = release
    table = lsdb.open_catalog(str(output / "map" / made.id)).compute()
    assert list(table.columns) == ["object_id", "ra_deg", "dec_deg", "map_x", "map_y"]
    assert Counter(table["object_id"]) == Counter(ids.tolist())
    assert made.counts == {"mapped": N, "fitted": made.counts["fitted"], "points": 120}
    assert 190 < made.counts["fitted"] <= 200
    layout = Layout(**read_arrays(folder_of(output, made), paths.LAYOUT))
    row_of = {object_id: row for row, object_id in enumerate(ids.tolist())}
    own = vectors[[row_of[object_id] for object_id in table["object_id"]]]
    found = table[["map_x", "map_y"]].to_numpy()
    assert np.allclose(found, layouts.place(own, layout, map_engine.N_PLACED_BY), atol=1e-4)
    copies = table.set_index("object_id").loc[ids[[3, 4, 400]], ["map_x", "map_y"]].to_numpy()
    assert (copies == copies[0]).all()


def test_the_manifest_says_what_the_map_is_of(release: tuple[Path, np.ndarray], made: Manifest) -> None:
    table = read_columns(folder_of(release[0], made), ["map_x", "map_y"])
    for name, column in (("x", "map_x"), ("y", "map_y")):
        assert made.detail[f"{name}_min"] <= min(table[column].to_pylist())
        assert made.detail[f"{name}_max"] >= max(table[column].to_pylist())
    columns = {column["name"]: column for column in made.detail["columns"]}
    assert list(columns) == ["ra_deg", "dec_deg", "mag_r", "n_votes", "is_star"]
    assert (columns["is_star"]["minimum"], columns["is_star"]["maximum"]) == (0, 1)
    assert 0 < columns["n_votes"]["n_missing"] < 120
    assert set(made.parents) == {"embeddings", "components"}
    assert {"umap-learn", "numpy"} <= set(made.versions)
    assert made.identity["seed"] == 0


def test_the_points_of_a_page_are_objects_of_the_map_with_their_numbers(
    release: tuple[Path, np.ndarray], made: Manifest
) -> None:
    folder = folder_of(release[0], made)
    points = read_table(folder, paths.POINTS).to_pandas()
    assert len(points) == points["object_id"].nunique() == 120
    whole = read_columns(folder, ["object_id", "map_x", "map_y"]).to_pandas().set_index("object_id")
    assert (whole.loc[points["object_id"]].to_numpy() == points[["map_x", "map_y"]].to_numpy()).all()
    row_of = {object_id: row for row, object_id in enumerate(release[1].tolist())}
    rows = points["object_id"].map(row_of)
    assert (points["is_star"] == (rows % 2 == 0)).all()
    assert (points["n_votes"].isna() == (rows % 7 == 0)).all()


def test_the_same_seed_makes_the_same_files_and_another_another_map(
    release: tuple[Path, np.ndarray], made: Manifest, own: Path
) -> None:
    again = mapped(own)
    assert (again.id, again.files) == (made.id, made.files)
    before = json.dumps(again.model_dump(mode="json"))
    assert json.dumps(mapped(own).model_dump(mode="json")) == before
    other = mapped(own, seed=1)
    assert other.id != made.id
    assert read_arrays(folder_of(own, other), paths.LAYOUT)["positions"].tobytes() != (
        read_arrays(folder_of(own, again), paths.LAYOUT)["positions"].tobytes()
    )
    assert not (own / "work").exists() or not list((own / "work").rglob("*.json"))


@pytest.mark.fault(3, "an error in the middle of a map")
def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_files(
    made: Manifest, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placing = map_job.place_partitions

    def stops(*arguments: object) -> object:
        for number, done in enumerate(placing(*arguments)):  # type: ignore[arg-type]
            yield done
            if number == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(map_job, "place_partitions", stops)
    with pytest.raises(KeyboardInterrupt):
        mapped(own)
    assert not list((own / "map").glob("*/manifest.json"))
    gc.run(str(own), grace_hours=0, dry_run=False)
    written = {path: path.stat().st_mtime_ns for path in (own / "map").rglob("*.*") if path.is_file()}
    assert len(written) >= 4
    monkeypatch.setattr(map_job, "place_partitions", placing)
    monkeypatch.setattr(layouts, "fit", None)  # What was fitted is not fitted again.
    again = mapped(own)
    assert again.files == made.files
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())


def test_a_map_of_real_cutouts_is_verified_kept_by_gc_and_drawn(finished: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(finished, tmp_path / "own"))
    output = command(
        "map", own, "--sample", "60", "--neighbours", "5", "--figure", tmp_path / "atlas.png", "--columns", "8"
    )
    assert output == ""
    (manifest,) = (own / "map").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["counts"]["mapped"] == 90
    assert gc.run(str(own), grace_hours=0, dry_run=False) == []
    assert verify.run(str(own))
    sheet = Image.open(tmp_path / "atlas.png")
    assert sheet.size[0] == 2480
    assert round(sheet.info["dpi"][0]) == 300
    points = next((own / "map").glob("*/points.parquet"))
    points.write_bytes(points.read_bytes()[:-1] + b"X")
    assert not verify.run(str(own))


def test_an_atlas_shows_one_galaxy_in_each_cell_that_has_any_and_of_a_subset_only_those(
    finished: Path, tmp_path: Path
) -> None:
    own = Path(shutil.copytree(finished, tmp_path / "own"))
    whole = AtlasConfig(path=str(tmp_path / "a.png"), columns=6)
    made = mapped(own, sample=60, neighbours=5, figure=whole.model_dump())
    table = read_columns(folder_of(own, made), ["object_id", "map_x", "map_y"]).to_pandas()
    places = table[["map_x", "map_y"]].to_numpy()
    side = 2480 // 6
    grid = grid_over(places.min(axis=0), places.max(axis=0), 6, 3508 // side)
    expected = set(nearest_to_centres(places, grid).cells.tolist())
    sheet = np.asarray(Image.open(tmp_path / "a.png"))
    left = (2480 - 6 * side) // 2
    cells = {
        row * 6 + column
        for row in range(grid.rows)
        for column in range(6)
        if sheet[left + row * side : left + (row + 1) * side, left + column * side : left + (column + 1) * side].any()
    }
    assert cells == expected
    bright = whole.model_copy(update={"where": "magnitude < 15", "path": str(tmp_path / "b.pdf"), "page": "a3"})
    mapped(own, sample=60, neighbours=5, figure=bright.model_dump())
    first = (tmp_path / "b.pdf").read_bytes()
    assert first.startswith(b"%PDF")
    mapped(own, sample=60, neighbours=5, figure=bright.model_dump())
    assert (tmp_path / "b.pdf").read_bytes() == first
    few = whole.model_copy(update={"where": "magnitude < 15"})
    mapped(own, sample=60, neighbours=5, figure=few.model_dump())
    again = Image.open(io.BytesIO((tmp_path / "a.png").read_bytes()))
    assert (np.asarray(again).sum() if again.size == sheet.shape[1::-1] else 0) != sheet.sum()


@pytest.mark.parametrize(
    ("figure", "error", "message"),
    [
        ({"path": "atlas.jpg"}, ConfigError, ".png or .pdf, found 'atlas.jpg'"),
        ({"where": "mag_r < 3"}, ConfigError, "expected --figure with a condition"),
        ({"path": "a.png", "where": "mag_r <"}, ConfigError, "is no condition"),
        ({"path": "a.png", "where": "magr < 3"}, ConfigError, "did you mean 'mag_r'"),
        ({"path": "a.png", "where": "mag_r > 1000"}, DataError, "found none"),
    ],
)
def test_figures_that_cannot_be_are_refused(
    release: tuple[Path, np.ndarray], made: Manifest, figure: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        mapped(release[0], figure=figure)


def test_a_release_without_enough_objects_is_refused(tmp_path: Path, ray_session: None) -> None:
    make(tmp_path / "few", clustered(12, 15, 1), 12)
    with pytest.raises(DataError, match="expected more than 15 objects"):
        mapped(tmp_path / "few", neighbours=15)
    make(tmp_path / "copies", np.repeat(clustered(1, 15, 1), 60, axis=0), 60)
    with pytest.raises(DataError, match="more than 10 objects that differ, found 1"):
        mapped(tmp_path / "copies")


@pytest.mark.parametrize("sample", [10, 500])
def test_components_that_are_not_finite_are_refused_whether_they_are_fitted_or_placed(
    tmp_path: Path, vectors: np.ndarray, sample: int, ray_session: None
) -> None:
    broken = vectors.copy()
    broken[77, 12] = np.nan
    make(tmp_path / "broken", broken)
    with pytest.raises(DataError, match="finite"):
        mapped(tmp_path / "broken", sample=sample, neighbours=5)
    assert not list((tmp_path / "broken" / "map").glob("*/manifest.json"))


def test_what_is_no_release_has_no_map(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="no finished release"):
        mapped(tmp_path)


def test_a_release_without_a_map_space_gets_one(finished: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(finished, tmp_path / "own"))
    for path in own.glob("components/*/manifest.json"):  # Other tests may have made one there.
        if json.loads(path.read_text())["identity"]["space"] == "map":
            shutil.rmtree(path.parent)
    assert spaces_of(own) == ["search"]
    mapped(own, sample=60, neighbours=5)
    assert "map" in spaces_of(own)


def spaces_of(output: Path) -> list[str]:
    return [json.loads(path.read_text())["identity"]["space"] for path in output.glob("components/*/manifest.json")]
