"""What differs between two releases: objects matched by id, compared by cutout and position. Pure."""

from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from engine.compute.sky import separation_arcsec
from schemas.change import Change
from schemas.tables import (
    CUTOUT,
    CUTOUT_SIZE,
    CUTOUT_VERSION,
    DEC,
    HEALPIX,
    OBJECT_ID,
    QUERY,
    RA,
    carried_schema,
    changes_schema,
    neighbour_changes_schema,
)

KEY = "cutout_key"
"""Column of an outline that is equal for equal cutouts, and 0 where there is no cutout."""

_SAME, _ADDED, _CHANGED, _MOVED = range(4)
_NAMES = np.array([None, Change.ADDED.value, Change.CHANGED.value, Change.MOVED.value], dtype=object)


class Compared(NamedTuple):
    """Every object of a catalogue beside what it was in the one before."""

    previous: np.ndarray
    """(n,) int64, row of the same id before; -1 where the id is new."""
    code: np.ndarray
    """(n,) int8, what became of it."""
    has_same_cutout: np.ndarray
    """(n,) bool."""
    separation_arcsec: np.ndarray
    """(n,) float64, how far it moved; NaN where the id is new."""
    dropped: np.ndarray
    """Rows of the catalogue before whose ids are gone."""

    @property
    def counts(self) -> dict[str, int]:
        """How many objects became what; `same` for those that differ in nothing."""
        n = np.bincount(self.code, minlength=4).tolist()
        return {"added": n[_ADDED], "changed": n[_CHANGED], "moved": n[_MOVED]} | {
            "dropped": len(self.dropped),
            "same": n[_SAME],
        }


def outline(objects: pa.Table) -> pa.Table:
    """Keep of planned objects what a comparison needs: id, position, and a key of the cutout.

    The key is a 64-bit hash of reference, size and version of the cutout's file. On S3 a file of its own is known by
    its size and ETag, which tell of its content: there a copy of a cutout in another folder is the same cutout.
    """
    text = objects[CUTOUT].cast(pa.large_string())
    in_s3 = pc.starts_with(text, "s3://")
    whole = pc.invert(pc.match_substring(text, "#"))
    named = pc.if_else(pc.fill_null(pc.and_(in_s3, whole), False), pa.scalar("", pa.large_string()), text)
    parts = pd.DataFrame(
        {
            "text": named.to_pandas(),
            "size": pc.fill_null(objects[CUTOUT_SIZE], -1).to_numpy(),
            "version": objects[CUTOUT_VERSION].to_pandas(),
        }
    )
    key = np.maximum(pd.util.hash_pandas_object(parts, index=False, categorize=False).to_numpy(), 1)
    key[objects[CUTOUT_SIZE].is_null().to_numpy()] = 0
    return objects.select([HEALPIX, OBJECT_ID, RA, DEC]).append_column(KEY, pa.array(key))


def compare(now: pa.Table, before: pa.Table) -> Compared:
    """Match two outlines by id.

    Parameters
    ----------
    now, before : pa.Table
        Of `outline`, in any order; ids are unique in each.
    """
    previous = pc.fill_null(pc.index_in(now[OBJECT_ID], value_set=before[OBJECT_ID]), -1).to_numpy().astype(np.int64)
    known = previous >= 0
    rows = previous[known]
    same_cutout = np.zeros(len(now), dtype=bool)
    key = now[KEY].to_numpy()[known]
    same_cutout[known] = (key == before[KEY].to_numpy()[rows]) & (key != 0)
    separation = np.full(len(now), np.nan)
    ra_deg, dec_deg = (now[name].to_numpy()[known] for name in (RA, DEC))
    before_ra_deg, before_dec_deg = (before[name].to_numpy()[rows] for name in (RA, DEC))
    separation[known] = separation_arcsec(ra_deg, dec_deg, before_ra_deg, before_dec_deg)
    moved = np.zeros(len(now), dtype=bool)
    moved[known] = (ra_deg != before_ra_deg) | (dec_deg != before_dec_deg)
    code = np.select([~known, ~same_cutout, moved], [_ADDED, _CHANGED, _MOVED], _SAME).astype(np.int8)
    is_there = np.zeros(len(before), dtype=bool)
    is_there[rows] = True
    return Compared(previous, code, same_cutout, separation, np.flatnonzero(~is_there))


def changes_table(now: pa.Table, before: pa.Table, found: Compared) -> pa.Table:
    """List what differs, in the order of `now`, then what was dropped: rows of `changes_schema`."""
    schema = changes_schema(now[OBJECT_ID].type)
    rows = np.flatnonzero(found.code != _SAME)
    objects = now.take(pa.array(rows))
    previous = found.previous[rows]
    was = before.take(pa.array(previous, mask=previous < 0))
    differing = pa.table(
        [
            objects[OBJECT_ID],
            pa.array(_NAMES[found.code[rows]], pa.string()),
            objects[RA],
            objects[DEC],
            was[RA],
            was[DEC],
            pa.array(found.separation_arcsec[rows], mask=previous < 0),
        ],
        schema=schema,
    )
    gone = before.take(pa.array(found.dropped))
    nothing = pa.nulls(len(gone), pa.float64())
    dropped = pa.table(
        [
            gone[OBJECT_ID],
            pa.array([Change.DROPPED.value] * len(gone), pa.string()),
            nothing,
            nothing,
            gone[RA],
            gone[DEC],
            nothing,
        ],
        schema=schema,
    )
    return pa.concat_tables([differing, dropped])


def carried_table(now: pa.Table, before: pa.Table, previous: np.ndarray, carried: np.ndarray) -> pa.Table:
    """List objects whose vectors are taken over, and where these lie before: rows of `carried_schema`."""
    rows = np.flatnonzero(carried)
    where = before[HEALPIX].take(pa.array(previous[rows]))
    return pa.table([now[OBJECT_ID].take(pa.array(rows)), where], schema=carried_schema(now[OBJECT_ID].type))


def neighbours_table(ids: pa.Array, now: pa.Table, before: pa.Table) -> pa.Table:
    """Compare the neighbours of some objects in two releases: rows of `neighbour_changes_schema`, a row per object.

    Parameters
    ----------
    ids : pa.Array
        (q,) of the objects that were asked about.
    now, before : pa.Table
        Answers by `query`, 0 to q - 1, with `object_id` of the neighbours.
    """
    near = [_by_query(answers, len(ids)) for answers in (now, before)]
    pairs = [(set(here), set(there)) for here, there in zip(*near, strict=True)]
    gained = [[one for one in here if one not in was] for here, (_, was) in zip(near[0], pairs, strict=True)]
    lost = [[one for one in there if one not in found] for there, (found, _) in zip(near[1], pairs, strict=True)]
    shared = [len(found & was) for found, was in pairs]
    return pa.table([ids, shared, gained, lost], schema=neighbour_changes_schema(ids.type))


def _by_query(answers: pa.Table, n: int) -> list[list[int | str]]:
    found: list[list[int | str]] = [[] for _ in range(n)]
    for query, object_id in zip(answers[QUERY].to_pylist(), answers[OBJECT_ID].to_pylist(), strict=True):
        if object_id is not None:
            found[query].append(object_id)
    return found
