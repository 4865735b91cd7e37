"""A release as a HATS collection: valid, complete, and other tools find in it what is there."""

from pathlib import Path

import astropy.units as u
import hats
import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from cdshealpix import vertices
from hats.io.skymap import read_skymap
from hats.io.validation import is_valid_catalog
from mocpy import MOC
from typer.testing import CliRunner
from upath import UPath

from engine.compute import sky
from engine.storage.answers import write_answer
from engine.storage.artefacts import current_manifest, current_release
from engine.storage.hats_catalogue import read_columns, write_hats_metadata
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from jobs import hats as job
from jobs import neighbours
from jobs.cli import app
from schemas import paths
from schemas.config import NeighboursJob
from schemas.errors import DataError, InputNotFoundError, OutputError
from schemas.hats import HatsJob
from schemas.partition import Partition
from tests.generated import clustered, positions, write_release

N = 400
POSITION = ("ra_deg", "dec_deg")


def folder_of(output: Path, kind: str) -> Store:
    store = Store(str(output))
    return store.below(paths.artefact(kind, current_manifest(store, kind).id))


def read_partition_files(folder: Path) -> list[Partition]:
    found = (path.parts[-3:] for path in folder.glob("dataset/Norder=*/Dir=*/Npix=*.parquet"))
    return [Partition(int(order[7:]), int(name[5:-8])) for order, _, name in found]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of a release of objects all over the sky, some of them around the corners of its partitions."""
    output = tmp_path_factory.mktemp("release")
    corners = vertices(np.arange(12), 0)
    n = corners[0].size
    ra, dec = positions(N - n, seed=5)
    beside = np.tile([[-1, -1, 1, 1], [-1, 1, -1, 1]], 12) * 10 / 3600
    ra = np.concatenate([ra, (corners[0].deg.ravel() + beside[0]) % 360])
    dec = np.concatenate([dec, np.clip(corners[1].deg.ravel() + beside[1], -90, 90)])
    objects = {"object_id": np.arange(N), "ra_deg": ra, "dec_deg": dec, "mag": np.linspace(15, 20, N)}
    write_release(output, objects, clustered(N, 4), rows_per_partition=100)
    return output


@pytest.fixture(scope="module")
def collection(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its collection, with a margin of 30 arcsec."""
    output = tmp_path_factory.mktemp("shared") / "survey"
    job.run(HatsJob(source=str(release), output=str(output), margin_arcsec=30, extensions=()))
    return output


def test_hats_calls_the_collection_valid_and_finds_its_margin(collection: Path) -> None:
    assert is_valid_catalog(UPath(collection), strict=True)
    found = hats.read_hats(collection)
    assert found.get_margin_thresholds() == {"components_30arcsec": 30.0}
    assert len(found.main_catalog) == N


def test_a_cone_search_finds_what_lies_in_the_cone(collection: Path) -> None:
    catalogue = lsdb.open_catalog(collection)
    table = catalogue.compute()
    centre = table.iloc[17]
    apart = sky.separation_arcsec(centre["ra_deg"], centre["dec_deg"], *(table[n].to_numpy() for n in POSITION))
    found = catalogue.cone_search(ra=centre["ra_deg"], dec=centre["dec_deg"], radius_arcsec=60_000).compute()
    assert set(found["object_id"]) == set(table["object_id"][apart <= 60_000])
    assert len(found) > 2


