"""CSV and Parquet hold what JSON holds, exactly; and every answer says what it is of."""

import csv
import io
from collections.abc import Callable

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from fastapi import FastAPI, Request
from starlette.testclient import TestClient

from engine.service.tables import CSV, PARQUET, wanted, written
from tests.service.conftest import Served, bearer

COLUMNS = ("rank", "object_id", "ra_deg", "dec_deg", "distance", "separation_arcsec")


def read(content: bytes, kind: str) -> pa.Table:
    if kind == "parquet":
        return pq.read_table(io.BytesIO(content), page_checksum_verification=True)
    options = pacsv.ConvertOptions(column_types={"object_id": "int64"})
    return pacsv.read_csv(io.BytesIO(content), convert_options=options)


@pytest.mark.parametrize(("kind", "accept"), [("csv", CSV), ("parquet", PARQUET)])
def test_neighbours_are_those_of_json_in_every_format(
    reader: TestClient, served: Served, kind: str, accept: str
) -> None:
    asked = {"id": served.id(10), "k": 6}
    rows = reader.get("/v1/neighbours", params=asked).json()["answers"][0]["neighbours"]
    by_format = reader.get("/v1/neighbours", params={**asked, "format": kind})
    by_accept = reader.get("/v1/neighbours", params=asked, headers={"Accept": accept})
    assert by_format.content == by_accept.content
    assert by_format.headers["content-type"].split(";")[0] == accept
    name = f'attachment; filename="neighbours-{served.release.id}.{kind}"'
    assert by_format.headers["content-disposition"] == name
    table = read(by_format.content, kind)
    assert [str(value) for value in table["object_id"].to_pylist()] == [row["object_id"] for row in rows]
    for column in ("rank", "ra_deg", "dec_deg", "separation_arcsec"):
        assert table[column].to_pylist() == [row[column] for row in rows]
    assert table["distance"].cast(pa.float32()).to_pylist() == [row["distance"] for row in rows]
    assert "cutout" not in table.column_names
    said = {"release": served.release.id, "index": served.release.index.id, "exactness": "exact"}
    said |= {"shards_asked": "3", "n_shards": "3", "complete": "true"}
    assert {key: by_format.headers[f"voorwerp-{key.replace('_', '-')}"] for key in said} == said
    if kind == "parquet":
        assert {key.decode(): value.decode() for key, value in table.schema.metadata.items()} == said


def test_many_queries_and_cones_are_tables_too(
    reader: TestClient, make_app: Callable[..., FastAPI], served: Served, token_of: Callable[..., str]
) -> None:
    asked = {"ids": ["7", served.id(3)], "k": 2}
    table = read(reader.post("/v1/neighbours?format=csv", json=asked).content, "csv")
    assert table["query"].to_pylist() == [0, 1, 1]
    assert table["status"].to_pylist() == ["unknown id", "ok", "ok"]
    assert table["object_id"].is_valid().to_pylist() == [False, True, True]
    client = TestClient(make_app(most_objects=3), headers=bearer(token_of("read")))
    cut = client.get("/v1/cone", params={"ra": 0, "dec": 10, "radius_arcsec": 60, "format": "parquet"})
    assert (cut.headers["voorwerp-complete"], cut.headers["voorwerp-n-found"]) == ("false", "4")
    assert len(read(cut.content, "parquet")) == 3


def test_text_and_numbers_in_a_csv_are_what_they_are_also_where_a_spreadsheet_would_see_a_formula() -> None:
    texts = ["=1+1", "@SUM(A1)", "+1", "-1", '"quoted", and\nbroken', "", None, "0012", "naïve 星"]
    numbers = [2**63 - 1, -(2**63), 9007199254740993, None, 0, 1, 2, 3, 4]
    floats = [0.1, 1e-300, 5e-324, None, -0.0, 1 / 3, 1e22, 123456789.123456789, 2.0]
    table = pa.table({"object_id": texts, "n": pa.array(numbers, pa.int64()), "x": floats})
    answer = written(table, "csv", "odd", {})
    *_, last = rows = list(csv.DictReader(io.StringIO(bytes(answer.body).decode("utf-8"), newline="")))
    assert [row["object_id"] for row in rows] == [text or "" for text in texts]
    assert [row["n"] for row in rows] == ["" if number is None else str(number) for number in numbers]
    assert [float(row["x"]) if row["x"] else None for row in rows] == floats
    assert last["object_id"] == "naïve 星"
    as_text = pacsv.ConvertOptions(
        strings_can_be_null=True, quoted_strings_can_be_null=False, column_types={"object_id": "string"}
    )
    lines = pacsv.ParseOptions(newlines_in_values=True)
    again = pacsv.read_csv(pa.py_buffer(bytes(answer.body)), parse_options=lines, convert_options=as_text)
    assert again.equals(table)


@pytest.mark.parametrize(
    ("accept", "asked", "found"),
    [
        ("text/csv", None, "csv"),
        ("text/csv;q=0.5, application/vnd.apache.parquet", None, "parquet"),
        ("application/vnd.apache.parquet;q=0.1, application/json;q=0.2", None, "json"),
        ("text/csv, */*", None, "json"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", None, "json"),
        ("application/json", "parquet", "parquet"),
        ("", None, "json"),
    ],
)
def test_accept_chooses_among_all_formats(accept: str, asked, found: str) -> None:  # type: ignore[no-untyped-def]
    assert wanted(Request({"type": "http", "headers": [(b"accept", accept.encode())]}), asked) == found
