"""Answers out: what an astronomer opens with her own tools holds what was found."""

from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from engine.storage.answers import check_answer_path, write_answer
from engine.storage.store import Store
from schemas.errors import ConfigError, StoreError
from schemas.tables import neighbours_schema

INTEGERS = (pa.int64(), [1237645879551066262, -5, 2**63 - 1])
STRINGS = (pa.string(), ["J0012+34", "007", "été"])


def answer(id_type: pa.DataType, ids: list, cutouts: list | None = None) -> pa.Table:
    n = len(ids)
    columns = {
        "query": range(n),
        "query_id": ids,
        "match_arcsec": [None] * n,
        "rank": range(1, n + 1),
        "object_id": ids,
        "ra_deg": np.linspace(0, 359.9999999, n),
        "dec_deg": np.linspace(-90, 90, n),
        "distance": np.linspace(0, 1, n) / 3,
        "separation_arcsec": np.linspace(0, 1e5, n) / 7,
        "cutout": cutouts or [f"s3://bucket/{value}.jpg" for value in ids],
        "exactness": ["exact"] * n,
        "unseen_distance": np.linspace(1, 2, n),
        "status": ["ok"] * n,
    }
    schema = neighbours_schema(id_type)
    return pa.table([pa.array(columns[field.name], field.type) for field in schema], schema=schema)


@pytest.mark.parametrize(("id_type", "ids"), [INTEGERS, STRINGS])
def test_parquet_holds_the_same_table(store: Store, id_type: pa.DataType, ids: list) -> None:
    write_answer(store.uri("out/answer.parquet"), answer(id_type, ids))
    with store.open("out/answer.parquet") as file:
        assert pq.read_table(file).equals(answer(id_type, ids))


@pytest.mark.parametrize(("id_type", "ids"), [INTEGERS, STRINGS])
def test_csv_holds_every_id_and_digit(local_store: Store, id_type: pa.DataType, ids: list) -> None:
    write_answer(local_store.uri("answer.csv"), answer(id_type, ids))
    types = dict(zip(neighbours_schema(id_type).names, neighbours_schema(id_type).types, strict=True))
    found = pacsv.read_csv(
        local_store.full_path("answer.csv"), convert_options=pacsv.ConvertOptions(column_types=types)
    )
    assert found.cast(neighbours_schema(id_type)).equals(answer(id_type, ids))


@pytest.mark.parametrize("suffix", ["vot", "xml"])
@pytest.mark.parametrize(("id_type", "ids"), [INTEGERS, STRINGS])
def test_votable_holds_every_value_and_the_units(store: Store, suffix: str, id_type: pa.DataType, ids: list) -> None:
    expected = answer(id_type, ids)
    write_answer(store.uri(f"answer.{suffix}"), expected)
    with store.open(f"answer.{suffix}") as file:
        found = Table.read(file, format="votable")
    assert found.colnames == expected.column_names
    for name in found.colnames:
        assert found[name].tolist() == expected[name].to_pylist()
    assert [str(found[name].unit) for name in ("ra_deg", "dec_deg", "separation_arcsec")] == ["deg", "deg", "arcsec"]


@pytest.mark.parametrize("cutouts", [[None, None, None], ["a.jpg", None, "c.jpg"]])
def test_a_votable_of_objects_without_a_uri_does_not_invent_one(local_store: Store, cutouts: list) -> None:
    # Catalogues with an image column have no URIs.
    write_answer(local_store.uri("answer.vot"), answer(*INTEGERS, cutouts=cutouts))
    found = Table.read(local_store.full_path("answer.vot"), format="votable")["cutout"]
    assert [None if value is np.ma.masked else str(value) or None for value in found] == cutouts


def test_an_answer_for_the_root_of_the_disk_does_not_land_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Containers write there; anyone else is refused.
    monkeypatch.chdir(tmp_path)
    path = Path(f"/voorwerp-{uuid4().hex}.csv")
    with suppress(StoreError):
        write_answer(str(path), answer(*INTEGERS))
    path.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", ["parquet", "csv", "vot"])
def test_an_answer_without_rows_has_its_columns(local_store: Store, suffix: str) -> None:
    path = local_store.uri(f"answer.{suffix}")
    write_answer(path, answer(pa.int64(), []))
    readers = {
        "parquet": lambda: pq.read_table(path).column_names,
        "csv": lambda: pd.read_csv(path).columns.tolist(),
        "vot": lambda: Table.read(path, format="votable").colnames,
    }
    assert readers[suffix]() == neighbours_schema(pa.int64()).names


@pytest.mark.parametrize("name", ["answer", "answer.csv.gz", "", "s3://bucket/answer.json"])
def test_a_name_of_another_kind_is_refused_with_those_that_work(name: str) -> None:
    for use in (check_answer_path, lambda uri: write_answer(uri, answer(*INTEGERS))):
        with pytest.raises(ConfigError, match=r"output: expected a name ending in \.parquet, .*\.xml, \.hats, found"):
            use(name)
