"""A simulated survey: tables that fit together, cutouts that can be read, the same from the same seed."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.cluster.simulate import UNIT_ROWS, assemble, part, simulate_unit
from engine.storage.catalogue import read_catalogue
from engine.storage.store import Store
from jobs import simulate
from schemas.config import CatalogueConfig
from schemas.errors import OutputError
from schemas.simulation import SimulateJob
from schemas.tables import CUTOUT, OBJECT_ID
from schemas.tree import load_tree

pytest.importorskip("galsim", reason="needs galsim")


def made(folder: Path, **settings: object) -> SimulateJob:
    job = SimulateJob.model_validate({"output": str(folder), "n": 12, "side": 32, "odd_share": 0.2, **settings})
    simulate_unit(job, 0)
    assemble(job)
    return job


@pytest.mark.parametrize("image_format", ["jpeg", "fits"])
@pytest.mark.parametrize("container", ["files", "tar"])
def test_the_tables_fit_together_and_the_catalogue_can_be_planned(
    tmp_path: Path, image_format: str, container: str
) -> None:
    made(tmp_path, format=image_format, container=container)
    tables = {name: pq.read_table(tmp_path / f"{name}.parquet") for name in ("catalogue", "votes", "truth")}
    assert all(table[OBJECT_ID].to_pylist() == list(range(12)) for table in tables.values())
    assert set(load_tree("gz_decals").columns) < set(tables["votes"].column_names)
    catalogue = read_catalogue(CatalogueConfig(path=str(tmp_path / "catalogue.parquet")))
    assert all(uri.startswith(str(tmp_path)) for uri in catalogue[CUTOUT].to_pylist())
    assert not Store(str(tmp_path)).list("parts")


def test_the_same_seed_makes_the_same_survey_and_another_seed_another(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        made(tmp_path / name, seed=seed)
    first, again, other = (Store(str(tmp_path / name)) for name in "abc")
    for path in first.list("cutouts"):
        assert first.read(path) == again.read(path)
        assert first.read(path) != other.read(path)
    assert pq.read_table(tmp_path / "a" / "votes.parquet").equals(pq.read_table(tmp_path / "b" / "votes.parquet"))


def test_a_unit_that_is_there_is_not_drawn_again(tmp_path: Path) -> None:
    job = SimulateJob(output=str(tmp_path), n=UNIT_ROWS + 2, side=32)
    assert simulate_unit(job, 1) == 2
    store = Store(str(tmp_path))
    before = store.entry(part("truth", 1))
    assert simulate_unit(job, 1) == 2
    assert store.entry(part("truth", 1)) == before


def test_fits_cutouts_hold_three_planes_and_their_scale(tmp_path: Path) -> None:
    from astropy.io import fits

    made(tmp_path, format="fits")
    path = tmp_path / pq.read_table(tmp_path / "catalogue.parquet")[CUTOUT][0].as_py()
    header, data = fits.getheader(path), fits.getdata(path)
    assert data.shape == (3, 32, 32)
    assert header["PIXSCALE"] > 0
    assert header["BANDS"] == "g,r,z"


@pytest.mark.cluster
def test_a_survey_is_made_and_found_again_and_refused_with_other_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = SimulateJob(output=str(tmp_path), n=20, side=32)
    simulate.run(job)
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert pq.read_table(tmp_path / "catalogue.parquet").num_rows == 20
    simulate.run(job)
    assert "20 galaxies are in" in capsys.readouterr().err
    with pytest.raises(OutputError, match=r"other settings \(seed: 0 instead of 5\)"):
        simulate.run(job.model_copy(update={"seed": 5}))
    assert np.isfinite(pq.read_table(tmp_path / "truth.parquet")["magnitude"].to_numpy()).all()
