"""Searches as jobs: units of work that are resumed, counted, and made into one answer. What they do is the caller's."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from time import perf_counter
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from engine.cluster.opened import OpenRelease
from engine.cluster.parts import ROWS_PER_GROUP, Make, PartsTask, run_units, run_units_here
from engine.cluster.protocol import read_commits
from engine.storage.answers import check_answer_path, is_folder, write_answer_parts
from engine.storage.artefacts import decode, encode, library_versions, utc_now
from engine.storage.lease import Held, lease
from engine.storage.merged import groups_of, merged
from engine.storage.parquet import write_table
from engine.storage.store import Store
from jobs.report import note, progress, unit_done
from schemas import paths
from schemas.config import Device, RayConfig
from schemas.errors import ConfigError, IntegrityError, OutputError
from schemas.manifest import Answer, Commit, content_id

Kind = Literal["neighbours", "graph", "duplicates"]


class Search(NamedTuple):
    """One question, and where its answer goes."""

    kind: Kind
    identity: dict[str, Any]
    output: str
    release: OpenRelease
    device: Device
    ray: RayConfig

    @property
    def run_id(self) -> str:
        """Names the question: another one never meets its work."""
        return content_id({"kind": self.kind, "identity": self.identity})

    @property
    def work(self) -> Store:
        """Folder of the lease and of what is done so far."""
        return Store(paths.answer_work(self.output))

    @property
    def own_work(self) -> Store:
        """Folder of what this question has done so far."""
        return self.work.below(paths.work(self.run_id))

    @property
    def parts(self) -> Store:
        """Folder of the parts."""
        return Store(self.output) if is_folder(self.output) else self.own_work


def search_identity(release: OpenRelease, **settings: Any) -> dict[str, Any]:
    """Compose what decides an answer."""
    return {"release": release.id, "index": release.index.id, "engine": library_versions()["voorwerp"], **settings}


def check_output(output: str, may_be_folder: bool = True) -> None:
    """Check an answer's name before any work.

    Raises
    ------
    ConfigError
        It ends in none of the known suffixes, or names a folder where a file is needed.
    """
    if not (may_be_folder and is_folder(output)):
        check_answer_path(output)


def finished(search: Search) -> Answer | None:
    """Return the manifest of the answer if its folder holds it already.

    Raises
    ------
    OutputError
        The folder holds the answer to another question, or anything else.
    """
    folder = Store(search.output)
    if not is_folder(search.output):
        return None
    if not folder.exists(paths.MANIFEST):
        others = [path for path in folder.list() if not path.startswith(f"{paths.PARTS}/")]
        if others:
            raise OutputError(f"{folder.uri()}: expected a new folder for the answer, found {others[0]} in it")
        return None
    answer = decode(Answer, folder.read(paths.MANIFEST), folder.uri(paths.MANIFEST))
    if answer.id != search.run_id:
        keys = sorted(answer.identity.keys() | search.identity.keys())
        differ = [key for key in keys if answer.identity.get(key) != search.identity.get(key)]
        raise OutputError(
            f"{folder.uri()} already holds the answer to another question ({answer.kind} {answer.id}, this is "
            f"{search.run_id}; different: {', '.join(differ) or 'the kind'}). Choose another output."
        )
    note(search.kind, f"{answer.id} is there already: {search.output}")
    return answer


@contextmanager
def working(search: Search) -> Iterator[Held]:
    """Hold the lease of an answer's work folder; take the folder away when the block ends well.

    Raises
    ------
    BusyError
        Another run works on this answer.
    """
    with lease(search.work) as held:
        yield held
        held.check()
        search.work.delete_folder(paths.WORK)
    if not search.work.exists(paths.LEASE):
        search.work.delete_folder("")


def do_units(
    search: Search,
    records: Sequence[dict[str, Any]],
    sizes: Sequence[int],
    unit: str,
    make: Make,
    held: Held,
    in_process: bool = False,
) -> list[Commit]:
    """Do the units that have no commit record yet; return the records of all, in order.

    Parameters
    ----------
    search : Search
    records : sequence of dict
        Of the units; `unit` is a unit's name.
    sizes : sequence of int
        What each unit has to answer, for the progress bar.
    unit : str
        What is counted.
    make : callable
    held : Held
    in_process : bool
        Without Ray.

    Raises
    ------
    ConfigError
        GPUs are wanted, and there are none.
    """
    size_of = {record["unit"]: size for record, size in zip(records, sizes, strict=True)}
    commits = {commit.unit: commit for commit in read_commits(search.work, search.run_id) if commit.unit in size_of}
    if commits:
        note(search.kind, f"{len(commits):,} of {len(records):,} units already done")
    missing = [record for record in records if record["unit"] not in commits]
    task = PartsTask(
        work=search.work.uri(),
        parts=search.parts.uri(),
        run_id=search.run_id,
        release=search.release.store.uri(),
        release_id=search.release.id,
    )
    done = _in_process(search, missing, task, make) if in_process else _over_ray(search, missing, task, make)
    with progress(search.kind, sum(sizes), unit, done=sum(size_of[name] for name in commits)) as advance:
        for commit in done:
            commits[commit.unit] = commit
            unit_done(search.kind, commit)
            advance(size_of[commit.unit])
            held.check()
    return [commits[record["unit"]] for record in records]


def _in_process(search: Search, records: Sequence[dict[str, Any]], task: PartsTask, make: Make) -> Iterator[Commit]:
    if search.device == "cuda":
        check_gpu()
    return run_units_here(records, task, make, search.release)


def _over_ray(search: Search, records: Sequence[dict[str, Any]], task: PartsTask, make: Make) -> Iterator[Commit]:
    if not records:
        return iter(())
    from engine.cluster.session import connect  # Ray takes a second to load; a few queries never need it.

    on_gpu, cluster = search.device == "cuda", connect(search.ray)
    if on_gpu and not cluster.gpus:
        raise ConfigError("device: expected a GPU for 'cuda', found none in the Ray cluster; use 'cpu' or 'auto'")
    return run_units(records, task, make, {"num_cpus": 1, "num_gpus": 1 if on_gpu else 0})


def check_gpu() -> None:
    """Check that this machine has a GPU.

    Raises
    ------
    ConfigError
        It has none.
    """
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("device: expected a GPU for 'cuda', found none on this machine; use 'cpu' or 'auto'")


def publish(
    search: Search,
    commits: Sequence[Commit],
    counts: dict[str, int],
    schema: pa.Schema,
    started: float,
    rest: pa.Table | None = None,
) -> None:
    """Make the answer of its parts: a manifest over the folder that holds them, or one file, part after part.

    `rest` are rows that no unit made; they come last.

    Raises
    ------
    IntegrityError
        A part is missing.
    """
    if not is_folder(search.output):
        tables = chain(*_tables(search, commits), [] if rest is None else [rest])
        write_answer_parts(search.output, schema, tables)
        return
    files = [file for commit in commits for file in commit.files]
    if rest:
        files.append(write_table(search.parts, f"{paths.PARTS}/{paths.UNANSWERED}", rest))
    named, there = {file.path for file in files}, set(search.parts.list(paths.PARTS))
    if named - there:
        raise IntegrityError(
            f"{search.parts.uri(min(named - there))}: missing, although a commit record names it; "
            f"delete {search.work.uri()} to begin again"
        )
    for path in there - named:
        search.parts.delete(path)
    answer = Answer(
        kind=search.kind,
        id=search.run_id,
        identity=search.identity,
        counts=counts,
        files=files,
        versions=library_versions(),
        durations_s={
            "total": perf_counter() - started,
            "unit_sum": sum(commit.durations_s["total"] for commit in commits),
        },
        created_utc=utc_now(),
    )
    search.parts.write(paths.MANIFEST, encode(answer))


def publish_merged(search: Search, commits: Sequence[Commit], schema: pa.Schema, column: str, others: pa.Table) -> None:
    """Make one file of the parts, and of rows besides, in order of a column."""
    tables = merged([*_tables(search, commits), iter([others])], column)
    write_answer_parts(search.output, schema, tables)


def _tables(search: Search, commits: Sequence[Commit]) -> list[Iterator[pa.Table]]:
    return [
        groups_of(search.parts, file.path, commit.counts["rows"], ROWS_PER_GROUP)
        for commit in commits
        for file in commit.files
    ]
