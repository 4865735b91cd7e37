"""Every column and table, spelt once. Angles are degrees (ICRS) unless a name says otherwise."""

import pyarrow as pa

HEALPIX = "_healpix_29"
"""HEALPix pixel at order 29, nested: the sort key of every HATS table (int64)."""
OBJECT_ID = "object_id"
RA = "ra_deg"
DEC = "dec_deg"
POSITION = (HEALPIX, OBJECT_ID, RA, DEC)
"""What says which object a row is of, and where."""
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
ELLIPSE = "ellipse"
"""Ellipse features (`engine.compute.ellipse`); in tables of these only."""
REASON = "reason"
DETAIL = "detail"
QUERY_ID = "query_id"
QUERY = "query"
"""Number of a query in the order in which they were asked, from 0."""
MATCH = "match_arcsec"
"""Separation of the position that was asked from the object that stands for it."""
RANK = "rank"
DISTANCE = "distance"
UNSEEN = "unseen_distance"
"""No object that was not compared is nearer than this; an answer is exact because no distance in it is larger."""
SEPARATION = "separation_arcsec"
EXACTNESS = "exactness"
STATUS = "status"
OK = "ok"
"""Status of a query that was answered."""
UNKNOWN_ID = "unknown id"
NO_MATCH = "no object within the match radius"
NONE_QUALIFIES = "no object qualifies"
"""Statuses of queries without an answer; `engine.storage.queries` has those of rows that are no queries."""
NEIGHBOUR_ID = "neighbour_id"
OTHER_ID = "other_id"
OTHER_RA = "other_ra_deg"
OTHER_DEC = "other_dec_deg"
RATING = "rating"
"""What was given: 0 to 5, or a mean of several; null where nothing was."""
RATER = "rater"
MEAN = "expected_rating"
"""Posterior mean of what a rating would be."""
SD = "expected_rating_sd"
"""Its standard deviation, the white noise of ratings included."""
ACQUISITION = "acquisition"
"""What orders the next questions; a logarithm, of expected improvement."""
NEAREST_RATED = "nearest_rated_id"
NEAREST_DISTANCE = "nearest_rated_distance"
"""Euclidean, in the space that is ranked."""
CRITERION = "criterion"
"""Why a pair is in a report of near-duplicates: `distance`, `sky` or `both`."""
MAP_X = "map_x"
MAP_Y = "map_y"
"""Position on a map, without a unit: only who is near to whom means anything."""

UNITS = {RA: "deg", DEC: "deg", OTHER_RA: "deg", OTHER_DEC: "deg", SEPARATION: "arcsec", MATCH: "arcsec"}
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
    """Schema of an answer: per query `k` rows by rank (1 is nearest); `distance` is L1 in component space.

    A query without an answer has one row, whose `status` says why.
    """
    return pa.schema(
        [
            pa.field(QUERY, pa.int64(), nullable=False),
            pa.field(QUERY_ID, id_type),
            pa.field(MATCH, pa.float64()),
            pa.field(RANK, pa.int32()),
            pa.field(OBJECT_ID, id_type),
            pa.field(RA, pa.float64()),
            pa.field(DEC, pa.float64()),
            pa.field(DISTANCE, pa.float32()),
            pa.field(SEPARATION, pa.float64()),
            pa.field(CUTOUT, pa.string()),
            pa.field(EXACTNESS, pa.string()),
            pa.field(UNSEEN, pa.float32()),
            pa.field(STATUS, pa.string(), nullable=False),
        ]
    )


def graph_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of a graph: per object its nearest neighbours by rank (1 is nearest); `distance` is L1."""
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field(RANK, pa.int32(), nullable=False),
            pa.field(NEIGHBOUR_ID, id_type, nullable=False),
            pa.field(DISTANCE, pa.float32(), nullable=False),
        ]
    )


def map_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of a map: where each object lies, on the sky and on the map."""
    return pa.schema(
        [
            pa.field(HEALPIX, pa.int64(), nullable=False),
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field(RA, pa.float64(), nullable=False),
            pa.field(DEC, pa.float64(), nullable=False),
            pa.field(MAP_X, pa.float32(), nullable=False),
            pa.field(MAP_Y, pa.float32(), nullable=False),
        ]
    )


def pairs_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of near-duplicates: each pair once, the smaller id first, with both of its measures."""
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field(RA, pa.float64(), nullable=False),
            pa.field(DEC, pa.float64(), nullable=False),
            pa.field(OTHER_ID, id_type, nullable=False),
            pa.field(OTHER_RA, pa.float64(), nullable=False),
            pa.field(OTHER_DEC, pa.float64(), nullable=False),
            pa.field(DISTANCE, pa.float32(), nullable=False),
            pa.field(SEPARATION, pa.float64(), nullable=False),
            pa.field(CRITERION, pa.string(), nullable=False),
        ]
    )
