"""A whole release, on Ray, from files to neighbours: what comes out, and that it comes out again."""

import io
from pathlib import Path

import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from PIL import Image
from sklearn.decomposition import PCA
from upath import UPath

from engine.cluster.reduce import read_pca
from engine.compute.encoder import build_encoder, encode
from engine.compute.pca import as_incremental_pca
from engine.storage.artefacts import current_manifest, current_release, release_chain
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from engine.storage.weights import read_weights
from jobs import embed as embed_job
from jobs import neighbours, release, verify
from schemas import paths
from schemas.config import NeighboursJob
from schemas.errors import ConfigError, DataError, OutputError
from tests.conftest import AS_USERS_RUN, BUCKET, S3_SECRET, TINY_ARCHITECTURE, galaxy_pixels, make_job, write_survey
from tests.searched import files_with

pytestmark = pytest.mark.cluster


def folder_of(output: Path | str, kind: str) -> Store:
    store = Store(str(output))
    return store.below(paths.artefact(kind, current_manifest(store, kind).id))


def embeddings_by_id(output: Path | str) -> dict[int, np.ndarray]:
    chain = release_chain(Store(str(output)), current_manifest(Store(str(output)), "index"))
    folder = Store(str(output)).below(paths.artefact("embeddings", chain["embeddings"].id))
    table = read_columns(folder, ["object_id", "embedding"])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))


def plain_loop(catalogue: Path, weights: Path) -> dict[int, np.ndarray]:
    """Embed one file after another, with Pillow and timm alone: the paper's grey mean, Lanczos 300, crop 224."""
    import timm
    import torch

    network = timm.create_model(TINY_ARCHITECTURE, pretrained=False, in_chans=1)
    network.load_state_dict(read_weights(str(weights)).tensors)
    network.reset_classifier(0)
    network.eval()
    vectors = {}
    for row in pd.read_csv(catalogue).itertuples():
        pixels = np.asarray(Image.open(catalogue.parent / row.cutout), dtype=np.float32) / 255
        grey = Image.fromarray(pixels.mean(axis=2, dtype=np.float32)).resize((300, 300), Image.Resampling.LANCZOS)
        with torch.inference_mode():
            view = torch.from_numpy(np.asarray(grey)[38:262, 38:262].copy())
            vectors[row.object_id] = network(view[None, None])[0].numpy()
    return vectors


