"""Every column and table, spelt once. Angles are degrees (ICRS) unless a name says otherwise."""

from functools import cache

import pyarrow as pa

HEALPIX = "_healpix_29"
"""HEALPix pixel at order 29, nested: the sort key of every HATS table (int64)."""
OBJECT_ID = "object_id"
"""The object's id in the catalogue, unique."""
RA = "ra_deg"
"""Right ascension (ICRS), in [0, 360)."""
DEC = "dec_deg"
"""Declination (ICRS), in [-90, 90]."""
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
"""The encoder's output."""
COMPONENTS = "components"
"""The embedding after PCA, in the order of explained variance."""
ELLIPSE = "ellipse"
"""Ellipse features (`engine.compute.ellipse`); in tables of these only."""
REASON = "reason"
"""Why an object was left out (`schemas.reject.RejectReason`)."""
DETAIL = "detail"
"""What was expected and what was found."""
QUERY_ID = "query_id"
"""The object that stands for a query; null where it is a vector or an image."""
QUERY = "query"
"""Number of a query in the order in which they were asked, from 0."""
MATCH = "match_arcsec"
"""Separation of the position that was asked from the object that stands for it."""
RANK = "rank"
"""From 1, the nearest or best."""
DISTANCE = "distance"
"""L1, between components; no unit."""
UNSEEN = "unseen_distance"
"""No object that was not compared is nearer than this; an answer is exact because no distance in it is larger."""
SEPARATION = "separation_arcsec"
"""On the sky, between the two objects of a row; of an object that moved, from where it was."""
EXACTNESS = "exactness"
"""Whether an answer is exact or approximate."""
STATUS = "status"
"""`ok`, or why a query has no answer."""
OK = "ok"
"""Status of a query that was answered."""
UNKNOWN_ID = "unknown id"
NO_MATCH = "no object within the match radius"
NONE_QUALIFIES = "no object qualifies"
"""Statuses of queries without an answer; `engine.storage.queries` has those of rows that are no queries."""
NEIGHBOUR_ID = "neighbour_id"
"""The neighbour's id."""
OTHER_ID = "other_id"
"""Id of the second object of a pair."""
OTHER_RA = "other_ra_deg"
"""Right ascension (ICRS) of the second object of a pair."""
OTHER_DEC = "other_dec_deg"
"""Declination (ICRS) of the second object of a pair."""
RATING = "rating"
"""What was given: 0 to 5, or a mean of several; null where nothing was."""
RATER = "rater"
"""Who rated."""
MEAN = "expected_rating"
"""Posterior mean of what a rating would be."""
SD = "expected_rating_sd"
"""Its standard deviation, the white noise of ratings included."""
ACQUISITION = "acquisition"
"""What orders the next questions; a logarithm, of expected improvement."""
NEAREST_RATED = "nearest_rated_id"
"""The rated object that is nearest."""
NEAREST_DISTANCE = "nearest_rated_distance"
"""Euclidean, in the space that is ranked."""
CHANGE = "change"
"""What became of an object since the release before (`schemas.change.Change`)."""
PREVIOUS_RA = "previous_ra_deg"
"""Right ascension (ICRS) in the release before."""
PREVIOUS_DEC = "previous_dec_deg"
"""Declination (ICRS) in the release before."""
PREVIOUS_HEALPIX = "previous_healpix_29"
"""HEALPix pixel at order 29 in the release before."""
CRITERION = "criterion"
"""Why a pair is in a report of near-duplicates: `distance`, `sky` or `both`."""
MAP_X = "map_x"
"""Place on a map, to the right; without a unit: only who is near to whom means anything."""
MAP_Y = "map_y"
"""Place on a map, upwards, as `map_x`."""

_ANGLES = (RA, DEC, OTHER_RA, OTHER_DEC, PREVIOUS_RA, PREVIOUS_DEC)
UNITS = dict.fromkeys(_ANGLES, "deg") | dict.fromkeys((SEPARATION, MATCH), "arcsec")
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


@cache
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


def changes_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of what differs between two releases: a row for every object that is not the same in both.

    `ra_deg` and `dec_deg` are null where it was dropped, `previous_...` where it was added.
    """
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field(CHANGE, pa.string(), nullable=False),
            pa.field(RA, pa.float64()),
            pa.field(DEC, pa.float64()),
            pa.field(PREVIOUS_RA, pa.float64()),
            pa.field(PREVIOUS_DEC, pa.float64()),
            pa.field(SEPARATION, pa.float64()),
        ]
    )


def neighbour_changes_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of how the neighbours of objects changed from one release to the next; lists are nearest first."""
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field("n_shared", pa.int32(), nullable=False),
            pa.field("gained", pa.list_(id_type), nullable=False),
            pa.field("lost", pa.list_(id_type), nullable=False),
        ]
    )


def carried_schema(id_type: pa.DataType) -> pa.Schema:
    """Schema of the rows of a partition whose vectors are taken from the release before, and where they lie there."""
    return pa.schema(
        [
            pa.field(OBJECT_ID, id_type, nullable=False),
            pa.field(PREVIOUS_HEALPIX, pa.int64(), nullable=False),
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
