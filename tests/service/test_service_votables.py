"""VOTables, as astropy and pyvo read them; Simple Cone Search over a real server."""

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import pyvo
import requests
import uvicorn
from astropy.io.votable import parse
from astropy.io.votable.tree import VOTableFile
from astropy.table import Table
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.compute.sky import separation_arcsec
from engine.service.answers import plain
from engine.service.tables import wanted
from engine.service.votables import votable
from schemas.service import ServeConfig
from tests.service.conftest import HOSTILE_TEXT, Served, bearer

VOTABLE = "application/x-votable+xml"


def read(content: bytes, verify: str = "exception") -> tuple[VOTableFile, Table]:
    document = parse(io.BytesIO(content), verify=verify)
    return document, document.get_first_table().to_table()


def test_neighbours_as_a_votable_are_those_of_json_with_units(reader: TestClient, served: Served) -> None:
    asked = {"id": served.id(10), "k": 6}
    rows = reader.get("/v1/neighbours", params=asked).json()["answers"][0]["neighbours"]
    by_format = reader.get("/v1/neighbours", params={**asked, "format": "votable"})
    by_accept = reader.get("/v1/neighbours", params=asked, headers={"Accept": VOTABLE})
    assert by_format.content == by_accept.content
    assert by_accept.headers["content-type"] == VOTABLE
    document, table = read(by_accept.content)
    assert [str(one) for one in table["object_id"]] == [row["object_id"] for row in rows]
    for name in ("rank", "ra_deg", "dec_deg", "distance", "separation_arcsec"):
        assert table[name].tolist() == [row[name] for row in rows]
    assert (str(table["ra_deg"].unit), str(table["separation_arcsec"].unit)) == ("deg", "arcsec")
    assert set(table["exactness"]) == {"exact"}
    assert "cutout" not in table.colnames
    infos = {info.name: info.value for info in document.resources[0].infos}
    about = {"release": served.release.id, "index": served.release.index.id, "QUERY_STATUS": "OK"}
    assert {name: infos[name] for name in about} == about


def test_queries_without_an_answer_keep_their_rows_in_a_votable(reader: TestClient, served: Served) -> None:
    asked = {"ids": ["7", served.id(3)], "k": 2}
    _, table = read(reader.post("/v1/neighbours?format=votable", json=asked).content)
    assert table["query"].tolist() == [0, 1, 1]
    assert list(table["status"]) == ["unknown id", "ok", "ok"]
    assert table["object_id"].mask.tolist() == [True, False, False]
    assert np.isnan(table["distance"].filled(np.nan)[0])


def test_a_cone_as_a_votable_says_when_there_is_more(make_app: Callable[..., FastAPI], token_of) -> None:  # type: ignore[no-untyped-def]
    client = TestClient(make_app(most_objects=3), headers=bearer(token_of("read")))
    for radius, n, status in ((60, 3, "OVERFLOW"), (1.5, 3, "OK"), (0.0001, 0, "OK")):
        asked = {"ra": 0.0001, "dec": 10, "radius_arcsec": radius, "format": "votable"}
        document, table = read(client.get("/v1/cone", params=asked).content)
        assert (len(table), document.resources[0].infos[0].value) == (n or len(table), status)


@pytest.mark.parametrize(
    ("accept", "asked", "found"),
    [
        ("*/*", None, "json"),
        ("application/x-votable+xml", None, "votable"),
        ("text/html, application/xml;q=0.9, */*;q=0.8", None, "json"),
        ("application/json, application/x-votable+xml;q=0.5", None, "json"),
        ("application/x-votable+xml;q=0", None, "json"),
        ("application/x-votable+xml;q=nonsense, ;;,,", None, "json"),
        ("application/x-votable+xml;q=nan", None, "json"),
        ("application/x-votable+xml", "json", "json"),
        ("application/json", "votable", "votable"),
    ],
)
def test_the_format_is_what_is_asked_for_or_what_accept_prefers(accept: str, asked, found: str) -> None:  # type: ignore[no-untyped-def]
    from fastapi import Request

    assert wanted(Request({"type": "http", "headers": [(b"accept", accept.encode())]}), asked) == found


