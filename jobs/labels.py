"""What kind of labels a column holds, and the targets that they are."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.compute.labels import Labels
from engine.storage.labels import LABEL, numbers_of
from schemas.errors import DataError

_MOST_CLASSES = 20
"""Whole numbers of more values are a regression."""


def interpret(column: pa.ChunkedArray, kind: str, positive: str | None) -> Labels:
    """Decide what labels are, and turn them into targets.

    Raises
    ------
    DataError
        There is one value only, or the values are not of the kind that is asked for.
    """
    values = column.unique().sort() if not pa.types.is_boolean(column.type) else pa.array([False, True])
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    n_values = len(column.unique())
    if n_values < 2:
        raise DataError(f"labels: expected at least two different labels, found only {column[0]}")
    if kind == "auto":
        whole = not is_number or bool(np.all(numbers_of(column) == np.round(numbers_of(column))))
        kind = "binary" if n_values == 2 else "classes" if whole and n_values <= _MOST_CLASSES else "regression"
    if kind == "regression":
        if not is_number:
            raise DataError(f"labels: expected numbers for a regression, found {column.type}")
        numbers = numbers_of(column)
        centre, width = float(numbers.mean()), float(numbers.std())
        targets = ((numbers - centre) / width).astype(np.float32)[:, np.newaxis]
        return Labels("regression", (LABEL,), targets, centre, width)
    names = [str(value) for value in values.to_pylist()]
    number = pc.index_in(column, value_set=values).to_numpy()
    if kind == "classes":
        return Labels("classes", tuple(names), number.astype(np.int64))
    if n_values != 2:
        raise DataError(f"labels: expected two values for a binary question, found {n_values}")
    chosen = positive if positive is not None else names[-1]
    if chosen not in names:
        raise DataError(f"positive: expected one of {', '.join(names)}, found {chosen!r}")
    targets = (number == names.index(chosen)).astype(np.float32)[:, np.newaxis]
    return Labels("binary", (chosen,), targets)
