"""Every column and table, spelt once. Angles are degrees (ICRS) unless a name says otherwise."""

import pyarrow as pa

HEALPIX = "_healpix_29"
"""HEALPix pixel at order 29, nested: the sort key of every HATS table (int64)."""
OBJECT_ID = "object_id"
RA = "ra_deg"
DEC = "dec_deg"
CUTOUT = "cutout"
"""Where the cutout is: an absolute URI, or a reference into a container (`engine.storage.references`). In packed
catalogues the cutout itself: its bytes."""
CUTOUT_SIZE = "cutout_size"
"""Size in bytes of the file that holds the cutout when it was planned; in plans only."""
CUTOUT_VERSION = "cutout_version"
"""ETag on S3, modification time in nanoseconds on local disk, of that file when it was planned; in plans only."""
PACKED_FROM = "packed_from"
"""Where a packed cutout was before; in packed catalogues only."""
EMBEDDING = "embedding"
COMPONENTS = "components"
REASON = "reason"
DETAIL = "detail"
QUERY_ID = "query_id"
RANK = "rank"
DISTANCE = "distance"
SEPARATION = "separation_arcsec"

UNITS = {RA: "deg", DEC: "deg", SEPARATION: "arcsec"}
"""Units of columns that have one, for formats that carry units."""

RESERVED = frozenset(
    {HEALPIX, OBJECT_ID, RA, DEC, CUTOUT, CUTOUT_SIZE, CUTOUT_VERSION, EMBEDDING, COMPONENTS}
    | {"Norder", "Dir", "Npix"}
)
"""Names that an extra column of a catalogue cannot have: the tables use them."""


def vector_type(dimension: int) -> pa.DataType:
    """Arrow type of a vector column: fixed_size_list<float32>[dimension]."""
    return pa.list_(pa.float32(), dimension)


def with_vectors(objects: pa.Schema, column: str, dimension: int) -> pa.Schema:
    """Schema of a table of vectors: the object's columns without pins of its cutout, then one vector column."""
    fields = [field for field in objects if field.name not in (CUTOUT_SIZE, CUTOUT_VERSION, EMBEDDING, COMPONENTS)]
    return pa.schema([*fields, pa.field(column, vector_type(dimension), nullable=False)])


def rejects_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of the rejects table. `reason` is a `schemas.reject.RejectReason`, `detail` says what was found."""
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type),
            pa.field(RA, pa.float64()),
            pa.field(DEC, pa.float64()),
            pa.field(CUTOUT, pa.string()),
            pa.field(REASON, pa.string(), nullable=False),
            pa.field(DETAIL, pa.string()),
        ]
    )


def neighbours_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of an answer: per query `k` rows by rank (1 is nearest); `distance` is L1 in component space."""
    return pa.schema(
        [
            pa.field(QUERY_ID, id_type),
            pa.field(RANK, pa.int32()),
            pa.field(OBJECT_ID, id_type),
            pa.field(RA, pa.float64()),
            pa.field(DEC, pa.float64()),
            pa.field(DISTANCE, pa.float32()),
            pa.field(SEPARATION, pa.float64()),
            pa.field(CUTOUT, pa.string()),
        ]
    )