@pytest.fixture(scope="module")
def address(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that everyone may read."""
    from jobs.serve import listening, serving

    database = str(Path(tmp_path_factory.mktemp("server")) / "campaigns.sqlite")
    config = ServeConfig(release=str(served.output), port=0, database=database, anonymous_read=True)
    with listening(config) as taken, serving(config) as app:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def test_pyvo_finds_what_is_in_a_cone(address: str, served: Served) -> None:
    service = pyvo.dal.SCSService(f"{address}/v1/scs")
    for ra_deg, dec_deg, radius_deg in [(0.0, 10.0, 0.01), (359.9999, 10.0, 1e-4), (40.0, -30.0, 3.0)]:
        found = service.search((ra_deg, dec_deg), radius_deg, verbosity=2)
        apart = separation_arcsec(ra_deg, dec_deg, served.ra_deg, served.dec_deg)
        order = np.argsort(apart)[: int((apart <= radius_deg * 3600).sum())]
        assert [row.id for row in found] == [served.id(row) for row in order]
        assert [row.pos.ra.deg for row in found] == served.ra_deg[order].tolist()
        assert [row.pos.dec.deg for row in found] == served.dec_deg[order].tolist()


def test_a_cone_search_is_as_verbose_as_is_asked(address: str, served: Served) -> None:
    columns = {}
    for verbosity in (None, 1, 2, 3):
        asked = {"ra": served.ra_deg[9], "dec": served.dec_deg[9], "sr": 0.001, "verb": verbosity, "unknown": "x"}
        answer = requests.get(f"{address}/v1/scs", params=asked, timeout=10)
        assert answer.headers["content-type"] == "text/xml;content=x-votable"
        document, table = read(answer.content, "ignore")  # Its standard asks for UCDs that newer ones do not know.
        columns[verbosity] = table.colnames
        fields = {field.ucd: field for field in document.get_first_table().fields if field.ucd}
        assert {"ID_MAIN", "POS_EQ_RA_MAIN", "POS_EQ_DEC_MAIN"} <= set(fields)
        assert fields["ID_MAIN"].datatype == "char"
        assert (fields["POS_EQ_RA_MAIN"].datatype, str(fields["POS_EQ_RA_MAIN"].unit)) == ("double", "deg")
    assert columns[1] == ["object_id", "ra_deg", "dec_deg"]
    assert columns[2] == columns[None] == [*columns[1], "separation_arcsec"]
    assert set(columns[3]) == {*columns[2], "mag_r", "note", "seen"}
    assert table["note"][0] == HOSTILE_TEXT.replace("\x0b", "?")


def test_a_radius_of_nothing_asks_for_the_columns_alone(address: str, served: Served) -> None:
    asked = {"RA": served.ra_deg[0], "DEC": served.dec_deg[0], "SR": 0}
    _, table = read(requests.get(f"{address}/v1/scs", params=asked, timeout=10).content, "ignore")
    assert (len(table), table.colnames) == (0, ["object_id", "ra_deg", "dec_deg", "separation_arcsec"])


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"RA": 1, "DEC": 1},
        {"RA": "as3f", "DEC": 1, "SR": 1},
        {"RA": '"/><x>\x0b', "DEC": 1, "SR": 1},
        {"RA": 360, "DEC": 1, "SR": 1},
        {"RA": 1, "DEC": 91, "SR": 1},
        {"RA": 1, "DEC": "nan", "SR": 1},
        {"RA": 1, "DEC": 1, "SR": -1},
        {"RA": 1, "DEC": 1, "SR": "nan"},
        {"RA": 1, "DEC": 1, "SR": 3.1},
        {"RA": 1, "DEC": 1, "SR": 1, "VERB": 4},
        {"RA": 1, "DEC": 1, "SR": 1, "VERB": "x"},
    ],
    ids=str,
)
def test_a_cone_search_that_cannot_be_is_refused_as_its_standard_says(address: str, asked: dict) -> None:
    answer = requests.get(f"{address}/v1/scs", params=asked, timeout=10)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/xml;content=x-votable")
    document = parse(io.BytesIO(answer.content), verify="exception")
    (error,) = [info for info in document.infos if info.name == "Error"]
    assert "expected" in error.value
    assert len(document.resources) == 1


def test_pyvo_raises_what_a_refused_cone_search_says(address: str) -> None:
    with pytest.raises(pyvo.DALQueryError, match="SR: expected a radius from 0 to 3 degrees"):
        pyvo.dal.SCSService(f"{address}/v1/scs").search((1, 1), 10)


def test_columns_of_every_type_are_read_back_with_what_is_missing() -> None:
    columns = {
        "long": pa.array([2**60, None], pa.int64()),
        "byte": pa.array([-3, None], pa.int8()),
        "unsigned": pa.array([2**32 - 1, None], pa.uint32()),
        "longest": pa.array([2**64 - 1, None], pa.uint64()),
        "float": pa.array([0.1, None], pa.float32()),
        "double": pa.array([0.1, None], pa.float64()),
        "half": pa.array(np.array([0.5, 1], np.float16)),
        "truth": pa.array([True, None]),
        "text": pa.array(["a", None]),
        "letters": pa.array(["α & ω", "x"]),
        "longer": pa.array(["x", "y"], pa.large_string()),
        "when": pa.array([0, None], pa.timestamp("us", "UTC")),
        "day": pa.array([1, None], pa.date32()),
        "lasting": pa.array([1, None], pa.duration("s")),
        "list": pa.array([[1], None]),
        "bytes": pa.array([b"x", None]),
        "kind": pa.array(["spiral", None]).dictionary_encode(),
        "nothing": pa.nulls(2, pa.string()),
        "cutout": pa.array(["s3://bucket/key", None]),
    }
    _, table = read(bytes(votable(plain(pa.table(columns)), {}).body))
    assert set(table.colnames) == set(columns) - {"lasting", "list", "bytes", "cutout"}
    first = {name: table[name][0] for name in table.colnames}
    assert (first["long"], first["byte"], first["unsigned"], first["truth"]) == (2**60, -3, 2**32 - 1, 1)
    assert (first["float"], first["double"], first["half"]) == (np.float32(0.1), 0.1, 0.5)
    assert first["longest"] == str(2**64 - 1)
    assert (first["text"], first["letters"], first["kind"], first["nothing"]) == ("a", "α & ω", "spiral", "")
    assert (first["when"][:19], first["day"]) == ("1970-01-01 00:00:00", "1970-01-02")
    for name in ("long", "byte", "unsigned", "truth"):
        assert table[name].mask.tolist() == [False, True]
    assert np.isnan(table["double"].filled(np.nan)[1])
    assert table["text"][1] == ""
