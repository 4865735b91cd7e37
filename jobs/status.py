"""Job: status. What an output holds, which run works on it, how far it is: read from the store alone, from anywhere."""

import time
from collections.abc import Mapping
from typing import get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.storage.artefacts import all_releases, claimed, current_release, decode, open_output, read_manifest, utc_now
from engine.storage.store import Store
from jobs.report import output as screen
from schemas import paths
from schemas.manifest import Kind, Lease, Release
from schemas.status import ArtefactHeld, ReleaseHeld, Status, UnitsDone

_KINDS: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
_IN_UNITS: dict[Kind, str] = {"embeddings": "units", "packed": "partitions"}
_BAR = 30
_LATELY_S = 600.0
"""Commits of the last ten minutes before the newest give the rate."""


def run(target: str, as_json: bool) -> Status:
    """Print what an output holds and how far its run is; return it.

    Raises
    ------
    InputNotFoundError
        Nothing is at the output.
    IntegrityError
        A record in it is broken.
    """
    store = open_output(target)
    status = status_of(store)
    if as_json:
        screen.print_json(status.model_dump_json())
    else:
        _show(status)
    return status


def status_of(store: Store) -> Status:
    """Look at an output. Nothing is written, so that no right to is needed; ages are by this machine's clock."""
    entries = {entry.path: entry.modified_s for entry in store.entries()}
    now_s = time.time()
    held = decode(Lease, store.read(paths.LEASE), store.uri(paths.LEASE)) if paths.LEASE in entries else None
    age_s = max(0.0, now_s - entries[paths.LEASE]) if held else None
    current = current_release(store) if store.exists(paths.CURRENT) else None
    runs = sorted({path.split("/")[1] for path in entries if path.startswith(f"{paths.WORK}/")})
    return Status(
        output=store.uri(),
        at_utc=utc_now(),
        lease=held,
        lease_age_s=age_s,
        is_stale=bool(held and age_s is not None and age_s > held.lifetime_s),
        units=[_units(store, run_id, entries, now_s) for run_id in runs],
        artefacts=_artefacts(store, entries, current),
        releases=[
            ReleaseHeld(
                id=one.id,
                created_utc=one.created_utc,
                catalogue=one.catalogue,
                n_objects=one.counts["indexed"],
                is_current=current is not None and one.id == current.id,
            )
            for one in all_releases(store)
        ],
    )


def _units(store: Store, run_id: str, entries: Mapping[str, float], now_s: float) -> UnitsDone:
    """Count marks and commits by their names: no record is read, however many there are."""
    prefix = f"{paths.commits(run_id)}/"
    times = sorted(at for path, at in entries.items() if path.startswith(prefix))
    begun = sum(path.startswith(f"{paths.work(run_id)}/attempts/") for path in entries)
    kind, n_units = _planned(store, run_id, entries)
    n_left = None if n_units is None else n_units - len(times)
    lately = [at for at in times if at >= times[-1] - _LATELY_S]
    per_minute = (
        60 * (len(lately) - 1) / (lately[-1] - lately[0]) if len(lately) > 2 and lately[-1] > lately[0] else None
    )
    return UnitsDone(
        kind=kind,
        id=run_id,
        n_units=n_units,
        n_done=len(times),
        n_open=max(0, begun - len(times)),
        per_minute=per_minute,
        minutes_left=n_left / per_minute if per_minute and n_left is not None else None,
        last_s=max(0.0, now_s - times[-1]) if times else None,
    )


def _planned(store: Store, run_id: str, entries: Mapping[str, float]) -> tuple[str, int | None]:
    """Say what a folder of work is for, and how many units it has: of changes, else of the plan."""
    if paths.manifest("changes", run_id) in entries:
        return "embeddings", read_manifest(store, "changes", run_id).counts["units"]
    for kind, counted in _IN_UNITS.items():
        if paths.claim(kind) in entries and claimed(store, kind) == run_id and paths.claim("plan") in entries:
            plan_id = claimed(store, "plan")
            if paths.manifest("plan", plan_id) in entries:
                return kind, read_manifest(store, "plan", plan_id).counts[counted]
    return "other", None


def _artefacts(store: Store, entries: Mapping[str, float], current: Release | None) -> list[ArtefactHeld]:
    named = {(kind, parent.id) for kind, parent in current.artefacts.items()} if current else set()
    found = []
    for path in entries:
        kind, _, rest = path.partition("/")
        artefact_id, _, name = rest.partition("/")
        if kind in _KINDS and name == paths.MANIFEST:
            manifest = read_manifest(store, _KINDS[kind], artefact_id)
            found.append(
                ArtefactHeld(
                    kind=kind,
                    id=artefact_id,
                    created_utc=manifest.created_utc,
                    counts=manifest.counts,
                    is_current=(kind, artefact_id) in named,
                )
            )
    return sorted(found, key=lambda one: (one.created_utc, list(_KINDS).index(one.kind)))


def _show(status: Status) -> None:
    if status.lease is None:
        screen.print(f"{status.output}: no run works here", soft_wrap=True)
    else:
        age = f"last heard of {status.lease_age_s or 0:.0f} s ago"
        end = "; it died, and the same command takes over" if status.is_stale else ""
        screen.print(
            f"{status.output}: `{status.lease.command}` on {status.lease.host.partition(' ')[0]}, process "
            f"{status.lease.pid}, since {status.lease.since_utc}, {age}{end}",
            soft_wrap=True,
        )
    for one in status.units:
        _show_units(one)
    if status.artefacts:
        table = Table(box=SIMPLE_HEAD)
        for column in ("stage", "id", "finished", "counts", ""):
            table.add_column(column)
        for held in status.artefacts:
            counts = ", ".join(f"{count:,} {name}" for name, count in held.counts.items())
            table.add_row(held.kind, held.id, held.created_utc, counts, "current" if held.is_current else "")
        screen.print(table)
    for release in status.releases:
        mark = "current" if release.is_current else "earlier"
        screen.print(
            f"release {release.id} ({mark}), {release.created_utc}: {release.n_objects:,} objects "
            f"of {release.catalogue}",
            soft_wrap=True,
        )
    if not status.releases:
        screen.print("no finished release yet")


def _show_units(one: UnitsDone) -> None:
    if one.n_units:
        filled = round(_BAR * one.n_done / one.n_units)
        bar = f"[{'=' * filled}{' ' * (_BAR - filled)}] {one.n_done:,} of {one.n_units:,} units"
    else:
        bar = f"{one.n_done:,} units"
    rate = f", {one.per_minute:,.1f} a minute" if one.per_minute else ""
    left = f", about {one.minutes_left:,.0f} minutes left" if one.minutes_left else ""
    open_ = f", {one.n_open:,} attempts in work or lost" if one.n_open else ""
    last = f", the last {one.last_s:,.0f} s ago" if one.last_s is not None else ""
    screen.print(f"{one.kind} {one.id}: {bar}{rate}{left}{open_}{last}", markup=False, soft_wrap=True)
