"""Job: plan. A catalogue becomes a HATS table of valid objects in sky order, units of work, and rejects."""

from time import perf_counter
from typing import Any

import pyarrow as pa

from engine.compute import sky
from engine.compute.digest import id_digest, table_digest
from engine.compute.plan import Planned, default_rows_per_unit, plan_objects, units
from engine.storage.artefacts import claim, find, finish, library_versions, utc_now
from engine.storage.catalogue import read_catalogue
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import write_table
from engine.storage.store import Store
from jobs.report import note, progress, reused, warn
from schemas import paths
from schemas.config import CatalogueConfig, PlanConfig
from schemas.manifest import Manifest
from schemas.partition import Partition
from schemas.tables import DEC, HEALPIX, OBJECT_ID, RA


def run(catalogue: CatalogueConfig, config: PlanConfig, store: Store) -> Manifest:
    """Plan a catalogue, or confirm that the output holds its plan.

    Raises
    ------
    InputNotFoundError, DataError
        The catalogue is missing or cannot be used as a whole.
    OutputError
        The output belongs to another catalogue.
    """
    started = perf_counter()
    table = read_catalogue(catalogue)
    _warn_about_positions(table)
    planned = plan_objects(table, keep_first_duplicate=catalogue.on_duplicate == "first")
    rows_per_unit = config.rows_per_unit or default_rows_per_unit(len(planned.objects))
    identity = {
        "objects_sha256": table_digest(planned.objects),
        "rejects_sha256": table_digest(planned.rejects),
        "rows_per_partition": config.rows_per_partition,
        "rows_per_unit": rows_per_unit,
    }
    plan_id = claim(store, "plan", identity)
    done = find(store, "plan", plan_id)
    if done:
        return reused(done)
    source = Store(catalogue.path).uri()
    manifest = _write(planned, source, rows_per_unit, plan_id, identity, store, started)
    note("plan", f"{manifest.counts['planned']:,} objects, {manifest.counts['units']:,} units")
    return finish(store, manifest)


def _write(
    planned: Planned,
    source: str,
    rows_per_unit: int,
    plan_id: str,
    identity: dict[str, Any],
    store: Store,
    started: float,
) -> Manifest:
    folder = store.below(paths.artefact("plan", plan_id))
    slices = sky.partition(planned.objects[HEALPIX].to_numpy(), identity["rows_per_partition"])
    files = []
    with progress("plan", len(planned.objects), "objects") as advance:
        for part in slices:
            rows = planned.objects.slice(part.start, part.stop - part.start)
            path = paths.partition(part.order, part.pixel)
            files.append(write_table(folder, path, rows, rows_per_group=rows_per_unit))
            advance(len(rows))
    if slices:
        partitions = [Partition(part.order, part.pixel) for part in slices]
        files += write_hats_metadata(folder, "plan", partitions, len(planned.objects))
    work = units(slices, rows_per_unit)
    files.append(write_table(folder, paths.UNITS, pa.Table.from_pylist([unit._asdict() for unit in work])))
    files.append(write_table(folder, paths.REJECTS, planned.rejects))
    ids = [*planned.objects[OBJECT_ID].to_pylist(), *planned.rejects[OBJECT_ID].to_pylist()]
    return Manifest(
        kind="plan",
        id=plan_id,
        identity=identity,
        counts={"planned": len(ids), "rejected": len(planned.rejects), "units": len(work), "partitions": len(slices)},
        detail={"catalogue": source, "planned_digest": id_digest(ids)},
        files=files,
        versions=library_versions(),
        durations_s={"plan": perf_counter() - started},
        created_utc=utc_now(),
    )


def _warn_about_positions(table: pa.Table) -> None:
    ra_deg, dec_deg = table[RA].to_numpy(), table[DEC].to_numpy()
    if sky.look_swapped(ra_deg, dec_deg):
        warn("most invalid positions are valid with RA and Dec exchanged; check catalogue.ra_column and dec_column")
    if sky.look_like_hours(ra_deg, dec_deg):
        warn("no RA above 24 in a wide catalogue: is it in hours? Degrees are expected")
