"""From tables to answers: ids become text, numbers that are not finite null, and where a cutout lies is not told."""

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import pyarrow as pa

from engine.storage.parquet import as_matrix
from schemas.campaign import Campaign, Recorded
from schemas.found import Found
from schemas.service import (
    CampaignAnswer,
    ConeAnswer,
    ConeRow,
    Neighbourhood,
    NeighbourRow,
    NeighboursAnswer,
    ObjectAnswer,
    Plain,
    RatingRow,
    RatingsAnswer,
    RecordedAnswer,
    RecordedEvent,
    ReleaseAnswer,
)
from schemas.tables import (
    COMPONENTS,
    CUTOUT,
    DEC,
    DISTANCE,
    EXACTNESS,
    HEALPIX,
    MATCH,
    OBJECT_ID,
    QUERY,
    QUERY_ID,
    RA,
    RANK,
    SEPARATION,
    STATUS,
    UNSEEN,
)

_NOT_TOLD = (CUTOUT, HEALPIX)


def neighbours_answer(about: ReleaseAnswer, found: Found) -> NeighboursAnswer:
    """Answer with what was found."""
    answers = []
    for number, group in groupby(found.table.drop_columns([CUTOUT]).to_pylist(), key=lambda row: row[QUERY]):
        rows = list(group)
        first = rows[0]
        neighbours = tuple(
            NeighbourRow(
                rank=row[RANK],
                object_id=str(row[OBJECT_ID]),
                ra_deg=row[RA],
                dec_deg=row[DEC],
                distance=row[DISTANCE],
                separation_arcsec=_finite(row[SEPARATION]),
            )
            for row in rows
            if row[OBJECT_ID] is not None
        )
        answers.append(
            Neighbourhood(
                query=number,
                query_id=None if first[QUERY_ID] is None else str(first[QUERY_ID]),
                match_arcsec=_finite(first[MATCH]),
                status=first[STATUS],
                exactness=first[EXACTNESS],
                unseen_distance=_finite(first[UNSEEN]),
                neighbours=neighbours,
            )
        )
    return NeighboursAnswer(
        release=about.release,
        index=about.index,
        recall=found.recall,
        shards_asked=found.shards_asked,
        n_shards=found.n_shards,
        answers=tuple(answers),
    )


def said_of(about: ReleaseAnswer, found: Found) -> dict[str, str]:
    """Say of a table of neighbours what its answer in JSON would say beside its rows."""
    return {
        "release": about.release,
        "index": about.index,
        "exactness": "exact" if found.recall is None else "approximate",
        **({} if found.recall is None else {"recall": repr(found.recall)}),
        "shards_asked": str(found.shards_asked),
        "n_shards": str(found.n_shards),
    }


def cone_answer(about: ReleaseAnswer, objects: pa.Table, n_found: int) -> ConeAnswer:
    """Answer with objects of a cone."""
    rows = tuple(ConeRow(**{**row, OBJECT_ID: str(row[OBJECT_ID])}) for row in objects.to_pylist())
    return ConeAnswer(release=about.release, n_found=n_found, objects=rows)


def object_answer(about: ReleaseAnswer, row: pa.Table) -> ObjectAnswer:
    """Answer with the one row of an object."""
    values: dict[str, Any] = plain(row).to_pylist()[0]
    others = {name: _plain(value) for name, value in values.items() if name not in (OBJECT_ID, RA, DEC, SEPARATION)}
    return ObjectAnswer(
        release=about.release,
        object_id=str(values[OBJECT_ID]),
        ra_deg=values[RA],
        dec_deg=values[DEC],
        components=tuple(as_matrix(row[COMPONENTS])[0].tolist()),
        columns=others,
    )


def plain(table: pa.Table) -> pa.Table:
    """Keep the columns that every format can hold: numbers, booleans and text, and as text times and decimals."""
    columns = {}
    for field in table.schema:
        kind, column = field.type, table[field.name]
        if field.name in _NOT_TOLD:
            continue
        if pa.types.is_dictionary(kind):
            kind, column = kind.value_type, column.cast(kind.value_type)
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_decimal(kind):
            column = column.cast(pa.string())
        elif not (
            pa.types.is_integer(kind)
            or pa.types.is_floating(kind)
            or pa.types.is_boolean(kind)
            or pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
        ):
            continue
        columns[field.name] = column
    return pa.table(columns)


def campaign_answer(campaign: Campaign) -> CampaignAnswer:
    """Answer with a campaign, without the place of its release."""
    return CampaignAnswer(**{name: getattr(campaign, name) for name in CampaignAnswer.model_fields})


def recorded_answer(recorded: Sequence[Recorded]) -> RecordedAnswer:
    """Answer with events as they were recorded, the first time that they were sent."""
    events = tuple(
        RecordedEvent(
            sequence=one.sequence,
            request=one.event.request,
            object_id=one.event.object_id,
            kind=one.event.kind,
            rating=one.event.rating,
            undoes=one.event.undoes,
            at_utc=one.event.at_utc,
        )
        for one in recorded
    )
    return RecordedAnswer(recorded=events)


def ratings_answer(table: pa.Table, start: int, n: int) -> RatingsAnswer:
    """Answer with some of the ratings that hold."""
    rows = tuple(RatingRow(**{**row, OBJECT_ID: str(row[OBJECT_ID])}) for row in table.slice(start, n).to_pylist())
    return RatingsAnswer(n_ratings=len(table), ratings=rows)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _plain(value: Any) -> Plain:
    return _finite(value) if isinstance(value, float) else value
