"""New images: those of the catalogue find themselves, whatever their format, and bad ones say why."""

from pathlib import Path

import pyarrow as pa
import pytest
from astropy.io import fits
from PIL import Image

from engine.storage.artefacts import current_manifest
from engine.storage.store import Store
from jobs import similar_image
from schemas import paths
from schemas.config import SimilarImageJob
from schemas.errors import DataError, IntegrityError
from tests.conftest import galaxy_pixels, make_job, write_survey
from tests.jobs.test_cli import UNREACHABLE_RAY, assert_refused, voorwerp

pytestmark = pytest.mark.cluster


def ask(release: Path, *images: Path, **settings: object) -> pa.Table:
    job = {"release": str(release), "images": [str(image) for image in images], **settings}
    return similar_image.run(SimilarImageJob.model_validate(job))


def first_of(found: pa.Table, query: int) -> dict[str, object]:
    return next(row for row in found.to_pylist() if row["query"] == query)


def test_images_of_the_catalogue_find_themselves(finished: Path, survey: Path) -> None:
    images = [survey.parent / "cutouts" / f"{number}.jpg" for number in (0, 17, 89)]
    found = ask(finished, *images, k=3)
    assert len(found) == 9
    far = max(found["distance"].to_pylist())
    for query, number in enumerate((0, 17, 89)):
        first = first_of(found, query)
        assert first["object_id"] == 1000 + number
        assert first["distance"] < 1e-4 * far


def test_a_png_and_a_fits_image_are_placed_and_bad_ones_have_a_reason(finished: Path, tmp_path: Path) -> None:
    Image.fromarray(galaxy_pixels(5)).save(tmp_path / "5.png")
    fits.writeto(tmp_path / "6.fits", galaxy_pixels(6).transpose(2, 0, 1).astype("f4"))
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    found = ask(finished, tmp_path / "5.png", tmp_path / "broken.jpg", tmp_path / "6.fits", tmp_path / "none.jpg", k=2)
    assert first_of(found, 0)["object_id"] == 1005
    assert first_of(found, 1)["status"].startswith("decode_error: ")
    assert first_of(found, 2)["status"] == "ok"
    assert first_of(found, 3)["status"].startswith("not_found: ")
    with pytest.raises(DataError, match="at least one image that can be read, found none of 1: decode_error"):
        ask(finished, tmp_path / "broken.jpg")


def test_a_release_whose_encoder_was_exchanged_is_refused(
    survey: Path, tiny_weights: Path, tmp_path: Path, ray_session: None
) -> None:
    from jobs import release

    catalogue = write_survey(tmp_path / "survey", 12)
    release.run(make_job(catalogue, tmp_path / "out", tiny_weights))
    encoder = current_manifest(Store(str(tmp_path / "out")), "encoder")
    weights = tmp_path / "out" / paths.artefact("encoder", encoder.id) / paths.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        ask(tmp_path / "out", catalogue.parent / "cutouts" / "0.jpg")


def test_the_command_shows_neighbours_by_the_name_of_the_image_without_ray(finished: Path, survey: Path) -> None:
    image = survey.parent / "cutouts" / "3.jpg"
    result = voorwerp("similar-image", finished, image, "-k", "2", "--where", "magnitude < 30", **UNREACHABLE_RAY)
    assert result.returncode == 0, result.stderr
    assert "nearest to" in result.stdout
    assert "3.jpg" in result.stdout
    assert_refused(voorwerp("similar-image", finished, image, "-o", "answers/"), 2, "expected a name ending in")
