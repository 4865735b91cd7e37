"""References to cutouts: a file of its own, or a piece of a container. Text in, parts out; no file is opened.

URI                     a file that is one cutout
FILE#bytes=A-B          bytes A to B of a file, both included: a member of an uncompressed tar
FILE.h5#DATASET[ROW]    one image of an HDF5 stack
FILE#COLUMN[ROW]        one value of a Parquet column, whatever else the file's name ends in
"""

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

STACK = "images"
"""Dataset of an HDF5 stack that `stack.h5/17` means."""

NEARBY_ROWS = 64
"""Rows that probably lie in one row group."""

_BYTES = re.compile(r"(?P<file>.+)#bytes=(?P<first>\d{1,18})-(?P<last>\d{1,18})", re.DOTALL)
_CELL = re.compile(r"(?P<file>.+)#(?P<name>[^#]+)\[(?P<row>\d{1,18})\]", re.DOTALL)
_HDF5 = (".h5", ".hdf5")
_IN_TAR = re.compile(r"(?P<tar>.+?\.tar)/(?P<member>.+)", re.DOTALL)
_IN_STACK = re.compile(r"(?P<stack>.+?\.(?:h5|hdf5))/(?P<row>\d{1,18})", re.DOTALL)


class Bytes(NamedTuple):
    """A run of bytes of a file."""

    start: int
    n_bytes: int
    """Negative where the reference ends before it begins."""


class Cell(NamedTuple):
    """A row of a Parquet column or of an HDF5 dataset."""

    name: str
    row: int


class Reference(NamedTuple):
    """A file, and which piece of it; None for the whole file."""

    file: str
    piece: Bytes | Cell | None


def parse(text: str) -> Reference:
    """Split a reference into its parts. What has the form of no piece is a file: nothing is refused here."""
    if match := _BYTES.fullmatch(text):
        first = int(match["first"])
        return Reference(match["file"], Bytes(first, int(match["last"]) + 1 - first))
    if match := _CELL.fullmatch(text):
        return Reference(match["file"], Cell(match["name"], int(match["row"])))
    return Reference(text, None)


def bytes_of(file: str, piece: Bytes) -> str:
    """Refer to a run of bytes."""
    return f"{file}#bytes={piece.start}-{piece.start + piece.n_bytes - 1}"


def cell_of(file: str, name: str, row: int) -> str:
    """Refer to a row of a column or dataset."""
    return f"{file}#{name}[{row}]"


def cells_of(file: str, name: str, n: int) -> pa.Array:
    """Refer to the first n rows of a column: an Arrow array of strings."""
    return pc.binary_join_element_wise(f"{file}#{name}[", pa.array(range(n), pa.int64()).cast(pa.string()), "]", "")


def scattered(cutouts: pa.ChunkedArray) -> bool:
    """Whether most of these references are rows of Parquet columns that do not follow those before them."""
    named = pc.extract_regex(cutouts.drop_null(), r"^(?P<column>.+)\[(?P<row>\d{1,18})\]$").drop_null()
    if len(named) < 2 or is_stack(named[0]["column"].as_py().rpartition("#")[0]):
        return False
    parts = named.combine_chunks()
    columns = parts.field("column").dictionary_encode().indices.to_numpy()
    rows = parts.field("row").cast(pa.int64()).to_numpy()
    follows = (np.diff(columns) == 0) & (np.diff(rows) >= 0) & (np.diff(rows) <= NEARBY_ROWS)
    return bool(np.mean(follows) < 0.5)


def is_stack(file: str) -> bool:
    """Whether a file is an HDF5 stack, by its name."""
    return file.endswith(_HDF5)


def split_tar_path(uri: str) -> tuple[str, str] | None:
    """Split `shards/000.tar/img1.jpg` into the tar and its member; None where no tar is on the way."""
    match = _IN_TAR.fullmatch(uri)
    return (match["tar"], match["member"]) if match else None


def stack_reference(uri: str) -> str:
    """Turn `stack.h5/17` into `stack.h5#images[17]`; leave everything else as it is."""
    match = _IN_STACK.fullmatch(uri)
    return cell_of(match["stack"], STACK, int(match["row"])) if match else uri
