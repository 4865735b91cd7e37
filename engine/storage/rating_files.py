"""Ratings in files: tables of ids and ratings 0 to 5, Astronomaly's among them; in and out."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.storage.answers import check_answer_path, write_answer_parts
from engine.storage.store import Store
from engine.storage.table_file import kind_of, read_table_file
from schemas.campaign import HIGHEST, LOWEST
from schemas.errors import DataError, InputNotFoundError
from schemas.tables import OBJECT_ID, RATER, RATING
from schemas.validation import did_you_mean

ASTRONOMALY_RATING = "human_label"
_NOT_RATED = -1
"""In Astronomaly's column."""
_RATING_COLUMNS = (RATING, ASTRONOMALY_RATING, "score")
"""In this order: Astronomaly's `score` is its own, beside what people said."""
_SHOWN = 5


def read_ratings(uri: str, id_column: str, rating_column: str | None = None) -> pa.Table:
    """Read a table of ratings.

    Parameters
    ----------
    uri : str
        Parquet, CSV, FITS table or VOTable; local or s3://. In Astronomaly's `ml_scores.csv`, a data frame with its
        index, the ids are in the first column, which has no name, and what was not rated has -1 in `human_label`.
    id_column : str
    rating_column : str or None
        The first of `rating`, `human_label` and `score` that is there, when None.

    Returns
    -------
    pa.Table
        `object_id` (string), `rating` (int64), and `rater` (string) where the file has it; each rater and object once.

    Raises
    ------
    InputNotFoundError
        Nothing is at the path.
    DataError
        A column is missing; a rating is no whole number from 0 to 5; an object has two ratings by one rater; there is
        no rating at all.
    """
    store = Store(uri)
    if not store.exists(""):
        raise InputNotFoundError(f"ratings: expected a table, found nothing at {store.uri()}")
    table = read_table_file(store, kind_of(uri) or "parquet", (id_column, "", OBJECT_ID))
    names = table.column_names
    is_astronomaly = ASTRONOMALY_RATING in names and id_column not in names and names[0] == ""
    if rating_column is None:
        rating_column = next((name for name in _RATING_COLUMNS if name in names), RATING)
    id_column = "" if is_astronomaly else id_column
    for name in (id_column, rating_column):
        if name not in names:
            hint = did_you_mean(name, names)
            raise DataError(f"{store.uri()}: expected a column {name!r}, found {', '.join(names)}{hint}")
    ids, given = table[id_column].cast(pa.string()), table[rating_column]
    columns = {OBJECT_ID: ids, RATING: _numbers(given, rating_column, store)}
    if RATER in names:
        columns[RATER] = table[RATER].cast(pa.string())
    ratings = pa.table(columns)
    ratings = ratings.filter(pc.is_valid(ratings[RATING]))
    if is_astronomaly or rating_column == ASTRONOMALY_RATING:
        ratings = ratings.filter(pc.not_equal(ratings[RATING], _NOT_RATED))
    return _checked(ratings, store)


def write_ratings(uri: str, ratings: pa.Table, astronomaly: bool = False) -> None:
    """Write ratings, by the name's ending as answers are; or one per object as Astronomaly's CSV.

    Raises
    ------
    ConfigError
        The name ends in none of the known suffixes.
    DataError
        Astronomaly's CSV is asked for, which has no raters, and two raters rated one object.
    """
    check_answer_path(uri)
    if astronomaly:
        if ratings[OBJECT_ID].combine_chunks().value_counts().field("counts").to_numpy().max(initial=1) > 1:
            raise DataError("Astronomaly's CSV has one rating per object: export those of one rater")
        ratings = pa.table({"": ratings[OBJECT_ID], ASTRONOMALY_RATING: ratings[RATING]})
    write_answer_parts(uri, ratings.schema, [ratings])


def _numbers(column: pa.ChunkedArray, name: str, store: Store) -> pa.ChunkedArray:
    try:
        numbers = column.cast(pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{store.uri()}: {name}: expected numbers, found {column.type}: {error}") from error
    return pc.if_else(pc.is_nan(numbers), None, numbers)


def _checked(ratings: pa.Table, store: Store) -> pa.Table:
    if ratings[OBJECT_ID].null_count:
        raise DataError(f"{store.uri()}: expected an id in every row, found {ratings[OBJECT_ID].null_count} without")
    if not len(ratings):
        raise DataError(f"{store.uri()}: expected at least one rating, found none")
    values = ratings[RATING].to_numpy()
    wrong = np.flatnonzero((values != np.round(values)) | (values < LOWEST) | (values > HIGHEST))
    if len(wrong):
        _refuse(ratings, wrong, f"expected whole numbers from {LOWEST} to {HIGHEST}", store)
    ratings = ratings.set_column(1, RATING, pc.cast(ratings[RATING], pa.int64()))
    ratings = ratings.group_by(ratings.column_names, use_threads=False).aggregate([])
    keys = [name for name in ratings.column_names if name != RATING]
    numbers = pc.rank(pa.array(_keys(ratings, keys)), tiebreaker="min").to_numpy()
    places, counts = np.unique(numbers, return_counts=True)
    twice = np.flatnonzero(np.isin(numbers, places[counts > 1]))
    if len(twice):
        _refuse(ratings, twice, "expected one rating per object and rater", store)
    return ratings


def _keys(ratings: pa.Table, names: Sequence[str]) -> list[str]:
    return ["\x1f".join(map(str, row.values())) for row in ratings.select(names).to_pylist()]


def _refuse(ratings: pa.Table, rows: np.ndarray, expected: str, store: Store) -> None:
    shown = "; ".join(
        " ".join(f"{name} {value}" for name, value in row.items()) for row in ratings.take(rows[:_SHOWN]).to_pylist()
    )
    raise DataError(f"{store.uri()}: {expected}, found {len(rows):,} other: {shown}")
