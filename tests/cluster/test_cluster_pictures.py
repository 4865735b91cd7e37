"""Pictures of a release: those that were planned, wherever they are stored; what cannot be shown says why."""

import tarfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from PIL import Image

from engine.cluster import pictures
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.pictures import draw, pictures_of
from engine.compute.rejects import Reject
from engine.storage.store import Store
from jobs import plan
from schemas import paths
from schemas.config import CatalogueConfig, CutoutConfig, PlanConfig
from schemas.errors import IntegrityError
from schemas.reject import RejectReason
from tests.conftest import galaxy_pixels
from tests.generated import clustered, positions, write_release

N = 24
SIDE = 48
OUTPUT = "release"
KINDS = ("{}.png", "shard.tar/{}.png", "stack.h5/{}", "column.parquet#cutout[{}]")


def name(number: int) -> str:
    return f"galaxy-{number:013d}"


def make_release(folder: Path) -> OpenRelease:
    """Make a release of PNG files, and of members of a tar, an HDF5 stack and a column of Parquet, by turns.

    Its partitions have several row groups. Neither ids nor places are in order of position; two objects share one.
    """
    files = [folder / f"{number}.png" for number in range(N)]
    for number, file in enumerate(files):
        Image.fromarray(galaxy_pixels(number, SIDE)).save(file)
    with tarfile.open(folder / "shard.tar", "w") as tar:
        for file in files:
            tar.add(file, file.name)
    with h5py.File(folder / "stack.h5", "w") as stack:
        stack["images"] = np.stack([galaxy_pixels(number, SIDE) for number in range(N)])
    images = [file.read_bytes() for file in files]
    pq.write_table(pa.table({"cutout": images}), folder / "column.parquet", row_group_size=5)
    ra_deg, dec_deg = positions(N)
    ra_deg[1], dec_deg[1] = ra_deg[0], dec_deg[0]
    objects = {
        "object_id": [name(number) for number in range(N)],
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "cutout": [KINDS[number % 4].format(number) for number in range(N)],
    }
    pacsv.write_csv(pa.table(objects), folder / "catalogue.csv")
    output = Store(str(folder / OUTPUT))
    settings = PlanConfig(rows_per_partition=8, rows_per_unit=3)
    planned = plan.run(CatalogueConfig(path=str(folder / "catalogue.csv")), settings, output)
    write_release(folder / OUTPUT, objects, clustered(N, 4), n_shards=2, n_cells=2, plan=planned)
    return open_release(output)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """A release that is not to be changed."""
    return make_release(tmp_path_factory.mktemp("shown"))


def test_a_picture_has_the_pixels_of_its_file_wherever_that_is_stored(release: OpenRelease) -> None:
    numbers = np.random.default_rng(0).permutation(N)
    found = pictures_of(release, [name(number) for number in numbers])
    for number, picture in zip(numbers, found, strict=True):
        assert isinstance(picture, np.ndarray), KINDS[number % 4]
        np.testing.assert_array_equal(picture, galaxy_pixels(number, SIDE))


def test_an_id_that_is_asked_twice_is_answered_twice_and_no_id_with_nothing(release: OpenRelease) -> None:
    first, other, second = pictures_of(release, [name(3), name(4), name(3)])
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert pictures_of(release, []) == []


def test_a_large_cutout_is_averaged_down_to_the_side_and_a_small_one_is_not_enlarged(release: OpenRelease) -> None:
    small, whole = pictures_of(release, [name(0)], side=16)[0], pictures_of(release, [name(0)], side=1000)[0]
    assert isinstance(small, np.ndarray)
    assert isinstance(whole, np.ndarray)
    assert (small.shape, whole.shape) == ((16, 16, 3), (SIDE, SIDE, 3))
    assert (small.dtype, whole.dtype) == (np.uint8, np.uint8)
    blocks = galaxy_pixels(0, SIDE).reshape(16, 3, 16, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - blocks).mean() < 4  # Of 255; one pixel of each nine would be three times as far.
    assert np.abs(galaxy_pixels(0, SIDE)[1::3, 1::3] - blocks).mean() > 2 * np.abs(small - blocks).mean()


def test_an_oblong_cutout_keeps_its_aspect_ratio(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 80, 3), np.uint8)).save(tmp_path / "oblong.png")
    assert shown((tmp_path / "oblong.png").read_bytes(), side=20).shape == (10, 20, 3)


