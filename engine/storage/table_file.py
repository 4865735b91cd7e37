"""Tables in one file that other tools write: CSV, FITS and VOTable become Arrow, with nothing rounded on the way."""

import gzip
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.dataset as pads

from engine.storage.store import Store
from schemas.errors import DataError, StoreError, VoorwerpError

SUFFIXES = {
    ".parquet": "parquet",
    ".parq": "parquet",
    ".csv": "csv",
    ".fits": "fits",
    ".fit": "fits",
    ".vot": "votable",
    ".xml": "votable",
    ".votable": "votable",
}
_GZIP_MAGIC = b"\x1f\x8b"


def kind_of(name: str) -> str | None:
    """Tell a table's format by its name's ending, with or without `.gz`; None where it tells nothing."""
    path = PurePosixPath(name)
    return SUFFIXES.get(path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix)


@contextmanager
def readable_as(kind: str, store: Store) -> Iterator[None]:
    """Say of whatever goes wrong inside that the file is not of this format, unless the store failed.

    Raises
    ------
    DataError
        Arrow and astropy raise many types on damaged files; each means the same here.
    StoreError
        The store failed or refused.
    """
    try:
        yield
    except VoorwerpError:
        raise
    except Exception as error:
        if "AWS Error" in str(error):
            raise StoreError(f"the store failed at {store.uri()}: {error}") from error
        raise DataError(f"{store.uri()}: not readable as {kind}: {error}") from error


def read_table_file(
    store: Store,
    kind: str,
    text_columns: Sequence[str],
    pick: Callable[[list[str]], Sequence[str]] | None = None,
) -> pa.Table:
    """Read a table that the store is the path of: Parquet (a file or a folder), CSV, FITS or VOTable.

    CSV columns of `text_columns` stay text. Of Parquet only the columns are read that `pick` chooses of their names;
    it may refuse them all. Errors as of `readable_as`.
    """
    with readable_as(kind, store):
        if kind == "parquet":
            dataset = pads.dataset(store.full_path(), filesystem=store.filesystem, format="parquet")
            return dataset.to_table(None if pick is None else list(pick(dataset.schema.names)))
        if kind == "csv":
            return read_csv(store, text_columns)
        return (read_fits(store) if kind == "fits" else read_votable(store))[0]


def read_csv(store: Store, text_columns: Sequence[str]) -> pa.Table:
    """Read a CSV file, gzipped or not, that the store is the path of.

    Ids are read as text: a guess at numbers would drop leading zeros and round 20-digit integers. Other columns of
    integers too long for 64 bits, which Arrow takes for floats, stay text.
    """
    text = dict.fromkeys(text_columns, pa.string())
    data = store.read("")
    if data.startswith(_GZIP_MAGIC):
        data = gzip.decompress(data)
    table = pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(column_types=text))
    rounded = [name for name in table.column_names if pa.types.is_floating(table[name].type) and _is_large(table[name])]
    if rounded:
        text |= dict.fromkeys(rounded, pa.string())
        exact = pacsv.read_csv(io.BytesIO(data), convert_options=pacsv.ConvertOptions(column_types=text))
        for name in rounded:
            if pc.all(pc.match_substring_regex(exact[name], "^[+-]?[0-9]*$")).as_py():
                table = table.set_column(table.column_names.index(name), name, exact[name])
    return table


def read_fits(store: Store) -> tuple[pa.Table, dict[str, str]]:
    """Read the first table of a FITS file that the store is the path of, and the units of its columns."""
    from astropy.table import Table

    return _from_astropy(Table.read(io.BytesIO(store.read("")), format="fits"))


def read_votable(store: Store) -> tuple[pa.Table, dict[str, str]]:
    """Read the only table of a VOTable that the store is the path of, and the units of its columns."""
    from astropy.io.votable import parse_single_table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _from_astropy(parse_single_table(io.BytesIO(store.read(""))).to_table())


def integers_if_exact(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Turn text ids into int64 where that loses nothing (no leading zero, no plus sign, no overflow)."""
    try:
        integers = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return column
    return integers if pc.all(pc.equal(integers.cast(pa.string()), column)).as_py() else column


def as_ids(ids: pa.Array, id_type: pa.DataType) -> pa.Array:
    """Bring ids to the type of a catalogue's; null where that cannot be one of its ids."""
    if ids.type == id_type:
        return ids
    text = ids.cast(pa.string())
    if pa.types.is_integer(id_type):
        text = pc.if_else(_fits_64_bits(text), text, None)
    return text.cast(id_type)


def _fits_64_bits(text: pa.Array) -> pa.Array:
    """Whether texts are integers of 64 bits; those of 19 digits are compared digit by digit with the limits."""
    fits = pc.match_substring_regex(text, "^-?[0-9]{1,18}$")
    for pattern, limit in ((r"^[0-9]{19}$", str(2**63 - 1)), (r"^-[0-9]{19}$", str(-(2**63)))):
        fits = pc.or_(fits, pc.and_(pc.match_substring_regex(text, pattern), pc.less_equal(text, limit)))
    return fits


def _is_large(column: pa.ChunkedArray) -> bool:
    return (pc.max(pc.abs(column)).as_py() or 0) >= 2**53


def _from_astropy(table: Any) -> tuple[pa.Table, dict[str, str]]:
    units = {name: str(table[name].unit) for name in table.colnames if table[name].unit is not None}
    columns = {}
    for name in table.colnames:
        values = np.ma.asarray(table[name])
        mask = np.ma.getmaskarray(values)
        data = values.filled() if mask.any() and values.dtype.kind != "O" else values.data
        if data.dtype.kind == "S":
            data = np.char.decode(data, "utf-8")
        if data.dtype.kind == "U":
            data = np.char.rstrip(data).astype(object)
        if not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        if data.ndim == 1:
            columns[name] = pa.array(data, mask=mask if mask.any() else None)
        else:
            missing = mask.any() and data.dtype.kind == "f"
            columns[name] = pa.array((values.filled(np.nan) if missing else data).tolist())
    return pa.table(columns), units
