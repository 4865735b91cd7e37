"""Tables: columns that every stage agrees on, and the errors' exit codes."""

import pyarrow as pa
import pytest

from schemas import errors
from schemas.reject import RejectReason
from schemas.tables import (
    EMBEDDING,
    RESERVED,
    UNITS,
    changes_schema,
    neighbours_schema,
    pairs_schema,
    rejects_schema,
    vector_type,
    with_vectors,
)


@pytest.mark.parametrize("id_type", [pa.int64(), pa.string()])
def test_rejects_and_neighbours_keep_the_type_of_the_ids(id_type: pa.DataType) -> None:
    assert rejects_schema(id_type).field("object_id").type == id_type
    answer = neighbours_schema(id_type)
    assert answer.field("object_id").type == answer.field("query_id").type == id_type


def test_a_vector_table_drops_pins_and_older_vectors_and_keeps_the_rest_in_order() -> None:
    names = ["_healpix_29", "object_id", "cutout_size", "cutout_version", "magnitude", "embedding"]
    schema = with_vectors(pa.schema([(name, pa.int64()) for name in names]), EMBEDDING, 5)
    assert schema.names == ["_healpix_29", "object_id", "magnitude", "embedding"]
    assert schema.field("embedding").type == vector_type(5) == pa.list_(pa.float32(), 5)
    assert not schema.field("embedding").nullable


def test_columns_that_tables_use_cannot_be_extra_columns() -> None:
    used = {*rejects_schema(pa.int64()).names} - {"reason", "detail"}
    assert used | {"_healpix_29", "embedding", "components", "cutout_size", "cutout_version"} <= RESERVED


def test_every_angle_of_an_answer_has_a_unit() -> None:
    names = {name for schema in (neighbours_schema, pairs_schema, changes_schema) for name in schema(pa.int64()).names}
    angles = {name for name in names if name.endswith(("_deg", "_arcsec"))}
    assert angles == UNITS.keys()


def test_reasons_are_written_as_their_names() -> None:
    assert {reason.value for reason in RejectReason} == {reason.name.lower() for reason in RejectReason}


def test_every_error_has_an_exit_code_of_its_own() -> None:
    kinds = errors.VoorwerpError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(set(codes)) == len(kinds)
    assert not {0, 1} & set(codes)
