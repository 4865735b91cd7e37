"""A release with an encoder over HTTP: what it was made of, what it rejected, where it is, and images like its own."""

import io
import json
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from mocpy import MOC
from PIL import Image
from starlette.testclient import TestClient

from engine.cluster import serving_images
from engine.cluster.filters import filter_for
from engine.cluster.opened import open_release
from engine.cluster.serving import ReleaseSearcher
from engine.cluster.serving_campaigns import ServedCampaigns
from engine.service.app import create_app
from engine.storage.artefacts import release_chain
from engine.storage.campaigns import open_campaigns
from engine.storage.store import Store
from engine.storage.tokens import open_tokens
from jobs import release, similar_image
from schemas import paths
from schemas.config import SimilarImageJob
from schemas.service import ServeConfig
from tests.conftest import galaxy_pixels, make_job, write_survey
from tests.service.conftest import bomb

pytestmark = pytest.mark.cluster
N, BROKEN, GONE = 24, 3, 5
IMAGE = "/v1/neighbours/image"


class Real(NamedTuple):
    """A release made from pixels, served."""

    catalogue: Path
    output: Path
    client: TestClient

    def image(self, number: int) -> bytes:
        return (self.catalogue.parent / "cutouts" / f"{number}.jpg").read_bytes()


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, ray_session: None) -> Iterator[Real]:
    """A release of 24 objects, of which two were rejected, that everyone may read."""
    folder = tmp_path_factory.mktemp("real")
    catalogue, output = write_survey(folder / "survey", N), folder / "out"
    (catalogue.parent / "cutouts" / f"{BROKEN}.jpg").write_bytes(b"<svg/>")
    (catalogue.parent / "cutouts" / f"{GONE}.jpg").unlink()
    release.run(make_job(catalogue, output, tiny_weights, index={"rows_per_shard": 8}))
    config = ServeConfig(release=str(output), anonymous_read=True, rate_per_minute=100_000)
    url = str(folder / "database.sqlite")
    with closing(open_campaigns(url)) as store, closing(open_tokens(url)) as tokens:
        searcher = ReleaseSearcher(open_release(Store(str(output))))
        app = create_app(searcher, ServedCampaigns(store, str(output)), tokens, config)
        yield Real(catalogue, output, TestClient(app))


def ask(real: Real, image: bytes, **asked: object) -> dict:
    answer = real.client.post(IMAGE, params=asked, content=image)
    return {"status_code": answer.status_code, **answer.json()}


def test_an_image_finds_what_the_terminal_finds(real: Real, capsys: pytest.CaptureFixture[str]) -> None:
    path = real.catalogue.parent / "cutouts" / "17.jpg"
    found = ask(real, real.image(17), k=4)
    settings = {"release": str(real.output), "images": [str(path)], "k": 4}
    table = similar_image.run(SimilarImageJob.model_validate(settings))
    (one,) = found["answers"]
    assert [row["object_id"] for row in one["neighbours"]] == [str(value) for value in table["object_id"].to_pylist()]
    assert [row["distance"] for row in one["neighbours"]] == table["distance"].to_pylist()
    assert one["neighbours"][0]["object_id"] == "1017"
    assert (one["exactness"], found["recall"], found["shards_asked"]) == ("exact", None, found["n_shards"])
    assert (one["query_id"], one["match_arcsec"]) == (None, None)


def test_images_of_other_formats_are_placed_too_and_filters_hold(real: Real) -> None:
    png, fluxes = io.BytesIO(), io.BytesIO()
    Image.fromarray(galaxy_pixels(6)).save(png, "PNG")
    fits.writeto(fluxes, galaxy_pixels(6).transpose(2, 0, 1).astype("f4"))
    assert ask(real, png.getvalue(), k=1)["answers"][0]["neighbours"][0]["object_id"] == "1006"
    assert ask(real, fluxes.getvalue(), k=1)["answers"][0]["status"] == "ok"
    rows = {row["object_id"]: row["magnitude"] for row in pacsv.read_csv(real.catalogue).to_pylist()}
    (one,) = ask(real, png.getvalue(), k=N, where="magnitude < 16")["answers"]
    bright = {str(name) for name, magnitude in rows.items() if magnitude < 16 and name not in (1003, 1005)}
    assert {row["object_id"] for row in one["neighbours"]} == bright
    table = real.client.post(IMAGE, params={"k": 2, "format": "parquet"}, content=png.getvalue())
    assert pq.read_table(io.BytesIO(table.content))["object_id"].to_pylist()[0] == 1006


