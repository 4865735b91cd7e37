"""Job: plan. A catalogue becomes a HATS table of valid objects in sky order, units of work, and rejects."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import Any

import pyarrow as pa

from engine.compute import sky
from engine.compute.digest import id_digest, table_digest
from engine.compute.plan import Planned, default_rows_per_unit, plan_objects, units
from engine.storage.artefacts import claim, claimed, find, finish, library_versions, utc_now
from engine.storage.catalogue import read_catalogue
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.parquet import write_table
from engine.storage.pins import locate_cutouts, pin_catalogue
from engine.storage.references import scattered
from engine.storage.store import Store
from jobs.report import note, progress, reused, warn
from schemas import paths
from schemas.config import CatalogueConfig, PlanConfig
from schemas.manifest import FileRecord, Manifest, content_id
from schemas.partition import Partition
from schemas.tables import CUTOUT, DEC, HEALPIX, OBJECT_ID, RA

SCATTER_MATTERS_FROM = 2_000
"""Objects; a smaller catalogue is read in no time, whatever its order."""


def run(catalogue: CatalogueConfig, config: PlanConfig, store: Store, goes_on: bool = False) -> Manifest:
    """Plan a catalogue, or confirm that the output holds its plan.

    Parameters
    ----------
    catalogue, config, store
    goes_on : bool
        Whether an output that holds another catalogue's plan goes on to this one.

    Raises
    ------
    InputNotFoundError, DataError
        The catalogue is missing or cannot be used as a whole.
    OutputError
        The output belongs to another catalogue.
    """
    started = perf_counter()
    source = _source_id(catalogue, config)
    if planned_before := _find_planned(store, source):
        return reused(planned_before)
    table = read_catalogue(catalogue)
    _warn_about_positions(table)
    planned = plan_objects(table, keep_first_duplicate=catalogue.on_duplicate == "first")
    del table  # As large as what was planned of it.
    rows_per_unit = config.rows_per_unit or default_rows_per_unit(len(planned.objects))
    identity = {
        "objects_sha256": table_digest(planned.objects),
        "rejects_sha256": table_digest(planned.rejects),
        "rows_per_partition": config.rows_per_partition,
        "rows_per_unit": rows_per_unit,
    }
    plan_id = claim(store, "plan", identity, goes_on)
    done = find(store, "plan", plan_id)
    if done:
        return reused(done)
    located = planned._replace(objects=_located(planned.objects))
    _warn_about_order(located.objects)
    detail = {"catalogue": Store(catalogue.path).uri(), "source": source}
    manifest = _write(located, detail, rows_per_unit, plan_id, identity, store, started)
    note("plan", f"{manifest.counts['planned']:,} objects, {manifest.counts['units']:,} units")
    return finish(store, manifest)


def _source_id(catalogue: CatalogueConfig, config: PlanConfig) -> str:
    """Name a catalogue by its files' versions and how they are planned, without reading them."""
    files = pin_catalogue(Store(catalogue.path))
    return content_id([catalogue.model_dump(mode="json"), config.model_dump(mode="json"), files])


def _find_planned(store: Store, source: str) -> Manifest | None:
    """Find the finished plan of the same files: resuming a run then costs no reading of the catalogue."""
    if not store.exists(paths.claim("plan")):
        return None
    found = find(store, "plan", claimed(store, "plan"))
    return found if found and found.detail["source"] == source else None


def _located(objects: pa.Table) -> pa.Table:
    with progress("locate", len(objects), "cutouts") as advance:
        located = locate_cutouts(objects)
        advance(len(objects))
    return located


def _write(
    planned: Planned,
    detail: dict[str, Any],
    rows_per_unit: int,
    plan_id: str,
    identity: dict[str, Any],
    store: Store,
    started: float,
) -> Manifest:
    folder = store.below(paths.artefact("plan", plan_id))
    slices = sky.partition(planned.objects[HEALPIX].to_numpy(), identity["rows_per_partition"])

    def write(part: sky.Slice) -> FileRecord:
        rows = planned.objects.slice(part.start, part.stop - part.start).combine_chunks()
        return write_table(folder, paths.partition(part.order, part.pixel), rows, rows_per_group=rows_per_unit)

    files = []
    with progress("plan", len(planned.objects), "objects") as advance, ThreadPoolExecutor() as threads:
        for part, file in zip(slices, threads.map(write, slices), strict=True):
            files.append(file)
            advance(part.stop - part.start)
    if slices:
        partitions = [Partition(part.order, part.pixel) for part in slices]
        files += write_hats_metadata(folder, "plan", partitions, len(planned.objects))
    work = units(slices, rows_per_unit)
    files.append(write_table(folder, paths.UNITS, pa.Table.from_pylist([unit._asdict() for unit in work])))
    files.append(write_table(folder, paths.REJECTS, planned.rejects))
    ids = [planned.objects[OBJECT_ID], planned.rejects[OBJECT_ID]]
    return Manifest(
        kind="plan",
        id=plan_id,
        identity=identity,
        counts={
            "planned": sum(map(len, ids)),
            "rejected": len(planned.rejects),
            "units": len(work),
            "partitions": len(slices),
        },
        detail={**detail, "planned_digest": id_digest(_one_by_one(ids))},
        files=files,
        versions=library_versions(),
        durations_s={"plan": perf_counter() - started},
        created_utc=utc_now(),
    )


def _one_by_one(columns: Iterable[pa.ChunkedArray]) -> Iterator[int | str]:
    for column in columns:
        for chunk in column.chunks:
            yield from chunk.to_pylist()


def _warn_about_positions(table: pa.Table) -> None:
    ra_deg, dec_deg = table[RA].to_numpy(), table[DEC].to_numpy()
    if sky.look_swapped(ra_deg, dec_deg):
        warn("most invalid positions are valid with RA and Dec exchanged; check catalogue.ra_column and dec_column")
    if sky.look_like_hours(ra_deg, dec_deg):
        warn("no RA above 24 in a wide catalogue: is it in hours? Degrees are expected")


def _warn_about_order(objects: pa.Table) -> None:
    if len(objects) >= SCATTER_MATTERS_FROM and scattered(objects[CUTOUT]):
        warn(
            "the catalogue's images are not in sky order, so every unit reads many row groups for a few cutouts each; "
            "`voorwerp pack` writes them in order once"
        )
