"""Tables as bytes, to send them between processes: Arrow's streaming format."""

import pyarrow as pa


def to_bytes(table: pa.Table) -> bytes:
    """Encode a table."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes) -> pa.Table:
    """Decode what `to_bytes` made."""
    return pa.ipc.open_stream(data).read_all()
