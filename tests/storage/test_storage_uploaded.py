"""A table that somebody sent is read, or refused in words; it takes no more memory and time than it may."""

import gzip
import io
import re
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from engine.storage import uploaded
from engine.storage.parquet import as_vectors
from engine.storage.queries import Queries
from engine.storage.store import Store
from engine.storage.uploaded import asked_queries, check_votable, format_of, read_uploaded
from schemas.config import QueryFileConfig
from schemas.errors import ConfigError, DataError

POSITIONS = {"ra": [10.0, 400.0, np.nan, 0.0], "dec": [-10.0, 0.0, 1.0, 90.0]}
ENTITIES = "".join(f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(9))
LAUGHS = f'<?xml version="1.0"?><!DOCTYPE V [<!ENTITY a0 "ha">{ENTITIES}]><VOTABLE>&a9;</VOTABLE>'
STREAM = (
    '<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><RESOURCE><TABLE>'
    '<FIELD name="ra" datatype="double"/><FIELD name="dec" datatype="double"/><DATA><BINARY>'
    '<STREAM href="{}"/></BINARY></DATA></TABLE></RESOURCE></VOTABLE>'
)


def read(folder: Path, data: bytes, most: int = 1000, dimension: int = 4, **config: Any) -> Queries:
    store = Store(str(folder))
    store.write("table", data)
    found = read_uploaded(store, "table", "asked", QueryFileConfig(path="", **config), most, dimension)
    queries = asked_queries(store, "asked")
    assert (found.by, found.n) == (queries.by, queries.n)
    return queries


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def astropy(kind: str, **columns: Any) -> bytes:
    sink = io.BytesIO()
    Table(columns).write(sink, format=kind)
    return sink.getvalue()


def fits_header(*cards: str) -> bytes:
    text = "".join(f"{card:<80}" for card in (*cards, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880).encode()


def test_a_format_is_told_by_its_first_bytes() -> None:
    assert format_of(parquet(object_id=[1])) == "parquet"
    assert format_of(astropy("fits", object_id=[1])) == "fits"
    assert format_of(astropy("votable", object_id=[1])) == "votable"
    assert format_of(b"\xef\xbb\xbf<?xml") == "votable"
    assert format_of(b"object_id\n1\n") == format_of(b"") == "csv"


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz", "fits", "votable"])
def test_positions_are_the_same_in_every_format_and_bad_rows_keep_their_reason(kind: str, tmp_path: Path) -> None:
    text = "ra,dec\n" + "\n".join(f"{ra},{dec}" for ra, dec in zip(*POSITIONS.values(), strict=True))
    data = {
        "parquet": lambda: parquet(**POSITIONS),
        "csv": lambda: text.encode(),
        "csv.gz": lambda: gzip.compress(text.encode()),
        "fits": lambda: astropy("fits", **POSITIONS),
        "votable": lambda: astropy("votable", **POSITIONS),
    }[kind]()
    queries = read(tmp_path, data)
    np.testing.assert_array_equal(queries.ra_deg, POSITIONS["ra"])
    np.testing.assert_array_equal(queries.dec_deg, POSITIONS["dec"])
    assert queries.bad == {1: "no valid position", 2: "no valid position"}


def test_ids_and_vectors_come_through_as_they_are(tmp_path: Path) -> None:
    ids = read(tmp_path, parquet(object_id=pa.array([2**62 + 1, None, 3])))
    assert (ids.ids.to_pylist(), ids.bad) == ([2**62 + 1, None, 3], {1: "no id"})  # type: ignore[union-attr]
    named = read(tmp_path, b"name,x\n007,1\nb,2\n", id_column="name")
    assert named.ids.to_pylist() == ["007", "b"]  # type: ignore[union-attr]
    vectors = np.array([[1, 2, 3, 4], [np.inf, 0, 0, 0]], np.float32)
    found = read(tmp_path, parquet(components=as_vectors(vectors)))
    np.testing.assert_array_equal(found.vectors, vectors)
    assert found.bad == {1: "no finite vector"}


def bomb() -> bytes:
    """One text of a megabyte, said 8,000 times in some bytes."""
    sink = io.BytesIO()
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(8000, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"object_id": text}), sink, dictionary_pagesize_limit=1 << 26, store_schema=False)
    assert sink.tell() < 3 * 2**20
    return sink.getvalue()


def many_rows() -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, pa.schema({"object_id": pa.int64()})) as writer:
        for _ in range(20):
            writer.write_table(pa.table({"object_id": np.zeros(10_000_000, np.int64)}), 10_000_000)
    return sink.getvalue()


def gzip_bomb() -> bytes:
    """4 GB in some megabytes."""
    return gzip.compress(b"object_id\n") + 64 * gzip.compress(b"1" * (64 << 20), 1)


def fits(*cards: str) -> bytes:
    primary = fits_header(
        "SIMPLE  =                    T", "BITPIX  =                    8", "NAXIS   =                    0"
    )
    return primary + fits_header(*cards)


