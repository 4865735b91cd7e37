"""Positions matched over partitions of the sky equal a match with everything."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.cluster import match
from engine.cluster.match import match_positions
from engine.compute.sky import healpix_29, partition, separation_arcsec
from engine.storage.parquet import write_table
from engine.storage.store import Store
from schemas.partition import Partition
from schemas.tables import DEC, OBJECT_ID, RA


def catalogue(
    folder: Path, ids: list, ra_deg: np.ndarray, dec_deg: np.ndarray, rows: int
) -> tuple[Store, list[Partition]]:
    store, healpix = Store(str(folder)), healpix_29(ra_deg, dec_deg)
    order = np.argsort(healpix, kind="stable")
    parts = []
    for piece in partition(healpix[order], rows):
        at = order[piece.start : piece.stop]
        parts.append(Partition(piece.order, piece.pixel))
        table = pa.table({OBJECT_ID: [ids[row] for row in at], RA: ra_deg[at], DEC: dec_deg[at]})
        write_table(store, parts[-1].path, table)
    return store, parts


def everywhere(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.uniform(0, 360, n), np.degrees(np.arcsin(random.uniform(-1, 1, n)))


@pytest.mark.parametrize("radius_arcsec", [None, 7200.0, 20.0])
@pytest.mark.parametrize("centre", [None, (0.0, 89.9), (0.0, 0.0)])
def test_every_position_gets_the_object_that_brute_force_gives(
    tmp_path: Path, radius_arcsec: float | None, centre: tuple[float, float] | None
) -> None:
    ra_deg, dec_deg = everywhere(800, 1)
    if centre:
        random = np.random.default_rng(2)
        ra_deg = (centre[0] + random.normal(0, 2, 800)) % 360
        dec_deg = centre[1] - np.abs(random.normal(0, 2, 800))
    ids = [f"g{number:04d}" for number in np.random.default_rng(3).permutation(800)]
    store, parts = catalogue(tmp_path, ids, ra_deg, dec_deg, 30)
    random = np.random.default_rng(4)
    near = random.integers(800, size=150)
    query_ra = np.concatenate([(ra_deg[near] + random.normal(0, 0.003, 150)) % 360, everywhere(50, 5)[0]])
    query_dec = np.concatenate([np.clip(dec_deg[near] + random.normal(0, 0.003, 150), -90, 90), everywhere(50, 5)[1]])
    found = match_positions(store, parts, query_ra, query_dec, radius_arcsec)
    apart = separation_arcsec(query_ra[:, None], query_dec[:, None], ra_deg, dec_deg)
    nearest = apart.argmin(axis=1)
    within = apart.min(axis=1) <= (radius_arcsec or np.inf)
    assert found.ids.to_pylist() == [ids[row] if ok else None for row, ok in zip(nearest, within, strict=True)]
    np.testing.assert_allclose(found.separations_arcsec[within], apart.min(axis=1)[within], atol=1e-6)
    assert np.isnan(found.separations_arcsec[~within]).all()


def test_objects_at_one_place_are_in_order_of_id_also_across_partitions(tmp_path: Path) -> None:
    ra_deg, dec_deg = np.array([10.0, 10.0, 200.0]), np.array([5.0, 5.0, 5.0])
    store, parts = catalogue(tmp_path, [7, 3, 1], ra_deg, dec_deg, 2)
    found = match_positions(store, parts, np.array([10.0, 10.1]), np.array([5.0, 5.0]))
    assert found.ids.to_pylist() == [3, 3]


def test_only_partitions_that_matter_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ra_deg, dec_deg = everywhere(2000, 6)
    store, parts = catalogue(tmp_path, list(range(2000)), ra_deg, dec_deg, 50)
    read, paths = match.read_table, set()

    def counted(store: Store, path: str, columns: list[str]) -> pa.Table:
        paths.add(path)
        return read(store, path, columns)

    monkeypatch.setattr(match, "read_table", counted)
    match_positions(store, parts, ra_deg[:3], dec_deg[:3], 10.0)
    assert len(paths) < 0.3 * len(parts)


def test_no_positions_are_no_matches(tmp_path: Path) -> None:
    store, parts = catalogue(tmp_path, [1], np.array([1.0]), np.array([1.0]), 5)
    found = match_positions(store, parts, np.empty(0), np.empty(0))
    assert (len(found.ids), found.ids.type, len(found.separations_arcsec)) == (0, pa.int64(), 0)
