"""A table that somebody sent, read in a process of its own that may die of it: its memory and its time are bounded.

Whatever the table claims to hold, expands to or refers to costs that process alone. What comes out is a file of ours,
which is read without such care. Nothing that a table refers to is ever opened.
"""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from xml.parsers import expat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from engine.storage.parquet import as_matrix, as_vectors, read_table, write_table
from engine.storage.queries import By, Queries, read_queries
from engine.storage.store import Store
from engine.storage.table_file import readable_as
from schemas.config import QueryFileConfig
from schemas.errors import ConfigError, DataError, StoreError, VoorwerpError
from schemas.tables import COMPONENTS, DEC, OBJECT_ID, RA, REASON

MEMORY_BYTES = 2 << 30
"""That reading a table may take, beside the libraries."""
CPU_S, PATIENCE_S = 120, 300.0
"""That it may take of a core, and of time where many others are at work."""
LONGEST_ID = 256
_NICENESS = 10
_MAGIC = {b"PAR1": "parquet", b"SIMPLE": "fits", b"<": "votable", b"\xef\xbb\xbf<": "votable"}
_ERRORS: dict[str, type[VoorwerpError]] = {"ConfigError": ConfigError, "DataError": DataError, "StoreError": StoreError}
_QUIET = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""Of these libraries each thread and each pool would claim address space that it does not use."""


class Uploaded(NamedTuple):
    """What a table asks."""

    by: By
    n: int


def read_uploaded(
    store: Store, path: str, target: str, config: QueryFileConfig, most_queries: int, dimension: int
) -> Uploaded:
    """Read a table of queries and write them as a file that `asked_queries` reads.

    Parameters
    ----------
    store : Store
    path, target : str
        Of the table, and of what is written.
    config : QueryFileConfig
        Its columns, and its format where that is known; its path is not looked at.
    most_queries : int
    dimension : int
        Of vectors.

    Raises
    ------
    DataError
        It cannot be read, has no query or too many, or vectors of another dimension; or reading it takes too much.
    ConfigError
        It cannot be told which columns are the queries.
    StoreError
        The store failed.
    """
    settings = _settings(store, path, target, config, most_queries, dimension)
    command = [sys.executable, "-m", "engine.storage.uploaded", json.dumps(settings)]
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PATIENCE_S,
            env=os.environ | _QUIET,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DataError(f"the table: expected one that is read in {PATIENCE_S:g} s, found that it is not") from error
    try:
        said = json.loads(ended.stdout)
    except ValueError as error:
        raise DataError(_too_much()) from error
    if "error" in said:
        raise _ERRORS[said["error"]](said["message"])
    return Uploaded(said["by"], said["n"])


def asked_queries(store: Store, path: str) -> Queries:
    """Read what `read_uploaded` wrote; errors as of `engine.storage.parquet.read_table`."""
    table = read_table(store, path)
    reasons = table[REASON]
    at = np.flatnonzero(reasons.is_valid().to_numpy())
    bad = dict(zip(at.tolist(), reasons.drop_null().to_pylist(), strict=True))
    if OBJECT_ID in table.column_names:
        return Queries("id", len(table), ids=table[OBJECT_ID].combine_chunks(), bad=bad)
    if RA in table.column_names:
        ra_deg, dec_deg = (table[name].to_numpy() for name in (RA, DEC))
        return Queries("position", len(table), ra_deg=ra_deg, dec_deg=dec_deg, bad=bad)
    return Queries("vector", len(table), vectors=as_matrix(table[COMPONENTS]), bad=bad)


def format_of(start: bytes) -> str:
    """Tell a table's format by its first bytes; what is none of the others is CSV."""
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), "csv")


def check_votable(data: bytes) -> None:
    """Refuse a VOTable that names anything outside of itself, or things that expand.

    Raises
    ------
    DataError
        An element but LINK has an href, entities are declared, or it is no XML.
    """

    def begin(name: str, attributes: dict[str, str]) -> None:
        local = {key.rpartition(":")[2].lower() for key in attributes}
        if "href" in local and name.rpartition(":")[2] != "LINK":
            raise DataError(f"the table: expected data inside of the VOTable, found {name} with an href; include it")

    def declared(*_: Any) -> None:
        raise DataError("the table: expected a VOTable without declarations of entities, found some")

    parser = expat.ParserCreate()
    parser.StartElementHandler = begin
    parser.EntityDeclHandler = declared
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise DataError(f"the table: not readable as votable: {error}") from error