def test_a_crossmatch_with_a_large_catalogue_finds_every_pair_across_borders(collection: Path) -> None:
    # The release is on the right, where a match beyond the border of a partition is found by the margin alone.
    release = lsdb.open_catalog(collection)
    alone = lsdb.open_catalog(collection / "components")
    table = release.compute()
    generator = np.random.default_rng(8)
    n = 100_000
    ra, dec = positions(n - len(table), seed=9)
    shift = generator.uniform(-15, 15, (2, len(table))) / 3600
    near_dec = np.clip(table["dec_deg"].to_numpy() + shift[0], -90, 90)
    near_ra = (table["ra_deg"].to_numpy() + shift[1]) % 360
    other = pd.DataFrame({"x_id": np.arange(n), "ra": [*near_ra, *ra], "dec": [*near_dec, *dec]})
    left = lsdb.from_dataframe(other, ra_column="ra", dec_column="dec", partition_rows=30_000, margin_threshold=None)
    pairs, without_margin = (
        left.crossmatch(
            right, radius_arcsec=30, n_neighbors=9, suffix_method="overlapping_columns", require_right_margin=False
        ).compute()
        for right in (release, alone)
    )
    expected = set()
    for row in table.itertuples():
        near = sky.in_cone(other["ra"].to_numpy(), other["dec"].to_numpy(), row.ra_deg, row.dec_deg, 30)
        expected |= {(int(x), row.object_id) for x in np.flatnonzero(near)}
    assert set(zip(pairs["x_id"], pairs["object_id"], strict=True)) == expected
    assert len(expected) > len(without_margin) > N


def test_map_partitions_sees_every_vector_once(collection: Path) -> None:
    catalogue = lsdb.open_catalog(collection)
    norms = catalogue.map_partitions(
        lambda part: pd.DataFrame({"object_id": part["object_id"], "l1": [np.abs(v).sum() for v in part["components"]]})
    ).compute()
    table = catalogue.compute().set_index("object_id")
    assert len(norms) == N
    for row in norms.itertuples():
        assert row.l1 == pytest.approx(np.abs(table.loc[row.object_id, "components"]).sum())


def test_the_collection_says_where_it_is_on_the_sky_and_what_it_was_made_of(release: Path, collection: Path) -> None:
    found = hats.read_hats(collection).main_catalog
    info = found.catalog_info
    record = current_release(Store(str(release)))
    assert found.moc is not None
    table = lsdb.open_catalog(collection).compute()
    assert found.moc.contains_lonlat(*(table[name].to_numpy() * u.deg for name in POSITION)).all()
    coverage = MOC.from_fits(collection / "components" / "moc.fits")
    assert coverage.contains_lonlat(*(table[name].to_numpy() * u.deg for name in POSITION)).all()
    assert info.moc_sky_fraction == pytest.approx(coverage.sky_fraction)
    assert read_skymap(found, None).sum() == N
    about = info.extra_dict()
    assert about["voorwerp_release"] == record.id
    assert about["voorwerp_components"] == record.artefacts["components"].id
    assert about["voorwerp_embeddings"] == record.artefacts["embeddings"].id
    assert about["hats_builder"].startswith("voorwerp 0.")


def test_statistics_and_one_row_of_every_partition_are_there_without_reading_it(collection: Path) -> None:
    limits = hats.read_hats(collection).main_catalog.aggregate_column_statistics(include_columns=["mag"])
    assert (limits.loc["mag", "min_value"], limits.loc["mag", "max_value"]) == (15, 20)
    folder = collection / "components"
    n_partitions = len(list(folder.glob("dataset/Norder=*/Dir=*/Npix=*.parquet")))
    assert len(pd.read_parquet(folder / "data_thumbnail.parquet")) == n_partitions
    assert len(pd.read_parquet(folder / "per_partition_statistics.parquet")) == n_partitions


def test_partitions_are_the_files_of_the_release_under_a_second_name(release: Path, collection: Path) -> None:
    for path in collection.glob("components/dataset/Norder=*/Dir=*/Npix=*.parquet"):
        (original,) = release.glob(f"components/*/{path.relative_to(collection / 'components')}")
        assert path.samefile(original)


