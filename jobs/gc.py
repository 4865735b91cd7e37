"""Job: gc. Delete files that no commit record and no manifest names, once they are old enough."""

from collections.abc import Iterator
from typing import get_args

from engine.cluster.protocol import read_commits
from engine.storage.artefacts import open_output, read_manifest
from engine.storage.lease import lease
from engine.storage.store import Entry, Store
from jobs.report import note, output
from schemas import paths
from schemas.manifest import Kind

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_WORKING: tuple[Kind, ...] = ("embeddings", "packed", "map")
"""Artefacts that units of work make."""


def run(target: str, grace_hours: float, dry_run: bool) -> list[Entry]:
    """Delete what is left over in an output; return it.

    Raises
    ------
    InputNotFoundError
        Nothing is at the output.
    BusyError
        A run works on this output.
    """
    store = open_output(target)
    with lease(store):
        oldest = store.now() - grace_hours * 3600
        found = [entry for entry in left_over(store) if entry.modified_s <= oldest]
        for entry in found:
            output.print(f"{entry.size_bytes:>15,} {store.uri(entry.path)}", markup=False, soft_wrap=True)
            if not dry_run:
                store.delete(entry.path)
    size = sum(entry.size_bytes for entry in found)
    note("gc", f"{len(found):,} files, {size:,} bytes {'would be' if dry_run else 'were'} deleted in {store.uri()}")
    return found


def left_over(store: Store) -> Iterator[Entry]:
    """Describe the files of an output that nothing names: of lost attempts, of unfinished artefacts, and temporary."""
    named: dict[tuple[str, str], set[str]] = {}
    for entry in store.entries():
        first, _, rest = entry.path.partition("/")
        name, _, path = rest.partition("/")
        if entry.path.endswith(".tmp"):
            yield entry
        elif path and (first in _KINDS or first == paths.WORK):
            if (first, name) not in named:
                named[first, name] = _named(store, first, name)
            if path not in named[first, name]:
                yield entry


def _named(store: Store, first: str, name: str) -> set[str]:
    """Paths, relative to a folder of an artefact or of work, of files that a manifest or a commit record names."""
    kind = _KINDS.get(first)
    if kind and store.exists(paths.manifest(kind, name)):
        folder = store.below(paths.artefact(kind, name))
        signatures = folder.list(paths.SIGNATURES) if kind == "report" else []
        return {paths.MANIFEST, *(file.path for file in read_manifest(store, kind, name).files), *signatures}
    finished = any(store.exists(paths.manifest(working, name)) for working in _WORKING)
    if finished or kind not in (None, "packed", "map"):
        return set()
    work = paths.work(name)
    named = {path.removeprefix(f"{work}/") for path in store.list(paths.commits(name))}
    for commit in read_commits(store, name):
        named |= {file.path for file in commit.files}
    return named
