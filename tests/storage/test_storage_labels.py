from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.storage.labels import LABEL, read_labels
from engine.storage.table_file import as_ids
from schemas.errors import DataError, InputNotFoundError
from schemas.tables import OBJECT_ID


def written(folder: Path, columns: dict) -> str:
    pq.write_table(pa.table(columns), folder / "labels.parquet")
    return str(folder / "labels.parquet")


def test_labels_come_from_csv_with_ids_as_text_and_without_those_that_are_missing(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("object_id,ring\n007,1\n8,\n587724198820577450,0\n")
    table = read_labels(str(tmp_path / "l.csv"), "object_id", None)
    assert sorted(table.to_pylist(), key=str) == sorted(
        [{OBJECT_ID: "007", LABEL: 1}, {OBJECT_ID: "587724198820577450", LABEL: 0}], key=str
    )


def test_the_same_label_twice_is_once_and_two_labels_are_refused(tmp_path: Path) -> None:
    assert len(read_labels(written(tmp_path, {"object_id": [1, 1], "kind": ["a", "a"]}), "object_id", None)) == 1
    with pytest.raises(DataError, match="expected one label per object, found 1 with several: 1"):
        read_labels(written(tmp_path, {"object_id": [1, 1], "kind": ["a", "b"]}), "object_id", None)


@pytest.mark.parametrize(
    ("columns", "settings", "message"),
    [
        ({"object_id": [1], "a": [1], "b": [2]}, {}, "expected --label-column, for there are several: a, b"),
        ({"id": [1], "a": [1]}, {"label_column": "a"}, "expected a column 'object_id', found id, a"),
        ({"object_id": [1], "rings": [1]}, {"label_column": "ring"}, "did you mean 'rings'"),
        ({"object_id": pa.array([None], pa.int64()), "a": [1]}, {}, "expected an id in every row, found 1 without"),
        ({"object_id": [1], "a": [float("nan")]}, {}, "expected at least one label, found none"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, columns: dict, settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_labels(written(tmp_path, columns), "object_id", settings.get("label_column"))


def test_a_missing_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        read_labels(str(tmp_path / "nothing.csv"), "object_id", None)
    (tmp_path / "bad.parquet").write_bytes(b"none")
    with pytest.raises(DataError, match="not readable as parquet"):
        read_labels(str(tmp_path / "bad.parquet"), "object_id", None)


def test_ids_become_those_of_the_catalogue_where_they_can() -> None:
    assert as_ids(pa.array(["7", "x", "007"]), pa.int64()).to_pylist() == [7, None, 7]
    limits = ["1237645879551066262", "9223372036854775807", "9223372036854775808", "-9223372036854775808", "1" * 20]
    found = as_ids(pa.array(limits), pa.int64()).to_pylist()
    assert found == [1237645879551066262, 2**63 - 1, None, -(2**63), None]
    assert as_ids(pa.array([7, 8]), pa.string()).to_pylist() == ["7", "8"]
