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
READ_TOGETHER = 128
"""Objects that a reader probably meets before it has forgotten the row group of the first."""
WORTH_A_READ = 8
"""Cutouts for which a row group may be read: an eighth of its rows, so no more than eight times the bytes."""
_COUNTED_TOGETHER = 1024 * READ_TOGETHER

_BYTES = re.compile(r"(?P<file>.+)#bytes=(?P<first>[0-9]{1,18})-(?P<last>[0-9]{1,18})", re.DOTALL)
_CELL = re.compile(r"(?P<file>.+)#(?P<name>[^#]+)\[(?P<row>[0-9]{1,18})\]", re.DOTALL)
_HDF5 = (".h5", ".hdf5")
_IN_TAR = re.compile(r"(?P<tar>.+?\.tar)/(?P<member>.+)", re.DOTALL)
_IN_STACK = re.compile(r"(?P<stack>.+?\.(?:h5|hdf5))/(?P<row>[0-9]{1,18})", re.DOTALL)


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
    rows = pa.array(np.arange(n)).cast(pa.string())
    return pc.binary_join_element_wise(f"{file}#{name}[", rows, "]", "")


def files_of(references: pa.Array) -> pa.Array:
    """Take the file of every reference, as `parse` does of one; null stays null."""
    if not pc.any(pc.match_substring(references, "#")).as_py():
        return references
    files, pieces = _split(references)
    is_piece = pc.match_substring_regex(pieces, r"(?s)^(bytes=[0-9]{1,18}-[0-9]{1,18}|.+\[[0-9]{1,18}\])$")
    return pc.if_else(pc.fill_null(pc.and_(is_piece, pc.not_equal(files, "")), False), files, references)


def _split(references: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Split references at their last #, after which every piece begins; the first part is null where there is none."""
    parts = pc.split_pattern(pc.fill_null(references, ""), "#", max_splits=1, reverse=True)
    first, last = parts.offsets.to_numpy()[:-1], parts.offsets.to_numpy()[1:] - 1
    return parts.values.take(pa.array(first, mask=first == last)), parts.values.take(pa.array(last))


def scattered(cutouts: pa.ChunkedArray) -> bool:
    """Whether to read these references in their order is to read a Parquet row group for every few of them."""
    n_groups = sum(
        _n_groups(cutouts.slice(start, _COUNTED_TOGETHER)) for start in range(0, len(cutouts), _COUNTED_TOGETHER)
    )
    return n_groups > max(len(cutouts), NEARBY_ROWS) / WORTH_A_READ


def _n_groups(cutouts: pa.ChunkedArray) -> int:
    files, pieces = _split(cutouts.combine_chunks())
    cells = pc.extract_regex(pieces, r"(?s)^(?P<name>.+)\[(?P<row>[0-9]{1,18})\]$")
    name, row = pc.struct_field(cells, "name"), pc.struct_field(cells, "row").cast(pa.int64())
    column = pc.if_else(pc.not_equal(files, ""), pc.binary_join_element_wise(files, name, "#"), None)
    groups = pa.table(
        [pa.array(np.arange(len(cutouts)) // READ_TOGETHER), column, pc.divide(row, NEARBY_ROWS)],
        ["read_together", "column", "group"],
    )
    in_parquet = pc.invert(pc.match_substring_regex(column, rf"\.({'|'.join(suffix[1:] for suffix in _HDF5)})#[^#]+$"))
    return len(groups.filter(in_parquet).group_by(groups.column_names).aggregate([]))


def is_stack(file: str) -> bool:
    """Whether a file is an HDF5 stack, by its name."""
    return file.endswith(_HDF5)


def in_containers(uris: pa.Array) -> pa.Array:
    """Whether paths lead through a tar or a stack: those that `split_tar_path` or `stack_reference` take apart."""
    patterns = (rf"(?s)^{pattern.pattern}$" for pattern in (_IN_TAR, _IN_STACK))
    return pc.fill_null(pc.or_(*(pc.match_substring_regex(uris, pattern) for pattern in patterns)), False)


def split_tar_path(uri: str) -> tuple[str, str] | None:
    """Split `shards/000.tar/img1.jpg` into the tar and its member; None where no tar is on the way."""
    match = _IN_TAR.fullmatch(uri)
    return (match["tar"], match["member"]) if match else None


def stack_reference(uri: str) -> str:
    """Turn `stack.h5/17` into `stack.h5#images[17]`; leave everything else as it is."""
    match = _IN_STACK.fullmatch(uri)
    return cell_of(match["stack"], STACK, int(match["row"])) if match else uri