def test_a_deleted_cutout_gives_a_reason_and_the_others_their_pictures(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    (tmp_path / "4.png").unlink()
    missing, there = pictures_of(release, [name(4), name(8)])
    assert isinstance(missing, Reject)
    assert missing.reason is RejectReason.NOT_FOUND
    np.testing.assert_array_equal(there, galaxy_pixels(8, SIDE))


def test_a_cutout_or_container_that_was_replaced_since_is_never_shown(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    (tmp_path / "4.png").write_bytes((tmp_path / "8.png").read_bytes())
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        for number in range(N):
            tar.add(tmp_path / "8.png", f"{number}.png")
    *changed, there = pictures_of(release, [name(4), name(5), name(9), name(6)])
    assert [found.reason for found in changed if isinstance(found, Reject)] == [RejectReason.CHANGED] * 3
    np.testing.assert_array_equal(there, galaxy_pixels(6, SIDE))


def test_a_container_that_is_replaced_while_it_is_read_gives_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = make_release(tmp_path)

    def replaced_after(*arguments: object) -> np.ndarray | Reject:
        made = draw(*arguments)  # type: ignore[arg-type]
        (tmp_path / "shard.tar").write_bytes(b"another")
        return made

    monkeypatch.setattr(pictures, "draw", replaced_after)
    found = pictures_of(release, [name(1)])[0]
    assert isinstance(found, Reject)
    assert found.reason is RejectReason.CHANGED
    assert "while it was read" in found.detail


def test_a_plan_without_objects_of_the_release_is_an_error(tmp_path: Path) -> None:
    release = make_release(tmp_path)
    for file in (tmp_path / OUTPUT).glob(paths.artefact("plan", "*") + "/**/Npix=*.parquet"):
        table = pq.read_table(file)
        kept = [other != name(3) for other in table["object_id"].to_pylist()]
        pq.write_table(table.filter(pa.array(kept)), file, row_group_size=3)
    assert isinstance(pictures_of(release, [name(2)])[0], np.ndarray)
    with pytest.raises(IntegrityError, match=r"expected 1 objects .* found 0"):
        pictures_of(release, [name(3)])


def test_an_id_that_the_release_does_not_have_gives_a_reason(release: OpenRelease) -> None:
    unknown, there = pictures_of(release, ["nobody", name(1)])
    assert isinstance(unknown, Reject)
    assert unknown.reason is RejectReason.NOT_FOUND
    assert isinstance(there, np.ndarray)


def as_fits(values: np.ndarray, path: Path) -> bytes:
    fits.writeto(path, values.astype("f4"))
    return path.read_bytes()


def shown(data: bytes | np.ndarray, side: int = 100, **stretch: object) -> np.ndarray:
    found = draw(data, CutoutConfig.model_validate({"stretch": stretch}), side)
    assert isinstance(found, np.ndarray), found
    return found


@pytest.mark.parametrize("n_bands", [1, 2])
def test_fluxes_of_one_or_two_bands_are_shown_in_grey(n_bands: int, tmp_path: Path) -> None:
    values = np.arange(n_bands * 400.0).reshape(n_bands, 20, 20)
    found = shown(as_fits(values, tmp_path / "x.fits"), kind="linear", percentile=100)
    assert found.shape == (20, 20, 3)
    assert (found == found[:, :, :1]).all()
    expected = np.rint(255 * values.mean(axis=0) / values.max())
    np.testing.assert_allclose(found[:, :, 0], expected, atol=1)


def test_of_many_bands_those_that_the_stretch_names_are_red_green_and_blue(tmp_path: Path) -> None:
    values = np.stack([np.full((20, 20), float(level)) for level in (0, 10, 20, 30, 40)])
    found = shown(as_fits(values, tmp_path / "x.fits"), kind="linear", low=0, high=40, rgb_bands=(4, 2, 0))
    assert found[5, 5].tolist() == [255, 128, 0]


def test_fluxes_without_a_finite_pixel_give_a_reason(tmp_path: Path) -> None:
    found = draw(as_fits(np.full((20, 20), np.nan), tmp_path / "x.fits"), CutoutConfig(), 100)
    assert isinstance(found, Reject)
    assert found.reason is RejectReason.NAN_PIXELS


def test_a_cutout_that_is_no_image_gives_a_reason() -> None:
    found = draw(b"no image", CutoutConfig(), 100)
    assert isinstance(found, Reject)
    assert found.reason is RejectReason.DECODE_ERROR


def test_display_ready_planes_are_shown_as_they_are_when_three_and_by_rgb_bands_when_more() -> None:
    planes = np.stack([np.full((20, 20), level, np.uint8) for level in (0, 50, 100, 150, 200)])
    assert shown(planes[1:4], rgb_bands=(3, 2, 1))[5, 5].tolist() == [50, 100, 150]
    assert shown(planes, rgb_bands=(4, 2, 0))[5, 5].tolist() == [200, 100, 0]


def test_planes_that_the_stretch_cannot_use_give_a_reason() -> None:
    found = draw(np.ones((2, 20, 20), np.float32), CutoutConfig.model_validate({"stretch": {"kind": "lupton"}}), 100)
    assert isinstance(found, Reject)
    assert found.reason is RejectReason.SHAPE
    assert "2 bands" in found.detail


@pytest.mark.cluster
def test_a_finished_release_shows_its_cutouts_by_ids_that_are_numbers(finished: Path) -> None:
    release = open_release(Store(str(finished)))
    places = release.find(pa.array([1000, 1017, 1089]))
    files = release.take(places, ["cutout"])["cutout"].to_pylist()
    for file, picture in zip(files, pictures_of(release, ["1000", "1017", "1089"]), strict=True):
        np.testing.assert_array_equal(picture, np.asarray(Image.open(file)))
