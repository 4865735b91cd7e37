"""Cones: what comparing every object finds, wherever on the sky, in the same order."""

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster.cone import objects_in
from engine.cluster.opened import OpenRelease, open_release
from engine.compute.sky import separation_arcsec
from engine.storage.store import Store
from schemas.partition import PartitionFile
from schemas.service import Cone
from tests.generated import clustered, positions, write_release

N = 400
COLUMNS = ["object_id", "ra_deg", "dec_deg"]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """Objects all over the sky, some at its poles, some at one place."""
    ra_deg, dec_deg = positions(N, 4)
    ra_deg[:6], dec_deg[:6] = [0, 120, 240, 10, 190, 300], [90, 89.999, 89.999, -90, -89.999, -89.9999]
    ra_deg[6:12], dec_deg[6:12] = [359.999, 0, 0.001, 0, 0, 0], 0.0
    ids = pa.array(np.random.default_rng(0).permutation(N))
    output = tmp_path_factory.mktemp("cone") / "release"
    objects = {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg, "magnitude": np.arange(N, dtype=float)}
    write_release(output, objects, clustered(N, 3), n_shards=1, n_cells=2, rows_per_partition=20)
    return open_release(Store(str(output)))


def found_in(release: OpenRelease, cone: Cone, columns: list[str] = COLUMNS) -> pa.Table:
    parts = [PartitionFile.model_validate(part).partition for part in release.components.detail["partitions"]]
    return objects_in(release.components_folder, parts, cone, columns)


def test_a_cone_holds_what_comparing_every_object_finds_in_the_same_order(release: OpenRelease) -> None:
    everything = release.shards[0]
    ids, ra_deg, dec_deg = (everything.column(name).to_numpy() for name in COLUMNS)
    random = np.random.default_rng(7)
    centres = [(0.0, 90.0), (77.0, 90.0), (0.0, -90.0), (0.0, 0.0), (359.9995, 0.0), (180.0, 89.9)]
    centres += list(zip(*(part.tolist() for part in positions(30, 9)), strict=True))
    for ra, dec in centres:
        radius = float(10 ** random.uniform(-1, 5.5))
        apart = separation_arcsec(ra, dec, ra_deg, dec_deg)
        inside = np.flatnonzero(apart <= radius)
        order = inside[np.lexsort((ids[inside], apart[inside]))]
        table = found_in(release, Cone(ra_deg=ra, dec_deg=dec, radius_arcsec=radius))
        assert table["object_id"].to_pylist() == ids[order].tolist()
        assert table["separation_arcsec"].to_pylist() == apart[order].tolist()


def test_the_edge_of_a_cone_belongs_to_it(release: OpenRelease) -> None:
    apart = float(separation_arcsec(0.0, 0.0, np.array([0.001]), np.array([0.0]))[0])
    assert len(found_in(release, Cone(ra_deg=0, dec_deg=0, radius_arcsec=apart))) == 6
    assert len(found_in(release, Cone(ra_deg=0, dec_deg=0, radius_arcsec=apart * (1 - 1e-9)))) == 4


def test_a_cone_of_the_whole_sky_holds_everything_and_an_empty_one_has_its_columns(release: OpenRelease) -> None:
    assert len(found_in(release, Cone(ra_deg=3, dec_deg=4, radius_arcsec=648_000))) == N
    nothing = found_in(release, Cone(ra_deg=45, dec_deg=45, radius_arcsec=1e-6), [*COLUMNS, "magnitude"])
    assert (len(nothing), nothing.column_names) == (0, [*COLUMNS, "magnitude", "separation_arcsec"])