def test_any_catalogue_becomes_a_collection_and_a_second_one_in_its_place_is_refused(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = release.glob("components/*/")
    write_hats_metadata(Store(str(source)), "own", read_partition_files(source), N)
    output = tmp_path / "again"
    result = CliRunner().invoke(app, ["hats", str(source), "-o", str(output), "--margin-arcsec", "0"])
    assert result.exit_code == 0, result.output
    assert is_valid_catalog(UPath(output), strict=True)
    assert len(lsdb.open_catalog(output)) == N
    with pytest.raises(OutputError, match="expected a new folder"):
        job.run(HatsJob(source=str(source), output=str(output)))


def test_a_collection_that_was_not_finished_is_begun_again(release: Path, tmp_path: Path) -> None:
    wanted = HatsJob(source=str(release), output=str(tmp_path), extensions=())
    left_over = tmp_path / "components" / "dataset" / "Norder=0" / "Dir=0" / "Npix=99.parquet"
    left_over.parent.mkdir(parents=True)
    left_over.write_bytes(b"half")
    job.run(wanted)
    assert not left_over.exists()
    assert is_valid_catalog(UPath(tmp_path), strict=True)


def test_what_is_no_release_and_no_catalogue_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="found neither"):
        job.run(HatsJob(source=str(tmp_path), output=str(tmp_path / "out")))


def test_a_release_without_predictions_cannot_have_them_joined(release: Path, tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="expected predictions of this release, found none"):
        job.run(HatsJob(source=str(release), output=str(tmp_path), extensions=("predictions",)))


@pytest.mark.cluster
def test_embeddings_are_joined_to_the_objects_by_name(finished: Path, tmp_path: Path) -> None:
    job.run(HatsJob(source=str(finished), output=str(tmp_path / "survey")))
    catalogue = lsdb.open_catalog(tmp_path / "survey")
    table = catalogue.load_extension("embeddings").compute()
    folder = folder_of(finished, "embeddings")
    expected = read_columns(folder, ["object_id", "embedding"])
    vectors = dict(zip(expected["object_id"].to_pylist(), as_matrix(expected["embedding"]), strict=True))
    assert len(table) == len(vectors)
    assert {"components", "embedding", "magnitude"} <= set(table.columns)
    for object_id, vector in zip(table["object_id"], table["embedding"], strict=True):
        np.testing.assert_array_equal(np.asarray(vector), vectors[object_id])


def test_an_answer_becomes_a_hats_catalogue_by_the_positions_of_its_neighbours(release: Path, tmp_path: Path) -> None:
    output = tmp_path / "near.hats"
    asked = NeighboursJob(release=str(release), ids=("3", "300"), k=30, output=str(output))
    expected = neighbours.run(asked)
    assert expected is not None
    assert is_valid_catalog(UPath(output), strict=True)
    found = lsdb.open_catalog(output).compute()
    assert found.index.is_monotonic_increasing
    columns = ["query_id", "rank", "object_id", "distance"]
    assert sorted(found[columns].itertuples(index=False)) == sorted(
        expected.select(columns).to_pandas().itertuples(index=False)
    )
    with pytest.raises(OutputError, match="expected a new folder for a HATS catalogue"):
        neighbours.run(asked)


def test_rows_without_a_position_lie_beside_a_hats_catalogue(tmp_path: Path) -> None:
    dense = np.full(2_000, 10.0)
    table = pa.table({"x": np.arange(2_001), "ra_deg": [*dense, None], "dec_deg": [*dense, 5.0]})
    write_answer(str(tmp_path / "table.hats"), table)
    assert is_valid_catalog(UPath(tmp_path / "table.hats"), strict=True)
    assert len(lsdb.open_catalog(tmp_path / "table.hats").compute()) == 2_000
    assert pd.read_parquet(tmp_path / "table.hats" / "unplaced.parquet")["x"].tolist() == [2_000]
    with pytest.raises(DataError, match="found none"):
        write_answer(str(tmp_path / "none.hats"), table.slice(2_000))


def test_a_collection_is_written_to_s3_and_read_there(release: Path, collection: Path, s3_server: str) -> None:
    output = f"{s3_server}/shared/survey"
    job.run(HatsJob(source=str(release), output=output, margin_arcsec=30, extensions=()))
    assert is_valid_catalog(UPath(output), strict=True)
    columns = ["object_id", "ra_deg", "dec_deg", "mag"]
    found, expected = (lsdb.open_catalog(place).compute()[columns] for place in (UPath(output), collection))
    pd.testing.assert_frame_equal(found, expected)