def assert_same_vectors(found: dict[int, np.ndarray], expected: dict[int, np.ndarray], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for object_id, vector in expected.items():
        assert np.abs(found[object_id] - vector).max() <= tolerance * np.abs(vector).max()


def test_every_planned_object_is_embedded_and_verified(finished: Path) -> None:
    counts = current_release(Store(str(finished))).counts
    assert (counts["planned"], counts["embedded"], counts["rejected"], counts["indexed"]) == (90, 90, 0, 90)
    assert verify.run(str(finished))


def test_embeddings_equal_a_plain_loop_over_the_files(finished: Path, survey: Path, tiny_weights: Path) -> None:
    assert_same_vectors(embeddings_by_id(finished), plain_loop(survey, tiny_weights), 1e-5)


@pytest.mark.parametrize(("workers", "batch_size", "rows_per_unit"), [(1, 16, 50), (2, 3, 11)])
def test_workers_batches_and_units_do_not_change_a_vector(
    finished: Path, survey: Path, tiny_weights: Path, tmp_path: Path, workers: int, batch_size: int, rows_per_unit: int
) -> None:
    embed, plan = {"workers": workers, "batch_size": batch_size}, {"rows_per_unit": rows_per_unit}
    release.run(make_job(survey, tmp_path, tiny_weights, embed=embed, plan=plan))
    assert_same_vectors(embeddings_by_id(tmp_path), embeddings_by_id(finished), 1e-5)


def test_random_views_depend_on_the_object_alone(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path
) -> None:
    for name, batch_size, rows in (("a", 4, 8), ("b", 7, 30)):
        embed = {"views": 3, "batch_size": batch_size}
        release.run(make_job(survey, tmp_path / name, tiny_weights, embed=embed, plan={"rows_per_unit": rows}))
    found = embeddings_by_id(tmp_path / "a")
    assert_same_vectors(embeddings_by_id(tmp_path / "b"), found, 1e-5)
    assert not np.allclose(found[1000], embeddings_by_id(finished)[1000], rtol=1e-3)


def test_lsdb_opens_the_embeddings_and_returns_the_same_vectors(finished: Path) -> None:
    folder = folder_of(finished, "embeddings")
    table = lsdb.open_catalog(folder.uri()).compute()
    expected = embeddings_by_id(finished)
    assert len(table) == 90
    assert table.index.is_monotonic_increasing
    for object_id, vector in zip(table["object_id"], table["embedding"], strict=True):
        np.testing.assert_array_equal(np.asarray(vector), expected[object_id])


def test_lsdb_finds_objects_in_a_cone_and_crossmatches_components(finished: Path) -> None:
    components = lsdb.open_catalog(folder_of(finished, "components").uri())
    first = components.compute().iloc[0]
    cone = components.cone_search(ra=first["ra_deg"], dec=first["dec_deg"], radius_arcsec=5).compute()
    assert first["object_id"] in set(cone["object_id"])
    embeddings = lsdb.open_catalog(folder_of(finished, "embeddings").uri())
    matched = components.crossmatch(embeddings, radius_arcsec=0.01, suffixes=("_c", "_e"), require_right_margin=False)
    pairs = matched.compute()
    assert len(pairs) == 90
    assert (pairs["object_id_c"] == pairs["object_id_e"]).all()


def test_embedding_column_is_a_fixed_size_list_sorted_by_healpix_with_extra_columns(finished: Path) -> None:
    folder = folder_of(finished, "embeddings")
    files = [path for path in folder.list() if "Npix=" in path]
    for path in files:
        table = pq.read_table(folder.full_path(path), partitioning=None)
        assert table.schema.field("embedding").type == pa.list_(pa.float32(), 256)
        assert (np.diff(table["_healpix_29"].to_numpy()) >= 0).all()
        assert "magnitude" in table.column_names
    assert len(files) > 5


def test_components_are_those_of_scikit_learn(finished: Path) -> None:
    vectors = embeddings_by_id(finished)
    matrix = np.stack([vectors[object_id] for object_id in sorted(vectors)]).astype(np.float64)
    expected = PCA(n_components=5, svd_solver="full").fit(matrix)
    pca = read_pca(folder_of(finished, "components"))
    np.testing.assert_allclose(pca.explained_variance, expected.explained_variance_, rtol=1e-4)
    table = read_columns(folder_of(finished, "components"), ["object_id", "components"])
    order = np.argsort(table["object_id"].to_numpy())
    found = as_matrix(table["components"])[order]
    np.testing.assert_allclose(np.abs(found), np.abs(expected.transform(matrix)), atol=2e-3 * np.abs(found).max())
    np.testing.assert_allclose(as_incremental_pca(pca).transform(matrix), found, atol=1e-5 * np.abs(found).max())


def test_running_again_changes_no_file(finished: Path, survey: Path, tiny_weights: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    release.run(make_job(survey, finished, tiny_weights))
    after = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert [str(path) for path in before if before[path] != after[path]] == [str(finished / "current.json")]


def test_no_work_is_left_over(finished: Path) -> None:
    assert not [path for path in Store(str(finished)).list() if path.startswith("work/")]


@pytest.mark.fault(30, "another preset")
def test_another_preset_in_the_same_output_is_refused_and_harms_nothing(
    finished: Path, survey: Path, tiny_weights: Path
) -> None:
    with pytest.raises(OutputError, match=r"(?s)already holds the embeddings of another run.*views.*1.*2"):
        release.run(make_job(survey, finished, tiny_weights, embed={"views": 2}))
    assert verify.run(str(finished))


@pytest.mark.fault(30, "another catalogue")
def test_another_catalogue_in_the_same_output_is_refused(finished: Path, tiny_weights: Path, tmp_path: Path) -> None:
    other = write_survey(tmp_path / "other", 12)
    with pytest.raises(OutputError, match="already holds the plan of another run"):
        release.run(make_job(other, finished, tiny_weights))


def test_another_number_of_components_reuses_the_embeddings_and_moves_current(
    survey: Path, tiny_weights: Path, tmp_path: Path
) -> None:
    release.run(make_job(survey, tmp_path, tiny_weights))
    first = current_release(Store(str(tmp_path)))
    release.run(make_job(survey, tmp_path, tiny_weights, reduce={"n_components": 3}))
    second = current_release(Store(str(tmp_path)))
    assert first.artefacts["embeddings"] == second.artefacts["embeddings"]
    assert first.artefacts["components"] != second.artefacts["components"]
    assert len(Store(str(tmp_path)).list("releases")) == 2
    assert verify.run(str(tmp_path))


@pytest.mark.fault(15, "a survey with cutouts of each kind")
def test_broken_cutouts_become_rejects_with_their_reasons(tiny_weights: Path, tmp_path: Path) -> None:
    catalogue = write_survey(tmp_path / "survey", 24)
    cutouts = catalogue.parent / "cutouts"
    (cutouts / "0.jpg").unlink()
    (cutouts / "1.jpg").write_bytes(b"")
    (cutouts / "2.jpg").write_bytes((cutouts / "2.jpg").read_bytes()[:300])
    (cutouts / "3.jpg").write_bytes(b"no image at all")
    pixels = np.full((20, 20), 1.0, np.float32)
    pixels[3, 4] = np.nan
    fits.writeto(tmp_path / "nan.fits", pixels)
    (cutouts / "4.jpg").write_bytes((tmp_path / "nan.fits").read_bytes())
    Image.new("RGB", (4, 4)).save(cutouts / "5.jpg")
    text = catalogue.read_text().splitlines()
    text[7] = text[7].split(",")[0] + ",nan,95.0," + ",".join(text[7].split(",")[3:])
    catalogue.write_text("\n".join(text) + "\n")
    release.run(make_job(catalogue, tmp_path / "out", tiny_weights))
    rejects = pq.read_table(folder_of(tmp_path / "out", "embeddings").full_path("rejects.parquet")).to_pylist()
    assert {row["object_id"]: row["reason"] for row in rejects} == {
        1000: "not_found",
        1001: "decode_error",
        1002: "decode_error",
        1003: "decode_error",
        1004: "nan_pixels",
        1005: "shape",
        1006: "bad_coord",
    }
    counts = current_release(Store(str(tmp_path / "out"))).counts
    assert (counts["planned"], counts["embedded"], counts["rejected"]) == (24, 17, 7)
    assert verify.run(str(tmp_path / "out"))


def test_a_run_that_goes_wrong_stops_and_goes_on_when_more_rejects_are_allowed(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = write_survey(tmp_path / "survey", 40)
    for number in range(15):
        (catalogue.parent / "cutouts" / f"{number}.jpg").write_bytes(b"broken")
    monkeypatch.setattr(embed_job, "JUDGED_FROM", 40)
    with pytest.raises(DataError, match=r"15 of the first 40 cutouts were rejected \(15 decode_error\).*0.25"):
        release.run(make_job(catalogue, tmp_path / "out", tiny_weights))
    assert not Store(str(tmp_path / "out")).exists(paths.LEASE)
    release.run(make_job(catalogue, tmp_path / "out", tiny_weights, embed={"max_reject_fraction": 0.5}))
    assert "units already done" in capsys.readouterr().err
    counts = current_release(Store(str(tmp_path / "out"))).counts
    assert (counts["planned"], counts["embedded"], counts["rejected"]) == (40, 25, 15)


@pytest.mark.fault(23, "a survey of broken cutouts")
def test_when_every_cutout_is_broken_the_accounting_stands_and_nothing_is_published(
    tiny_weights: Path, tmp_path: Path
) -> None:
    catalogue = write_survey(tmp_path / "survey", 5)
    for path in (catalogue.parent / "cutouts").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no object was embedded.*decode_error.*5"):
        release.run(make_job(catalogue, tmp_path / "out", tiny_weights))
    assert not (tmp_path / "out" / "current.json").exists()


def test_too_few_galaxies_for_the_components_are_refused_clearly(tiny_weights: Path, tmp_path: Path) -> None:
    catalogue = write_survey(tmp_path / "survey", 3)
    with pytest.raises(DataError, match=r"5 components need more than 5 rows.*found 3"):
        release.run(make_job(catalogue, tmp_path / "out", tiny_weights))


def test_images_in_a_column_give_the_vectors_of_the_same_files(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path
) -> None:
    table = pd.read_csv(survey)
    images = [(survey.parent / name).read_bytes() for name in table["cutout"]]
    packed = pa.table({"object_id": table["object_id"], "ra": table["ra_deg"], "dec": table["dec_deg"], "jpeg": images})
    pq.write_table(packed, tmp_path / "packed.parquet")
    columns = {"ra_column": "ra", "dec_column": "dec", "cutout_column": "jpeg"}
    job = make_job(tmp_path / "packed.parquet", tmp_path / "out", tiny_weights, catalogue=columns, embed=AS_USERS_RUN)
    release.run(job)
    assert_same_vectors(embeddings_by_id(tmp_path / "out"), embeddings_by_id(finished), 0.0)


def test_a_hats_catalogue_of_fits_cutouts_with_text_ids_is_released(tiny_weights: Path, tmp_path: Path) -> None:
    catalogue = write_survey(tmp_path / "survey", 15)
    table = pd.read_csv(catalogue)
    table["object_id"] = [f"J{number:04d}" for number in table["object_id"]]
    for number in range(15):
        data = galaxy_pixels(number).transpose(2, 0, 1).astype(">f4")
        fits.writeto(tmp_path / "survey" / "cutouts" / f"{number}.fits", data)
    table["cutout"] = [str(tmp_path / "survey" / "cutouts" / f"{number}.fits") for number in range(15)]
    lsdb.from_dataframe(table, ra_column="ra_deg", dec_column="dec_deg").write_catalog(tmp_path / "hats")
    release.run(make_job(tmp_path / "hats", tmp_path / "out", tiny_weights))
    job = NeighboursJob(release=str(tmp_path / "out"), ids=("J1003",), k=4, output=str(tmp_path / "answer.parquet"))
    assert len(neighbours.run(job)) == 4
    assert pq.read_table(tmp_path / "answer.parquet")["query_id"].to_pylist() == ["J1003"] * 4


def test_a_dask_distributed_scheduler_gives_the_same_components(
    survey: Path, tiny_weights: Path, tmp_path: Path, finished: Path
) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp", dashboard_address=None
    ) as dask:
        job = make_job(survey, tmp_path, tiny_weights, reduce={"scheduler": dask.scheduler_address})
        release.run(job)
    tables = [read_columns(folder_of(output, "components"), ["components"]) for output in (tmp_path, finished)]
    found, expected = (as_matrix(table["components"]) for table in tables)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_release_runs_from_s3_to_s3_and_lsdb_reads_it_there(
    s3_server: str,
    tiny_weights: Path,
    survey: Path,
    ray_session: None,
    finished: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bucket = Store(f"s3://{BUCKET}/in")
    for path in [survey, *sorted((survey.parent / "cutouts").iterdir())]:
        bucket.write(str(path.relative_to(survey.parent)), path.read_bytes())
    bucket.write("tiny.safetensors", tiny_weights.read_bytes())
    output = f"s3://{BUCKET}/out"
    release.run(make_job(bucket.uri("catalogue.csv"), output, bucket.uri("tiny.safetensors")))
    assert_same_vectors(embeddings_by_id(output), embeddings_by_id(finished), 1e-5)
    assert verify.run(output)
    assert len(lsdb.open_catalog(UPath(folder_of(output, "embeddings").uri())).compute()) == 90
    answer = f"s3://{BUCKET}/answers/near.csv"
    neighbours.run(NeighboursJob(release=output, positions_deg=((10.0, -5.0),), k=3, output=answer))
    assert len(pd.read_csv(io.BytesIO(Store(answer).read("")))) == 3
    said = capfd.readouterr()
    assert "accounting" in said.err
    assert S3_SECRET not in said.out + said.err
    for folder in (output, f"s3://{BUCKET}/answers"):
        assert files_with(Store(folder), ["object_id"])
        assert not files_with(Store(folder), [S3_SECRET, "AWS_SECRET"])


def test_the_encoder_in_the_output_is_the_one_that_was_used(finished: Path, survey: Path) -> None:
    store = Store(str(finished))
    manifest = current_manifest(store, "encoder")
    folder = store.below(paths.artefact("encoder", manifest.id))
    tensors = read_weights(folder.uri(paths.WEIGHTS)).tensors
    network = build_encoder(manifest.identity["architecture"], manifest.identity["bands"], tensors)
    pixels = np.asarray(Image.open(survey.parent / "cutouts" / "0.jpg"), dtype=np.float32) / 255
    grey = Image.fromarray(pixels.mean(axis=2, dtype=np.float32)).resize((300, 300), Image.Resampling.LANCZOS)
    vector = encode(network, np.asarray(grey)[None, None, 38:262, 38:262].copy())[0]
    np.testing.assert_allclose(vector, embeddings_by_id(finished)[1000], rtol=1e-4, atol=1e-6)


def test_more_workers_than_the_cluster_holds_are_refused(survey: Path, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"embed.workers: expected at most \d+ on this cluster, found 5000"):
        release.run(make_job(survey, tmp_path, tiny_weights, embed={"workers": 5000}))
