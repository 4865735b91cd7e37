"""Comparing two releases: every object has one fate, and what is called the same is the same."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.compute.basis_drift import K, drift
from engine.compute.changes import (
    KEY,
    carried_table,
    changes_table,
    compare,
    neighbours_table,
    outline,
)
from engine.compute.pca import moments, solve


def objects(
    ids: list[int],
    cutouts: list[str] | None = None,
    sizes: list[int | None] | None = None,
    versions: list[str | None] | None = None,
    dec_deg: list[float] | None = None,
) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "_healpix_29": pa.array(range(n), pa.int64()),
            "object_id": pa.array(ids, pa.int64()),
            "ra_deg": pa.array([10.0] * n),
            "dec_deg": pa.array(dec_deg or [0.0] * n),
            "cutout": pa.array(cutouts or [f"/cutouts/{one}.jpg" for one in ids], pa.string()),
            "cutout_size": pa.array(sizes or [100] * n, pa.int64()),
            "cutout_version": pa.array(versions or ["1"] * n, pa.string()),
        }
    )


def key_of(cutout: str, size: int | None = 100, version: str | None = "a") -> int:
    return int(outline(objects([1], [cutout], [size], [version]))[KEY][0].as_py())


def test_a_cutout_is_the_same_only_by_name_size_and_version() -> None:
    assert key_of("/a.jpg") == key_of("/a.jpg")
    others = [key_of("/b.jpg"), key_of("/a.jpg", 101), key_of("/a.jpg", 100, "b"), key_of("/a.h5#images[3]")]
    assert len({key_of("/a.jpg"), *others}) == 5


def test_a_copy_in_s3_is_the_same_cutout_by_its_etag_and_a_piece_of_a_container_is_not() -> None:
    assert key_of("s3://dr1/1.jpg") == key_of("s3://dr2/1.jpg")
    assert key_of("s3://dr1/1.jpg") != key_of("s3://dr2/1.jpg", 100, "b")
    assert key_of("s3://dr1/all.tar#bytes=0-9") != key_of("s3://dr1/all.tar#bytes=10-19")


def test_no_file_is_never_the_same() -> None:
    assert key_of("/a.jpg", None, None) == 0
    gone = outline(objects([1], sizes=[None], versions=[None]))
    assert not compare(gone, gone).has_same_cutout.any()


@given(
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.lists(st.integers(0, 30), unique=True, max_size=20),
    st.sets(st.integers(0, 30)),
    st.sets(st.integers(0, 30)),
)
def test_every_object_has_one_fate(now: list[int], before: list[int], changed: set[int], moved: set[int]) -> None:
    new = outline(
        objects(
            now,
            versions=["2" if one in changed else "1" for one in now],
            dec_deg=[0.001 if one in moved else 0.0 for one in now],
        )
    )
    old = outline(objects(before))
    found = compare(new, old)
    both = set(now) & set(before)
    assert found.counts == {
        "added": len(set(now) - set(before)),
        "changed": len(both & changed),
        "moved": len(both & moved - changed),
        "dropped": len(set(before) - set(now)),
        "same": len(both - changed - moved),
    }
    rows = changes_table(new, old, found).to_pylist()
    assert len({row["object_id"] for row in rows}) == len(rows) == sum(found.counts.values()) - found.counts["same"]
    for row in rows:
        assert (row["ra_deg"] is None) == (row["change"] == "dropped")
        assert (row["previous_ra_deg"] is None) == (row["change"] == "added")
        if row["change"] == "moved":
            assert row["separation_arcsec"] == pytest.approx(3.6)
    taken = carried_table(new, old, found.previous, found.has_same_cutout)
    assert set(taken["object_id"].to_pylist()) == both - changed
    places = dict(zip(before, range(len(before)), strict=True))
    assert taken["previous_healpix_29"].to_pylist() == [places[one] for one in taken["object_id"].to_pylist()]


def test_neighbours_that_came_and_went_are_listed_nearest_first() -> None:
    def answers(*near: list[int]) -> pa.Table:
        rows = [(query, one) for query, found in enumerate(near) for one in found]
        return pa.table({"query": [row[0] for row in rows], "object_id": [row[1] for row in rows]})

    found = neighbours_table(pa.array([7, 8]), answers([5, 9, 2], [1]), answers([2, 3, 4], [1])).to_pylist()
    assert found == [
        {"object_id": 7, "n_shared": 1, "gained": [5, 9], "lost": [3, 4]},
        {"object_id": 8, "n_shared": 1, "gained": [], "lost": []},
    ]


def test_a_basis_that_still_fits_does_not_drift_and_a_turned_one_does() -> None:
    random = np.random.default_rng(0)
    scale = np.array([10, 5, 1, 0.1, 0.1, 0.1])
    rows = (random.normal(size=(500, 6)) * scale).astype(np.float32)
    state = moments(rows)
    kept = solve(state, 2)
    same = drift(state, kept, kept, rows, 50)
    assert same.angle_deg == pytest.approx(0, abs=1e-5)
    assert same.variance_kept == pytest.approx(same.variance_refit)
    assert (same.neighbours_kept, same.n_sample) == (1.0, 500)
    turned = (random.normal(size=(500, 6)) * scale[[2, 3, 0, 1, 4, 5]]).astype(np.float32)
    away = drift(moments(turned), kept, solve(moments(turned), 2), turned, 50)
    assert away.angle_deg > 80
    assert away.variance_kept < 0.05 < 0.9 < away.variance_refit
    assert away.neighbours_kept < 0.5


def test_few_objects_have_few_neighbours_to_keep() -> None:
    rows = np.eye(4, dtype=np.float32)
    pca = solve(moments(rows), 1)
    assert len(rows) < K
    assert drift(moments(rows), pca, pca, rows, 10).neighbours_kept == 1.0
    assert drift(moments(rows), pca, pca, rows[:1], 10).neighbours_kept == 1.0