def _settings(
    store: Store, path: str, target: str, config: QueryFileConfig, most_queries: int, dimension: int
) -> dict[str, Any]:
    return {
        "folder": store.uri(),
        "path": path,
        "target": target,
        "config": config.model_dump(exclude={"path"}),
        "most_queries": most_queries,
        "dimension": dimension,
    }


def _too_much() -> str:
    return (
        f"the table: expected one that is read in {MEMORY_BYTES / 2**30:g} GiB of memory and {CPU_S} s, found that it "
        "takes more or breaks its reader; send fewer rows, or only the columns of the queries"
    )


def _read(store: Store, path: str, config: QueryFileConfig, most_queries: int, dimension: int) -> Queries:
    file = store.below(path)
    kind = config.format
    if kind == "votable":
        check_votable(store.read(path))
    if kind == "parquet":
        with readable_as(kind, file):
            dataset = pads.dataset(file.full_path(), filesystem=file.filesystem, format="parquet")
            _check_number(dataset.count_rows(), most_queries)
    queries = read_queries(config)
    _check_number(queries.n, most_queries)
    if queries.dimension not in (None, dimension):
        raise DataError(f"the table: expected vectors of {dimension} components, found {queries.dimension}")
    if queries.ids is not None and pa.types.is_string(queries.ids.type):
        longest = pc.max(pc.utf8_length(queries.ids)).as_py() or 0
        if longest > LONGEST_ID:
            raise DataError(f"the table: expected ids of at most {LONGEST_ID} characters, found one of {longest:,}")
    return queries


def _check_number(n: int, most: int) -> None:
    if n > most:
        raise DataError(f"the table: expected at most {most:,} queries, found {n:,}; send several tables")


def _as_table(queries: Queries) -> pa.Table:
    columns: dict[str, Any]
    if queries.by == "id":
        columns = {OBJECT_ID: queries.ids}
    elif queries.by == "position":
        columns = {RA: queries.ra_deg, DEC: queries.dec_deg}
    else:
        assert queries.vectors is not None
        columns = {COMPONENTS: as_vectors(queries.vectors)}
    return pa.table({**columns, REASON: pa.array([queries.bad.get(row) for row in range(queries.n)], pa.string())})


def _bound() -> None:
    """Bound what this process may take from now on."""
    os.nice(_NICENESS)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used_s = sum(os.times()[:2])
    resource.setrlimit(resource.RLIMIT_CPU, (int(used_s) + CPU_S, int(used_s) + CPU_S))
    status = Path("/proc/self/statm")
    if status.exists():  # Elsewhere the address space says nothing about the memory that is used.
        taken = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY_BYTES, taken + MEMORY_BYTES))


def _said(settings: dict[str, Any], bound: Callable[[], None]) -> dict[str, Any]:
    """Read one table, once what may be taken is bounded, and say what it asks, or what is wrong with it."""
    store, path = Store(settings["folder"]), settings["path"]
    uri = store.uri(path)
    with store.open(path) as file:
        start = file.read(16)
    given = {**settings["config"], "format": settings["config"]["format"] or format_of(start), "path": uri}
    config = QueryFileConfig.model_validate(given)
    if config.format in ("fits", "votable"):
        import astropy.io.votable
        import astropy.table  # noqa: F401 - before the bound, as all libraries.
    bound()
    try:
        queries = _read(store, path, config, settings["most_queries"], settings["dimension"])
        write_table(store, settings["target"], _as_table(queries))
        return {"by": queries.by, "n": queries.n}
    except MemoryError:
        return {"error": "DataError", "message": _too_much()}
    except VoorwerpError as error:
        memory = isinstance(error.__cause__, MemoryError)
        name = type(error).__name__ if type(error).__name__ in _ERRORS else "DataError"
        message = str(error).replace(uri, "the table").replace(store.full_path(path), "the table")
        return {"error": name, "message": _too_much() if memory else message[:1000]}
    except Exception as error:
        return {"error": "DataError", "message": f"the table: not readable: {str(error)[:500]}"}


def main() -> None:
    """Read one table; the other end of `read_uploaded`."""
    answers = os.fdopen(os.dup(1), "w")  # Libraries may print to the standard output.
    os.dup2(2, 1)
    json.dump(_said(json.loads(sys.argv[1]), _bound), answers)
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