def fits_that_says(width: int, height: int) -> bytes:
    header = fits.Header([("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", height)])
    return header.tostring().encode()


def cut(image: bytes) -> bytes:
    return image[: len(image) // 2]


def test_what_is_no_image_is_refused_with_its_reason(real: Real) -> None:
    whole = real.image(0)
    gif, tiny, empty_fits, nan = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(galaxy_pixels(6)).save(gif, "GIF")
    Image.fromarray(galaxy_pixels(6)[:4, :4]).save(tiny, "PNG")
    fits.PrimaryHDU().writeto(empty_fits)
    fits.writeto(nan, np.full((30, 30), np.nan, np.float32))
    packed = zlib.compressobj(wbits=31)
    bad = {
        b"": "decode_error",
        b"<html><script>alert(1)</script></html>": "decode_error",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>': "decode_error",
        b"%PDF-1.7": "decode_error",
        b"s3://bucket/key": "decode_error",
        gif.getvalue(): "decode_error",
        cut(whole): "decode_error",
        tiny.getvalue(): "shape",
        bomb(30_000): "too_large",
        fits_that_says(100_000, 100_000): "too_large",
        fits_that_says(2_000_000_000, 2_000_000_000): "decode_error",
        fits_that_says(1000, 1000): "decode_error",
        empty_fits.getvalue(): "shape",
        nan.getvalue(): "nan_pixels",
        packed.compress(bytes(80 << 20)) + packed.flush(): "too_large",
    }
    for image, reason in bad.items():
        answer = real.client.post(IMAGE, content=image)
        found = answer.json()
        assert (answer.status_code, found["reason"]) == (422, reason), (image[:40], found)
        assert "/tmp" not in answer.text
        assert answer.headers["content-type"] == "application/problem+json"
    assert ask(real, whole)["status_code"] == 200


def test_images_wait_for_each_other_and_too_many_are_put_off(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_images, "IMAGES_WAITING", 1)
    searcher = ReleaseSearcher(open_release(Store(str(real.output))))
    images = searcher._images
    with ThreadPoolExecutor(3) as pool:
        with images._turns.one():
            asked = [pool.submit(images.place, real.image(0)) for _ in range(3)]
            failed = [one for _, one in zip(range(2), as_completed(asked, timeout=20), strict=False)]
        found = [one.exception() for one in asked]
    assert len(failed) == 2
    assert sorted(type(one).__name__ for one in found) == ["BusyError", "BusyError", "NoneType"]


@pytest.mark.parametrize("asked", [{"k": 0}, {"k": 1001}, {"where": "x =="}, {"cone_ra": 1}, {"include_self": True}])
def test_questions_about_an_image_that_cannot_be_are_refused(real: Real, asked: dict) -> None:
    assert ask(real, real.image(0), **asked)["status_code"] == 422


def test_a_release_whose_encoder_is_not_here_says_so(real: Real, tmp_path: Path) -> None:
    weights = next((real.output / "encoder").glob(f"*/{paths.WEIGHTS}"))
    moved = weights.rename(tmp_path / "weights")
    config = ServeConfig(release=str(real.output), anonymous_read=True)
    url = str(tmp_path / "database.sqlite")
    with closing(open_campaigns(url)) as store, closing(open_tokens(url)) as tokens:
        searcher = ReleaseSearcher(open_release(Store(str(real.output))))
        client = TestClient(create_app(searcher, ServedCampaigns(store, str(real.output)), tokens, config))
        answer = client.post(IMAGE, content=real.image(0))
        assert (answer.status_code, answer.json()["reason"]) == (501, "no-encoder")
        assert str(real.output) not in answer.text
        moved.rename(weights)
        assert client.post(IMAGE, content=real.image(0)).status_code == 200


def test_an_image_may_be_larger_than_other_requests_and_no_larger_than_is_said(
    make_app: Callable[..., object], token_of: Callable[..., str]
) -> None:
    client = TestClient(make_app(anonymous_read=True, max_body_bytes=2000, max_image_bytes=9000))  # type: ignore[arg-type]
    assert client.post(IMAGE, content=bytes(9001)).status_code == 413
    assert client.post(IMAGE, content=bytes(8000)).json()["reason"] == "no-encoder"
    assert client.post("/v1/neighbours", content=bytes(2001)).status_code == 413


def test_rejects_are_counted_by_reason_with_examples(real: Real) -> None:
    found = real.client.get("/v1/release/rejects").json()
    assert found["n_rejected"] == 2
    by_reason = {one["reason"]: one for one in found["by_reason"]}
    assert {reason: one["examples"] for reason, one in by_reason.items()} == {
        "decode_error": [str(1000 + BROKEN)],
        "not_found": [str(1000 + GONE)],
    }
    assert all(one["n"] == 1 and one["meaning"] for one in found["by_reason"])


def test_the_footprint_covers_every_object_and_little_else(real: Real, tmp_path: Path) -> None:
    answer = real.client.get("/v1/release/footprint.fits")
    assert answer.headers["content-type"] == "application/fits"
    assert "attachment" in answer.headers["content-disposition"]
    (tmp_path / "moc.fits").write_bytes(answer.content)
    with fits.open(tmp_path / "moc.fits") as units:
        assert units[1].header["MOCORDER" if "MOCORDER" in units[1].header else "MOCORD_S"] == 9
    moc = MOC.load(tmp_path / "moc.fits", format="fits")
    table = pacsv.read_csv(real.catalogue)
    from astropy.coordinates import Latitude, Longitude

    kept = ~np.isin(table["object_id"].to_numpy(), [1000 + BROKEN, 1000 + GONE])
    ra, dec = Longitude(table["ra_deg"].to_numpy(), unit="deg"), Latitude(table["dec_deg"].to_numpy(), unit="deg")
    assert moc.contains_lonlat(ra, dec).tolist() == kept.tolist()
    assert moc.sky_fraction == pytest.approx((N - 2) / (12 * 4**9))


def test_manifests_say_what_the_release_was_made_of_and_not_where_anything_lies(real: Real) -> None:
    opened = open_release(Store(str(real.output)))
    chain = release_chain(opened.store, opened.index)
    found = real.client.get("/v1/release/manifests").json()
    assert [one["kind"] for one in found["manifests"]] == ["encoder", "plan", "embeddings", "components", "index"]
    assert {one["kind"]: one["counts"] for one in found["manifests"]} == {
        kind: manifest.counts for kind, manifest in chain.items()
    }
    for kind, manifest in chain.items():
        one = real.client.get(f"/v1/release/manifests/{kind}").json()
        assert (one["id"], one["created_utc"]) == (manifest.id, manifest.created_utc)
        assert one["versions"] == manifest.versions
        assert one["n_files"] == len(manifest.files)
        assert one["parents"] == {name: parent.id for name, parent in manifest.parents.items()}
        text = json.dumps(one)
        assert not any(piece in text for piece in (str(real.output.parent), "cutouts/", ".safetensors", ".parquet"))
    assert real.client.get("/v1/release/manifests/embeddings").json()["identity"]["preset"]["crop"] > 0
    assert real.client.get("/v1/release/manifests/components").json()["detail"]["explained_variance_ratio"]
    assert real.client.get("/v1/release/manifests/map").status_code == 404
    assert real.client.get("/v1/release/manifests/secrets").status_code == 422


def test_all_releases_of_the_output_are_listed_and_which_one_is_served(
    tmp_path: Path, real: Real, tiny_weights: Path
) -> None:
    first = open_release(Store(str(real.output)))
    release.run(make_job(real.catalogue, real.output, tiny_weights, index={"rows_per_shard": 20}))
    second = open_release(Store(str(real.output)))
    assert first.id != second.id
    found = real.client.get("/v1/releases").json()
    assert found["served"] == first.id
    listed = {one["release"]: one for one in found["releases"]}
    assert set(listed) == {first.id, second.id}
    assert [one["created_utc"] for one in found["releases"]] == sorted(
        (one["created_utc"] for one in found["releases"]), reverse=True
    )
    assert {name: one["is_served"] for name, one in listed.items()} == {first.id: True, second.id: False}
    assert listed[second.id]["index"] == second.index.id
    assert str(real.output.parent) not in json.dumps(found)


def test_where_cutouts_lie_cannot_be_asked(real: Real) -> None:
    opened = open_release(Store(str(real.output)))
    assert filter_for(opened.schema, None, None, "magnitude < 3").where
    for where in ('cutout == "x"', "_healpix_29 > 0"):
        answer = real.client.get("/v1/neighbours", params={"id": "1000", "where": where})
        assert answer.status_code == 422
        assert "found object_id, ra_deg, dec_deg, magnitude" in answer.json()["detail"]
