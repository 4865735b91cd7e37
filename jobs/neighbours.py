"""Job: neighbours. The objects most like some objects or positions, by L1 distance in component space. Needs no Ray."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.compute.search import neighbours
from engine.compute.sky import match
from engine.storage.answers import check_answer_path, write_answer
from engine.storage.release import OpenRelease, open_release
from engine.storage.store import Store
from jobs.report import note, output, warn
from schemas.config import NeighboursJob
from schemas.errors import DataError
from schemas.tables import CUTOUT, DEC, DISTANCE, OBJECT_ID, QUERY_ID, RA, RANK, SEPARATION, neighbours_schema


def run(job: NeighboursJob) -> pa.Table:
    """Answer the queries; write the answer where the job says, or print it. Returns it as `neighbours_schema`.

    Raises
    ------
    InputNotFoundError
        There is no finished release.
    DataError
        An id is not in the release.
    """
    if job.output:
        check_answer_path(job.output)
    release = open_release(Store(job.release))
    rows = [*_rows_of_ids(release, job.ids), *_rows_of_positions(release, job)]
    answer = pa.concat_tables([_answer(release, row, job) for row in rows])
    if job.output:
        write_answer(job.output, answer)
        note("neighbours", f"{len(answer):,} rows for {len(rows):,} queries in {job.output}")
    else:
        _print(answer)
    return answer


def _rows_of_ids(release: OpenRelease, ids: tuple[str, ...]) -> list[int]:
    known = release.objects[OBJECT_ID]
    rows = []
    for text in ids:
        try:
            row = pc.index(known, pa.scalar(text).cast(known.type)).as_py()
        except pa.ArrowInvalid as error:
            raise DataError(f"--id: expected {known.type} ids as in this release, found {text!r}") from error
        if row < 0:
            raise DataError(f"--id: {text!r} is not among the {len(known):,} objects of this release")
        rows.append(row)
    return rows


def _rows_of_positions(release: OpenRelease, job: NeighboursJob) -> list[int]:
    if not job.positions_deg:
        return []
    ra_deg, dec_deg = np.array(job.positions_deg).T
    rows, separations = match(ra_deg, dec_deg, release.objects[RA].to_numpy(), release.objects[DEC].to_numpy())
    for position, row, separation in zip(job.positions_deg, rows, separations, strict=True):
        found = release.objects[OBJECT_ID][int(row)].as_py()
        note("position", f"{position[0]} {position[1]}: nearest object is {found}, {separation:,.1f} arcsec away")
        if separation > job.match_radius_arcsec:
            warn(f"that is more than {job.match_radius_arcsec:g} arcsec: the release may not cover this position")
    return [int(row) for row in rows]


def _answer(release: OpenRelease, row: int, job: NeighboursJob) -> pa.Table:
    objects = release.objects
    ra_deg, dec_deg = objects[RA].to_numpy(), objects[DEC].to_numpy()
    found = neighbours(release.shards, ra_deg, dec_deg, row, job.k, job.exclusion_radius_arcsec, job.include_self)
    picked = objects.take(pa.array(found.rows))
    columns: dict[str, Any] = {
        QUERY_ID: pa.array([objects[OBJECT_ID][row].as_py()] * len(picked), objects[OBJECT_ID].type),
        RANK: pa.array(np.arange(1, len(picked) + 1), pa.int32()),
        OBJECT_ID: picked[OBJECT_ID],
        RA: picked[RA],
        DEC: picked[DEC],
        DISTANCE: pa.array(found.distances, pa.float32()),
        SEPARATION: pa.array(found.separations_arcsec, pa.float64()),
        CUTOUT: picked[CUTOUT] if CUTOUT in picked.column_names else pa.nulls(len(picked), pa.string()),
    }
    return pa.table(columns, schema=neighbours_schema(objects[OBJECT_ID].type))


def _print(answer: pa.Table) -> None:
    for query in answer[QUERY_ID].unique().to_pylist():
        table = Table(title=f"nearest to {query}", title_justify="left", box=SIMPLE_HEAD)
        for name in (RANK, OBJECT_ID, RA, DEC, "L1 distance", SEPARATION):
            table.add_column(name, justify="right", no_wrap=True)
        for row in answer.filter(pc.equal(answer[QUERY_ID], query)).to_pylist():
            position = (f"{row[RA]:.6f}", f"{row[DEC]:.6f}")
            measures = (f"{row[DISTANCE]:.4f}", f"{row[SEPARATION]:.1f}")
            table.add_row(str(row[RANK]), str(row[OBJECT_ID]), *position, *measures)
        output.print(table)
