"""Containers to put cutouts into: tars, Parquet columns and HDF5 stacks, as bytes."""

import io
import tarfile
from collections.abc import Mapping, Sequence

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def tar_of(files: Mapping[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return sink.getvalue()


def column_of(
    images: Sequence[bytes | None] | pa.Array, name: str = "image", rows_per_group: int = 4, **settings: object
) -> bytes:
    """A Parquet file with the images between two other columns; pages have checksums."""
    n = len(images)
    table = pa.table({"id": range(n), name: images, "ra": np.linspace(0, 1, n)})
    sink = pa.BufferOutputStream()
    plain = {"compression": "none", "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, sink, row_group_size=rows_per_group, **{**plain, **settings})
    return sink.getvalue().to_pybytes()


def hugging_face(images: Sequence[bytes | None]) -> pa.Array:
    """Images as `datasets` writes them; of a null it writes a null struct."""
    rows = [None if image is None else {"bytes": image, "path": f"{n}.png"} for n, image in enumerate(images)]
    return pa.array(rows, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))


def stack_of(images: np.ndarray, name: str = "images", **settings: object) -> bytes:
    sink = io.BytesIO()
    with h5py.File(sink, "w") as file:
        file.create_dataset(name, data=images, **settings)
    return sink.getvalue()


def flipped(data: bytes, place: int) -> bytes:
    """The same bytes with one bit changed."""
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
