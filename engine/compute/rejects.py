"""The rejects table: objects that have no embedding, with the reason."""

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa

from schemas.reject import RejectReason
from schemas.tables import CUTOUT, DEC, DETAIL, OBJECT_ID, RA, REASON, rejects_schema


class Reject(NamedTuple):
    """Why one object has no embedding."""

    reason: RejectReason
    detail: str


def rejects_table(objects: pa.Table, rejects: Sequence[Reject]) -> pa.Table:
    """Make the rejects table of objects, one reject each.

    Parameters
    ----------
    objects : pa.Table
        With `object_id`, `ra_deg`, `dec_deg` and perhaps `cutout`.
    rejects : sequence of Reject
        As many as there are objects.
    """
    uris = objects[CUTOUT] if CUTOUT in objects.column_names else pa.nulls(len(rejects), pa.string())
    columns = {
        OBJECT_ID: objects[OBJECT_ID],
        RA: objects[RA],
        DEC: objects[DEC],
        CUTOUT: uris,
        REASON: pa.array([reject.reason.value for reject in rejects], pa.string()),
        DETAIL: pa.array([reject.detail for reject in rejects], pa.string()),
    }
    return pa.table(columns, schema=rejects_schema(objects.schema.field(OBJECT_ID).type))
