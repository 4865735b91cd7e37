"""What a release takes over from the one before and what it has to embed: the first thing done onto another release."""

from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.changes import Before, Carried, read_outline, write_changes
from engine.compute.changes import Compared, compare
from engine.storage.artefacts import as_parent, find, finish, library_versions, partitions_of, utc_now
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs.previous import Previous
from jobs.report import note, progress, reused
from schemas import paths
from schemas.config import OntoConfig
from schemas.errors import DataError
from schemas.manifest import Manifest, identity_id
from schemas.partition import Partition
from schemas.tables import OBJECT_ID

_LISTED = 5


def run(plan: Manifest, previous: Previous, store: Store) -> Manifest:
    """Compare a plan with that of the release before, or confirm that this was done.

    Raises
    ------
    DataError
        The catalogues cannot be two releases of one survey: ids of another type, objects that moved too far, too many
        that are gone.
    """
    made_id = changes_id(plan, previous)
    if done := find(store, "changes", made_id):
        return reused(done)
    started = perf_counter()
    for name, manifest in (("catalogue", plan), ("catalogue of the release before", previous.plan)):
        if not manifest.counts["units"]:
            raise DataError(f"onto {previous.store.uri()}: expected objects in the {name}, found none")
    with progress("compare", _n_objects(plan) + _n_objects(previous.plan), "objects") as advance:
        now = read_outline(store, plan, advance)
        before = read_outline(previous.store, previous.plan, advance).objects
    if now.objects[OBJECT_ID].type != before[OBJECT_ID].type:
        raise DataError(
            f"onto {previous.store.uri()}: expected ids of the type that the release before has, "
            f"{before[OBJECT_ID].type}, found {now.objects[OBJECT_ID].type}; nothing was published"
        )
    found = compare(now.objects, before)
    _check_plausible(found, now.objects[OBJECT_ID], len(before), previous.config)
    folder = previous.store.below(paths.artefact("embeddings", previous.embeddings.id))
    rejected = read_table(folder, paths.REJECTS, [OBJECT_ID])[OBJECT_ID]
    was_rejected = pc.is_in(now.objects[OBJECT_ID], value_set=rejected.cast(before[OBJECT_ID].type)).to_numpy()
    carried = found.has_same_cutout & ~was_rejected
    target = store.below(paths.artefact("changes", made_id))
    with progress("changes", _n_objects(plan), "objects") as advance:
        written = write_changes(store, plan, target, now, before, found, carried, advance)
    manifest = Manifest(
        kind="changes",
        id=made_id,
        identity=_identity(plan, previous),
        parents={"plan": as_parent(plan)},
        counts={**found.counts, "carried": written.n_carried, "units": written.n_units},
        detail={
            "onto": previous.name,
            "partitions": sorted(
                partition.name
                for partition, start, stop in zip(now.partitions, now.starts, now.starts[1:], strict=False)
                if carried[start:stop].any()
            ),
        },
        files=written.files,
        versions=library_versions(),
        durations_s={"changes": perf_counter() - started},
        created_utc=utc_now(),
    )
    note("changes", ", ".join(f"{count:,} {name}" for name, count in found.counts.items()))
    note("changes", f"{written.n_carried:,} vectors are carried over, {int((~carried).sum()):,} cutouts are embedded")
    return finish(store, manifest)


def changes_id(plan: Manifest, previous: Previous) -> str:
    """Name what differs between a plan and the release before."""
    return identity_id("changes", _identity(plan, previous))


def _identity(plan: Manifest, previous: Previous) -> dict[str, Any]:
    return {"plan": plan.id, "onto": {"plan": previous.plan.id, "embeddings": previous.embeddings.id}}


def carried(changes: Manifest, previous: Previous, store: Store) -> Carried:
    """Say where the vectors are that are taken over."""
    return Carried(
        store.below(paths.artefact("changes", changes.id)),
        frozenset(Partition.of(name) for name in changes.detail["partitions"]),
        Before(
            previous.store.below(paths.artefact("embeddings", previous.embeddings.id)),
            sorted(partitions_of(previous.embeddings), key=lambda part: part.partition.first_healpix),
        ),
    )


def _n_objects(plan: Manifest) -> int:
    return plan.counts["planned"] - plan.counts["rejected"]


def _check_plausible(found: Compared, ids: pa.ChunkedArray, n_before: int, config: OntoConfig) -> None:
    far = np.flatnonzero(found.separation_arcsec > config.most_moved_arcsec)
    if len(far):
        listed = ", ".join(f"{ids[row]} by {found.separation_arcsec[row]:,.1f} arcsec" for row in far[:_LISTED])
        raise DataError(
            f"onto {config.release}: expected objects within onto.most_moved_arcsec {config.most_moved_arcsec:g} of "
            f"where they were, found {len(far):,} further away: {listed}{' ...' if len(far) > _LISTED else ''}. Were "
            "ids given to other galaxies, or RA and Dec exchanged? Nothing was published"
        )
    if len(found.dropped) > config.most_dropped * n_before:
        raise DataError(
            f"onto {config.release}: expected the catalogue's next release, found {len(found.dropped):,} of "
            f"{n_before:,} objects gone, more than onto.most_dropped {config.most_dropped:g} allows. Is it another "
            "survey's catalogue, or a part of it? Nothing was published"
        )