ABSURD = (
    "XTENSION= 'BINTABLE'",
    "BITPIX  =                    8",
    "NAXIS   =                    2",
    "NAXIS1  =                   16",
    "NAXIS2  =  4611686018427387904",
    "PCOUNT  =                    0",
    "GCOUNT  =                    1",
    "TFIELDS =                    2",
    "TTYPE1  = 'ra      '",
    "TFORM1  = 'D       '",
    "TTYPE2  = 'dec     '",
    "TFORM2  = 'D       '",
)
HOSTILE = {
    "nothing": (lambda: b"", "csv|empty"),
    "only names": (lambda: b"object_id\n", "at least one query"),
    "no queries": (lambda: b"a,b\n1,2\n", "expected queries of one kind"),
    "json": (lambda: b'{"object_id": [1]}', "expected queries of one kind|csv"),
    "random bytes": (lambda: np.random.default_rng(1).bytes(5000), "the table"),
    "ids that are no ids": (lambda: parquet(object_id=[1.5, 2.5]), "ids as integers or text"),
    "ids of a megabyte": (lambda: parquet(object_id=["x" * 2**20]), "256 characters"),
    "positions in words": (lambda: b"ra,dec\nten,eleven\n", "degrees as numbers"),
    "vectors of another length": (lambda: parquet(components=[[1.0, 2.0]]), "4 components, found 2"),
    "vectors of words": (lambda: parquet(components=[["a"]]), "vectors of numbers"),
    "too many": (lambda: parquet(object_id=np.arange(1001)), "at most 1,000 queries, found 1,001"),
    "columns twice": (lambda: b"object_id,object_id\n1,2\n", "the table"),
    "half a Parquet": (lambda: parquet(object_id=np.arange(900))[:-300], "not readable as parquet"),
    "a Parquet of holes": (lambda: b"PAR1" + bytes(5000) + b"\xff\xff\xff\x7fPAR1", "not readable as parquet"),
    "half a FITS": (lambda: astropy("fits", ra=np.ones(900), dec=np.ones(900))[:9000], "the table"),
    "a FITS without end": (lambda: fits(*ABSURD), "the table"),
    "a FITS of the wrong size": (lambda: fits(*ABSURD[:3], "NAXIS1  = -5", *ABSURD[4:]), "the table"),
    "half a VOTable": (lambda: astropy("votable", ra=[1.0], dec=[1.0])[:-60], "not readable as votable"),
    "another XML": (lambda: b"<html><body/></html>", "not readable as votable"),
    "a billion laughs": (lambda: LAUGHS.encode(), "without declarations of entities"),
    "a file of the service": (lambda: STREAM.format("file:///etc/passwd").encode(), "STREAM with an href"),
    "another server": (lambda: STREAM.format("http://127.0.0.1:1/").encode(), "STREAM with an href"),
}
BOMBS = {
    "a Parquet that expands": (bomb, "takes more or breaks"),
    "a gzip that expands": (gzip_bomb, "takes more or breaks"),
    "a Parquet of 200 million rows": (many_rows, "at most 10,000 queries, found 200,000,000"),
    "a VOTable that expands": (lambda: LAUGHS.encode(), "without declarations of entities"),
    "a FITS without end": (lambda: fits(*ABSURD), "the table"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_table_that_is_of_no_use_is_refused_in_words_without_places(name: str, tmp_path: Path) -> None:
    make, words = HOSTILE[name]
    store = Store(str(tmp_path))
    store.write("table", make())
    settings = uploaded._settings(store, "table", "asked", QueryFileConfig(path=""), 1000, 4)
    said = uploaded._said(settings, lambda: None)
    assert said["error"] in ("DataError", "ConfigError")
    assert re.search(words, said["message"])
    assert str(tmp_path) not in said["message"]
    assert len(said["message"]) <= 1000
    assert not store.exists("asked")


@pytest.mark.parametrize("name", BOMBS)
def test_a_table_that_expands_costs_its_reader_alone(name: str, tmp_path: Path) -> None:
    make, words = BOMBS[name]
    data = make()
    before_s, before_bytes = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((DataError, ConfigError), match=words):
        read(tmp_path, data, most=10_000)
    assert time.monotonic() - before_s < 120
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_bytes < 200 * 1024


def test_a_table_that_takes_too_long_or_kills_its_reader_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploaded, "PATIENCE_S", 0.01)
    with pytest.raises(DataError, match=r"read in 0\.01 s"):
        read(tmp_path, parquet(object_id=[1]))
    monkeypatch.setattr(uploaded, "PATIENCE_S", 60.0)
    monkeypatch.setattr(uploaded.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="breaks its reader"):
        read(tmp_path, parquet(object_id=[1]))


def test_a_votable_may_link_to_what_nobody_opens() -> None:
    check_votable(b'<VOTABLE><RESOURCE><LINK href="http://example.org"/></RESOURCE></VOTABLE>')
    check_votable(b'<!DOCTYPE VOTABLE SYSTEM "http://us-vo.org/xml/VOTable.dtd"><VOTABLE/>')
    with pytest.raises(DataError, match="href"):
        check_votable(b'<v:VOTABLE xmlns:v="v" xmlns:x="x"><v:STREAM x:href="file:a"/></v:VOTABLE>')
