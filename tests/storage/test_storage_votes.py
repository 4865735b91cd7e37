from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from engine.storage.votes import read_votes
from schemas.errors import DataError, InputNotFoundError
from schemas.tree import Question, Tree

TREE = Tree(questions=(Question(name="odd", answers=("yes", "no")), Question(name="bar", answers=("strong", "no"))))


def written(folder: Path, **changes: object) -> str:
    columns = {
        "object_id": ["a", "b"],
        "odd_yes": [3, 0],
        "odd_no": [1.0, None],
        "bar_strong": [0, 0],
        "bar_no": [0, 9],
    }
    table = {name: column for name, column in {**columns, **changes}.items() if column is not None}
    pq.write_table(pa.table(table), folder / "votes.parquet")
    return str(folder / "votes.parquet")


def test_counts_come_in_the_order_of_the_tree_and_missing_ones_are_none(tmp_path: Path) -> None:
    table = read_votes(written(tmp_path, more=["x", "y"]), TREE)
    assert table.column_names == ["object_id", *TREE.columns]
    assert table["odd_no"].to_pylist() == [1, 0]
    assert table["bar_no"].type == pa.int32()


def test_csv_is_read_alike_and_the_id_column_can_be_called_otherwise(tmp_path: Path) -> None:
    table = pq.read_table(written(tmp_path)).rename_columns(["iauname", *TREE.columns])
    pacsv.write_csv(table, tmp_path / "votes.csv")
    assert read_votes(str(tmp_path / "votes.csv"), TREE, "iauname")["object_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"odd_yes": None}, "expected a column 'odd_yes', found none"),
        ({"odd_yes": None, "odd_yess": [1, 2]}, "did you mean 'odd_yess'"),
        ({"odd_yes": [-1, 0]}, "no count in 'odd_yes' in 1 rows, among them a"),
        ({"odd_yes": [0.5, 0.5]}, "no count in 'odd_yes' in 2 rows, among them a, b"),
        ({"odd_yes": [float("inf"), 0]}, "no count in 'odd_yes' in 1 rows"),
        ({"odd_yes": ["many", "few"]}, "expected counts of votes, found string"),
        ({"object_id": ["a", "a"]}, "expected every id once, found 1 repeated: a"),
        ({"object_id": ["a", None]}, "expected an id in every row, found 1 nulls"),
        ({"odd_total-votes": [3, 5]}, "more votes than odd_total-votes in 1 rows, among them a"),
    ],
)
def test_votes_that_cannot_be_are_refused_with_the_rows(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_votes(written(tmp_path, **changes), TREE)


def test_totals_that_hold_are_accepted(tmp_path: Path) -> None:
    read_votes(written(tmp_path, **{"odd_total-votes": [4, 1]}), TREE)


def test_a_missing_and_a_damaged_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        read_votes(str(tmp_path / "nothing.parquet"), TREE)
    (tmp_path / "bad.parquet").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="not readable as parquet"):
        read_votes(str(tmp_path / "bad.parquet"), TREE)
