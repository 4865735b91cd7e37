"""Files of queries in four formats, and what cannot be asked."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table

from engine.storage.queries import NO_ID, NO_POSITION, NO_VECTOR, Queries, read_queries
from schemas.config import QueryFileConfig
from schemas.errors import ConfigError, DataError, InputNotFoundError


def written(folder: Path, columns: dict, suffix: str = ".parquet") -> str:
    path = folder / f"queries{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif suffix.startswith(".csv"):
        pacsv.write_csv(pa.table(columns), folder / "plain.csv")
        data = (folder / "plain.csv").read_bytes()
        path.write_bytes(gzip.compress(data) if suffix.endswith(".gz") else data)
    else:
        Table(columns).write(path, format="fits" if suffix == ".fits" else "votable")
    return str(path)


def read(path: str, **settings: str) -> Queries:
    return read_queries(QueryFileConfig(path=path, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".csv.gz", ".fits", ".vot"])
def test_ids_positions_and_vectors_come_from_every_format(tmp_path: Path, suffix: str) -> None:
    ids = read(written(tmp_path, {"object_id": [587724198820577450, 3], "ra": [1.0, 2.0], "dec": [3.0, 4.0]}, suffix))
    assert (ids.by, ids.ids.to_pylist()) == ("id", [587724198820577450, 3])
    positions = read(written(tmp_path / "..", {"ra": [1.0, 2.0], "dec": [3.0, -4.0], "more": [1, 2]}, suffix))
    assert positions.by == "position"
    assert positions.ra_deg.tolist() == [1.0, 2.0]
    assert positions.dec_deg.tolist() == [3.0, -4.0]
    if not suffix.startswith(".csv"):
        matrix = np.arange(6, dtype=np.float32).reshape(2, 3)
        column = list(matrix) if suffix == ".parquet" else matrix
        vectors = read(
            written(tmp_path, {"v": column}, suffix) if suffix == ".parquet" else _table(tmp_path, suffix, matrix),
            vector_column="v",
        )
        assert vectors.by == "vector"
        assert vectors.dimension == 3
        np.testing.assert_array_equal(vectors.vectors, matrix)


def _table(folder: Path, suffix: str, matrix: np.ndarray) -> str:
    path = folder / f"vectors{suffix}"
    Table({"v": matrix}).write(path, format="fits" if suffix == ".fits" else "votable")
    return str(path)


def test_text_ids_stay_text_where_a_number_would_lose_something(tmp_path: Path) -> None:
    assert read(written(tmp_path, {"object_id": ["007", "8"]}, ".csv")).ids.to_pylist() == ["007", "8"]
    assert read(written(tmp_path, {"object_id": ["7", "8"]}, ".csv")).ids.to_pylist() == [7, 8]


def test_rows_that_cannot_be_asked_keep_their_place_with_the_reason(tmp_path: Path) -> None:
    ids = read(written(tmp_path, {"object_id": ["a", None, "", "d"]}))
    assert ids.bad == {1: NO_ID, 2: NO_ID}
    positions = read(written(tmp_path, {"ra_deg": [1.0, None, 360.0, 4.0], "dec_deg": [0.0, 0.0, 0.0, 91.0]}))
    assert positions.bad == {1: NO_POSITION, 2: NO_POSITION, 3: NO_POSITION}
    vectors = read(written(tmp_path, {"components": [[1.0, 2.0], None, [np.nan, 0.0], [np.inf, 1.0], [0.0, 0.0]]}))
    assert vectors.bad == {1: NO_VECTOR, 2: NO_VECTOR, 3: NO_VECTOR}
    assert vectors.n == 5


def test_named_columns_win_over_those_that_are_found(tmp_path: Path) -> None:
    path = written(tmp_path, {"object_id": [1], "ra": [5.0], "dec": [6.0], "other": [9]})
    assert read(path, ra_column="ra", dec_column="dec").by == "position"
    assert read(path, id_column="other").ids.to_pylist() == [9]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected queries of one kind .*, found none"),
        ({"id_column": "a", "vector_column": "b"}, "found id, vector"),
        ({"id_column": "nowhere"}, "expected a column 'nowhere', found none"),
    ],
)
def test_what_cannot_be_told_is_asked_back(tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(written(tmp_path, {"a": [1], "b": [2]}), **settings)


def test_one_half_of_a_position_is_refused() -> None:
    with pytest.raises(ValueError, match="ra_column and dec_column: expected both or neither"):
        QueryFileConfig(path="x", ra_column="ra")


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"object_id": pa.array([], pa.int64())}, {}, "expected at least one query, found an empty file"),
        ({"object_id": [1.5]}, {}, "expected ids as integers or text, found double"),
        ({"ra": ["1h"], "dec": ["2d"]}, {}, "column 'ra': expected degrees as numbers, found string"),
        ({"components": [[1.0], [1.0, 2.0]]}, {}, r"expected vectors of one length, found \[1, 2\]"),
        ({"components": [[], []]}, {}, "expected vectors of"),
        ({"components": ["x"]}, {}, "expected vectors of numbers, found string"),
    ],
)
def test_columns_of_something_else_are_refused(tmp_path: Path, columns: dict, settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(written(tmp_path, columns), **settings)


def test_damaged_and_absent_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="expected a file of queries, found nothing"):
        read(str(tmp_path / "nothing.csv"))
    for suffix in (".parquet", ".fits", ".vot"):
        (tmp_path / f"bad{suffix}").write_bytes(b"no table at all")
        with pytest.raises(DataError, match="not readable as"):
            read(str(tmp_path / f"bad{suffix}"))
    (tmp_path / "bad.what").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot tell the format from the name"):
        read(str(tmp_path / "bad.what"))
