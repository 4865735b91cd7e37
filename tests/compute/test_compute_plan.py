"""The plan: every row of a catalogue is an object in sky order or a reject with its reason."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute import sky
from engine.compute.digest import id_digest, table_digest
from engine.compute.plan import default_rows_per_unit, plan_objects, repeats, units
from engine.compute.rejects import Reject, rejects_table
from schemas.errors import DataError
from schemas.partition import Unit
from schemas.reject import RejectReason
from schemas.tables import rejects_schema

quick = settings(deadline=None, max_examples=60)
angle = st.floats(0, 359.99) | st.sampled_from([0.0, 360.0, -1.0, float("nan"), float("inf")]) | st.none()
rows = st.lists(st.tuples(st.integers(0, 30), angle, st.floats(-95, 95) | st.none()), min_size=1, max_size=40)


def catalogue(ids: list, ra: list | None = None, dec: list | None = None) -> pa.Table:
    n = len(ids)
    return pa.table(
        {
            "object_id": ids,
            "ra_deg": pa.array(ra if ra is not None else np.linspace(0, 350, n), pa.float64()),
            "dec_deg": pa.array(dec if dec is not None else np.linspace(-60, 60, n), pa.float64()),
            "cutout": pa.array([f"/cutouts/{value}.jpg" for value in ids], pa.string()),
            "magnitude": pa.array(np.arange(n), pa.float32()),
        }
    )


@pytest.mark.fault(21, "positions out of range, missing and not finite")
def test_a_small_catalogue_is_planned_as_by_hand() -> None:
    # Base pixels (Górski et al. 2005): id 3 lies in pixel 0, id 1 in pixel 4, id 2 in pixel 8.
    planned = plan_objects(catalogue([1, 2, 3, 4], [0, 45, 45, 0], [0, -80, 80, 91]), keep_first_duplicate=False)
    assert planned.objects["object_id"].to_pylist() == [3, 1, 2]
    assert [pixel >> 58 for pixel in planned.objects["_healpix_29"].to_pylist()] == [0, 4, 8]
    assert planned.objects.column_names == ["_healpix_29", "object_id", "ra_deg", "dec_deg", "cutout", "magnitude"]
    assert planned.rejects.to_pylist() == [
        {
            "object_id": 4,
            "ra_deg": 0.0,
            "dec_deg": 91.0,
            "cutout": "/cutouts/4.jpg",
            "reason": "bad_coord",
            "detail": "expected RA in [0, 360) and Dec in [-90, 90] degrees",
        }
    ]


@quick
@given(rows)
def test_planned_rows_are_objects_plus_rejects(values: list[tuple]) -> None:
    ids, ra, dec = map(list, zip(*values, strict=True))
    planned = plan_objects(catalogue(ids, ra, dec), keep_first_duplicate=True)
    kept, rejected = planned.objects["object_id"].to_pylist(), planned.rejects["object_id"].to_pylist()
    assert id_digest([*kept, *rejected]) == id_digest(ids)
    assert len(set(kept)) == len(kept)
    assert sky.is_position(planned.objects["ra_deg"].to_numpy(), planned.objects["dec_deg"].to_numpy()).all()
    assert planned.rejects["reason"].to_pylist().count("duplicate_id") == len(ids) - len(set(ids))
    healpix = planned.objects["_healpix_29"].to_numpy()
    assert (np.diff(healpix) >= 0).all()


@quick
@given(st.permutations(range(12)))
def test_the_order_of_the_catalogue_does_not_matter(order: list[int]) -> None:
    # Six of the twelve share one position: there, ids decide.
    table = catalogue(list(range(12)), ra=[10.0] * 6 + list(range(6)), dec=[5.0] * 12)
    shuffled = plan_objects(table.take(order), keep_first_duplicate=False)
    assert table_digest(shuffled.objects) == table_digest(plan_objects(table, keep_first_duplicate=False).objects)


@pytest.mark.fault(20, "ids that repeat")
@pytest.mark.parametrize("ids", [[5, 6, 5, 7, 7, 7], ["a", "b", "a", "c", "c", "c"]])
def test_duplicates_stop_the_plan_with_their_ids_and_the_way_out(ids: list) -> None:
    with pytest.raises(
        DataError, match=rf"found 2 that occur more than once: {ids[0]}, {ids[3]};.*on_duplicate: first"
    ):
        plan_objects(catalogue(ids), keep_first_duplicate=False)


def test_a_long_list_of_duplicates_is_cut() -> None:
    with pytest.raises(DataError, match=r"found 50 .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 \.\.\.;"):
        plan_objects(catalogue([*range(50), *range(50)]), keep_first_duplicate=False)


def test_of_duplicates_the_first_is_kept_and_the_others_are_rejects() -> None:
    planned = plan_objects(catalogue([5, 6, 5, 5], ra=[1, 2, 3, None]), keep_first_duplicate=True)
    assert sorted(zip(*planned.objects.select(["object_id", "ra_deg"]).to_pydict().values(), strict=True)) == [
        (5, 1.0),
        (6, 2.0),
    ]
    assert planned.rejects["ra_deg"].to_pylist() == [3.0, None]
    assert planned.rejects["reason"].to_pylist() == ["duplicate_id", "duplicate_id"]


@pytest.mark.fault(23, "a catalogue of bad rows")
def test_a_catalogue_without_one_valid_row_plans_no_objects() -> None:
    planned = plan_objects(catalogue([1, 2], ra=[None, 400.0]), keep_first_duplicate=False)
    assert len(planned.objects) == 0
    assert planned.rejects["reason"].to_pylist() == ["bad_coord", "bad_coord"]


def test_repeats_are_found_across_chunks() -> None:
    column = pa.chunked_array([["a", "b"], [], ["b", "c", "a"]], pa.string())
    assert repeats(column).tolist() == [False, False, True, False, True]
    assert repeats(pa.chunked_array([], pa.int64())).tolist() == []


def test_units_of_three_rows_cut_seven_into_three_three_and_one() -> None:
    found = units([sky.Slice(2, 5, 0, 7), sky.Slice(1, 9, 7, 9)], rows_per_unit=3)
    assert found == [
        Unit("2-5-0", 2, 5, 0, 3),
        Unit("2-5-1", 2, 5, 1, 3),
        Unit("2-5-2", 2, 5, 2, 1),
        Unit("1-9-0", 1, 9, 0, 2),
    ]


@quick
@given(st.lists(st.integers(1, 50), max_size=10), st.integers(1, 20))
def test_units_cover_all_rows_and_have_names_of_their_own(sizes: list[int], rows_per_unit: int) -> None:
    ends = np.cumsum([0, *sizes])
    slices = [sky.Slice(3, number, int(ends[number]), int(ends[number + 1])) for number in range(len(sizes))]
    found = units(slices, rows_per_unit)
    assert sum(unit.n_rows for unit in found) == sum(sizes)
    assert all(0 < unit.n_rows <= rows_per_unit for unit in found)
    assert len({unit.name for unit in found}) == len(found)


def test_a_unit_is_the_row_group_that_parquet_writes() -> None:
    import io

    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"x": range(23)}), sink, row_group_size=5)
    written = pq.ParquetFile(sink).metadata
    found = units([sky.Slice(0, 0, 0, 23)], rows_per_unit=5)
    assert [unit.n_rows for unit in found] == [written.row_group(group).num_rows for group in range(len(found))]
    assert len(found) == written.num_row_groups


@pytest.mark.parametrize(
    ("n", "expected"), [(0, 32), (1, 32), (2048, 32), (4096, 64), (4097, 96), (32768, 512), (10**9, 512)]
)
def test_the_default_unit_is_a_64th_within_bounds(n: int, expected: int) -> None:
    assert default_rows_per_unit(n) == expected


@pytest.mark.parametrize("id_type", [pa.int64(), pa.string()])
def test_rejects_of_a_catalogue_of_images_have_no_uri(id_type: pa.DataType) -> None:
    objects = catalogue([1, 2]).drop_columns("cutout")
    objects = objects.set_column(0, "object_id", objects["object_id"].cast(id_type))
    table = rejects_table(objects, [Reject(RejectReason.SHAPE, "tiny")] * 2)
    assert table.schema == rejects_schema(id_type)
    assert table["cutout"].null_count == 2


def test_no_rejects_are_an_empty_table_of_the_same_schema() -> None:
    assert rejects_table(catalogue([]).slice(0, 0).cast(catalogue([1]).schema), []).schema == rejects_schema(pa.int64())
