import datetime
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.storage.answers import write_answer
from engine.storage.rating_files import read_ratings, write_ratings
from schemas.errors import ConfigError, DataError, InputNotFoundError
from schemas.tables import OBJECT_ID, RATER, RATING

ASTRONOMALY = ",score,human_label\n007,4.2,5\n8,3.1,-1\n9,0.25,0\n10,0.1,\n"
"""Its ml_scores.csv: a data frame with its index; -1 is what nobody rated."""


def written(folder: Path, columns: dict, name: str = "ratings.parquet") -> str:
    write_answer(str(folder / name), pa.table(columns))
    return str(folder / name)


def text(folder: Path, content: str) -> str:
    (folder / "ratings.csv").write_text(content)
    return str(folder / "ratings.csv")


def test_ratings_come_from_csv_with_ids_as_text_and_without_those_that_are_missing(tmp_path: Path) -> None:
    table = read_ratings(text(tmp_path, "object_id,rating\n007,1\n8,\n587724198820577450,0\n"), "object_id")
    assert table.to_pylist() == [{OBJECT_ID: "007", RATING: 1}, {OBJECT_ID: "587724198820577450", RATING: 0}]
    assert table.schema.types == [pa.string(), pa.int64()]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "fits", "vot"])
@pytest.mark.parametrize("ids", [[1, 2, 2], ["a", "bc", "bc"]])
def test_what_was_written_is_read_back_from_every_format(tmp_path: Path, suffix: str, ids: list) -> None:
    uri = str(tmp_path / f"ratings.{suffix}")
    raters = ["ann", "ann", "bob"]
    write_ratings(uri, pa.table({OBJECT_ID: ids, RATING: [0, 5, 3], RATER: raters}))
    assert read_ratings(uri, OBJECT_ID).to_pylist() == [
        {OBJECT_ID: str(object_id), RATING: rating, RATER: rater}
        for object_id, rating, rater in zip(ids, [0, 5, 3], raters, strict=True)
    ]


def test_the_column_is_the_one_that_is_named_or_the_first_that_is_known(tmp_path: Path) -> None:
    columns = {"id": [1], "mine": [4], "human_label": [2], "rating": [3]}
    assert read_ratings(written(tmp_path, columns), "id")[RATING].to_pylist() == [3]
    assert read_ratings(written(tmp_path, columns), "id", "mine")[RATING].to_pylist() == [4]
    assert read_ratings(written(tmp_path, {"id": [1], "score": [1]}), "id")[RATING].to_pylist() == [1]


def test_whole_numbers_may_be_floats_and_what_is_not_a_number_was_not_rated(tmp_path: Path) -> None:
    table = read_ratings(written(tmp_path, {"object_id": [1, 2, 3], "rating": [2.0, float("nan"), None]}), "object_id")
    assert table.to_pylist() == [{OBJECT_ID: "1", RATING: 2}]


@pytest.mark.parametrize("named", [None, "human_label"])
def test_astronomalys_csv_is_read_by_what_people_said(tmp_path: Path, named: str | None) -> None:
    table = read_ratings(text(tmp_path, ASTRONOMALY), "object_id", named)
    assert table.to_pylist() == [{OBJECT_ID: "007", RATING: 5}, {OBJECT_ID: "9", RATING: 0}]


def test_what_people_said_goes_before_the_score_that_astronomaly_gave(tmp_path: Path) -> None:
    columns = {"object_id": [1, 2], "score": [4.2, 3.0], "human_label": [1, -1]}
    assert read_ratings(written(tmp_path, columns), "object_id").to_pylist() == [{OBJECT_ID: "1", RATING: 1}]


def test_ratings_for_astronomaly_are_what_its_data_frames_read(tmp_path: Path) -> None:
    uri = str(tmp_path / "ml_scores.csv")
    write_ratings(uri, pa.table({OBJECT_ID: ["007", "8"], RATING: [5, 0], RATER: ["ann", "ann"]}), astronomaly=True)
    frame = pd.read_csv(uri, index_col=0, dtype={0: str})
    assert frame["human_label"].to_dict() == {"007": 5, "8": 0}
    assert read_ratings(uri, "object_id").to_pylist() == [{OBJECT_ID: "007", RATING: 5}, {OBJECT_ID: "8", RATING: 0}]
    with pytest.raises(DataError, match="export those of one rater"):
        write_ratings(uri, pa.table({OBJECT_ID: ["8", "8"], RATING: [5, 0], RATER: ["ann", "bob"]}), astronomaly=True)


def test_the_same_rating_twice_is_once_and_two_ratings_by_one_rater_are_refused(tmp_path: Path) -> None:
    twice = {"object_id": [1, 1, 1], "rating": [3, 3, 4], "rater": ["ann", "ann", "bob"]}
    assert read_ratings(written(tmp_path, twice), "object_id").to_pylist() == [
        {OBJECT_ID: "1", RATING: 3, RATER: "ann"},
        {OBJECT_ID: "1", RATING: 4, RATER: "bob"},
    ]
    with pytest.raises(DataError, match=r"one rating per object and rater.*2 other: object_id 1 rating 3; object_id 1"):
        read_ratings(written(tmp_path, {"object_id": [1, 2, 1], "rating": [3, 3, 4]}), "object_id")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"object_id": [1, 2], "rating": [5, 6]}, "whole numbers from 0 to 5, found 1 other: object_id 2 rating 6"),
        ({"object_id": [1], "rating": [-1]}, "found 1 other: object_id 1 rating -1"),
        ({"object_id": [1], "rating": [2.5]}, "found 1 other: object_id 1 rating 2.5"),
        ({"object_id": [1, 2], "rating": [1.0, float("inf")]}, "found 1 other: object_id 2 rating inf"),
        ({"object_id": [1], "rating": ["good"]}, "rating: expected numbers, found string"),
        ({"object_id": [1], "rating": [datetime.date(2026, 1, 1)]}, "rating: expected numbers, found date32"),
        ({"object_id": [1], "rating": [None]}, "expected at least one rating, found none"),
        ({"object_id": pa.array([], pa.int64()), "rating": pa.array([], pa.int64())}, "at least one rating"),
        ({"object_id": pa.array([None], pa.int64()), "rating": [1]}, "expected an id in every row, found 1 without"),
        ({"id": [1], "rating": [1]}, "expected a column 'object_id', found id, rating"),
        ({"object_id": [1], "ratings": [1]}, "expected a column 'rating', found object_id, ratings; did you mean"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path: Path, columns: dict, message: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "ratings.parquet")
    with pytest.raises(DataError, match=message):
        read_ratings(str(tmp_path / "ratings.parquet"), "object_id")


def test_a_missing_file_and_an_unknown_format_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="expected a table, found nothing"):
        read_ratings(str(tmp_path / "nothing.csv"), "object_id")
    with pytest.raises(ConfigError, match="ending in"):
        write_ratings(str(tmp_path / "ratings.txt"), pa.table({OBJECT_ID: [1], RATING: [1]}))
