"""An answer as tables on the terminal, with what each answer claims."""

import pyarrow as pa
import pyarrow.compute as pc
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.answer import EXACT
from jobs.report import output
from schemas.tables import (
    DEC,
    DISTANCE,
    EXACTNESS,
    OBJECT_ID,
    OK,
    QUERY,
    QUERY_ID,
    RA,
    RANK,
    SEPARATION,
    STATUS,
    UNSEEN,
)


def print_answer(answer: pa.Table, names: dict[int, str] | None = None) -> None:
    """Print the rows of `neighbours_schema`, a table per query; `names` are those of queries that are no objects."""
    for query in answer[QUERY].unique().to_pylist():
        rows = answer.filter(pc.equal(answer[QUERY], query)).to_pylist()
        name = (names or {}).get(query, rows[0][QUERY_ID])
        if rows[0][STATUS] != OK:
            output.print(f"{'query ' + str(query) if name is None else name}: {rows[0][STATUS]}", markup=False)
            continue
        table = Table(title=f"nearest to {name}", title_justify="left", box=SIMPLE_HEAD, caption=_claim(rows))
        for column in (RANK, OBJECT_ID, RA, DEC, "L1 distance", SEPARATION):
            table.add_column(column, justify="right", no_wrap=True)
        for row in rows:
            position = (f"{row[RA]:.6f}", f"{row[DEC]:.6f}")
            separation = "" if row[SEPARATION] is None else f"{row[SEPARATION]:.1f}"
            table.add_row(str(row[RANK]), str(row[OBJECT_ID]), *position, f"{row[DISTANCE]:.4f}", separation)
        output.print(table)


def _claim(rows: list[dict[str, object]]) -> str:
    last = rows[-1]
    if last[EXACTNESS] != EXACT:
        return "approximate: nearer objects may be missing"
    if last[UNSEEN] is None:
        return "exact: every object was compared"
    return f"exact: what was not compared is at {last[UNSEEN]:.4f} or beyond, the last of these at {last[DISTANCE]:.4f}"
