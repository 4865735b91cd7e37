"""Files searched for what must not be in them, columns of tables included."""

import io
from collections.abc import Sequence
from pathlib import PurePosixPath

import pyarrow.parquet as pq

from engine.storage.store import Store


def files_with(store: Store, texts: Sequence[str]) -> list[str]:
    """Name the files that hold any of some texts: as bytes, or in the columns or the metadata of a Parquet file."""
    found = []
    for name in store.list():
        data = store.read(name)
        if data.startswith(b"PAR1"):
            table = pq.ParquetFile(io.BytesIO(data))
            describes_others = PurePosixPath(name).name.startswith("_")
            data += f"{table.schema_arrow.metadata} {'' if describes_others else table.read().to_pylist()}".encode()
        if any(text.encode() in data for text in texts):
            found.append(name)
    return found
