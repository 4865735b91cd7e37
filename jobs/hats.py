"""Job: hats. A release, or any table of one, becomes a HATS collection that other tools open and cross-match."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from engine.cluster.collection import Catalogue, copy_catalogue, margin_partitions, write_margin
from engine.storage.artefacts import (
    current_release,
    library_versions,
    manifest_of,
    partitions_of,
    read_manifest,
    utc_now,
)
from engine.storage.hats_catalogue import read_partitions, write_collection
from engine.storage.lease import lease
from engine.storage.parquet import count_rows, read_schema
from engine.storage.store import Store, file_record
from jobs.report import note, progress
from schemas import paths
from schemas.errors import InputNotFoundError, OutputError
from schemas.hats import Extension, HatsJob
from schemas.manifest import Kind, Manifest, Release
from schemas.partition import PartitionFile
from schemas.tables import COMPONENTS, CUTOUT, DEC, EMBEDDING, OBJECT_ID, POSITION, RA


class _Table(NamedTuple):
    """A HATS catalogue that is there."""

    name: str
    folder: Store
    partitions: Sequence[PartitionFile]
    provenance: dict[str, Any]


def run(job: HatsJob) -> None:
    """Write the collection.

    Raises
    ------
    InputNotFoundError
        At the source is neither a finished release nor a HATS catalogue, or the release lacks a table.
    OutputError
        Something is at the output already.
    IntegrityError
        A partition is missing or changed.
    """
    out = Store(job.output)
    tables = _tables(job)
    primary, others = tables[0], tables[1:]
    name = job.name or out.uri().rstrip("/").rpartition("/")[2]
    margin = f"{primary.name}_{job.margin_arcsec:g}arcsec"
    with lease(out):
        _clear(out, [margin, *(table.name for table in tables)])
        for table in tables:
            own = None if table is primary else [OBJECT_ID, RA, DEC, *_own_columns(table)]
            with progress(table.name, sum(part.n_rows for part in table.partitions), "objects") as advance:
                copy_catalogue(
                    table.folder,
                    out.below(table.name),
                    table.partitions,
                    Catalogue(f"{name}_{table.name}", table.provenance, own),
                    advance,
                )
        margins = [margin] if job.margin_arcsec and _margin(job, primary, out, name, margin) else []
        write_collection(out, name, primary.name, margins, {table.name: _own_columns(table) for table in others})
    note("hats", f"{name}: {', '.join([*(table.name for table in tables), *margins])} in {out.uri()}")


def _tables(job: HatsJob) -> list[_Table]:
    store = Store(job.source)
    if store.exists(paths.CURRENT):
        return _of_release(job, store)
    if store.exists(paths.COLLECTION) or not store.exists(paths.PROPERTIES):
        raise InputNotFoundError(
            f"{store.uri()}: expected the output of a release, or a folder with a HATS catalogue, found neither"
        )
    files = []
    for partition in read_partitions(store):
        record = file_record(partition.path, store.read(partition.path))
        files.append(PartitionFile(partition=partition, n_rows=count_rows(store, partition.path), file=record))
    return [_Table(store.uri().rpartition("/")[2], store, files, _provenance())]


def _of_release(job: HatsJob, store: Store) -> list[_Table]:
    release = current_release(store)
    components = manifest_of(store, release, "components")
    found = [components, *(_extension(store, release, kind) for kind in dict.fromkeys(job.extensions))]
    return [
        _Table(
            manifest.kind,
            store.below(paths.artefact(manifest.kind, manifest.id)),
            partitions_of(manifest),
            _provenance(release, manifest),
        )
        for manifest in found
    ]


def _extension(store: Store, release: Release, kind: Extension) -> Manifest:
    if kind == "embeddings":
        return manifest_of(store, release, kind)
    names = {path.split("/")[1] for path in store.list(kind) if path.endswith(f"/{paths.MANIFEST}")}
    made = [read_manifest(store, kind, name) for name in names]
    own = [one for one in made if one.parents["embeddings"].id == release.artefacts["embeddings"].id]
    if not own:
        raise InputNotFoundError(f"{store.uri()}: expected {kind} of this release, found none; make them first")
    return max(own, key=lambda one: (one.created_utc, one.id))


def _provenance(release: Release | None = None, manifest: Manifest | None = None) -> dict[str, Any]:
    versions = library_versions()
    found: dict[str, Any] = {
        "hats_builder": f"voorwerp {versions['voorwerp']}, hats v{versions['hats']}",
        "hats_creation_date": f"{utc_now()[:16]}UTC",
        "hats_version": "v1.0",
    }
    if release and manifest:
        made_of: dict[Kind, str] = {kind: release.artefacts[kind].id for kind in ("plan", "encoder", "embeddings")}
        made_of |= {kind: parent.id for kind, parent in manifest.parents.items()}  # type: ignore[misc]
        found |= {
            "prov_progenitor": f"voorwerp release {release.id}",
            "obs_description": f"{manifest.kind} of galaxies by {release.architecture}, preset {release.preset}",
            "voorwerp_release": release.id,
            "voorwerp_engine": manifest.versions["voorwerp"],
            f"voorwerp_{manifest.kind}": manifest.id,
            "voorwerp_weights_sha256": release.weights_sha256,
            **{f"voorwerp_{kind}": one for kind, one in made_of.items()},
        }
    return found


def _own_columns(table: _Table) -> list[str]:
    """Columns that a table has beside those of the catalogue."""
    names = read_schema(table.folder, table.partitions[0].file.path).names
    vectors = [name for name in names if name in (EMBEDDING, COMPONENTS)]
    return vectors or [name for name in names if name not in (*POSITION, CUTOUT)]


def _margin(job: HatsJob, primary: _Table, out: Store, name: str, margin: str) -> int:
    partitions = [part.partition for part in primary.partitions]
    with progress("margin", len(margin_partitions(partitions)), "partitions") as advance:
        return write_margin(
            out.below(primary.name),
            out.below(margin),
            partitions,
            job.margin_arcsec,
            Catalogue(f"{name}_{margin}", primary.provenance),
            f"{name}_{primary.name}",
            advance,
        )


def _clear(out: Store, folders: Sequence[str]) -> None:
    """Take away what an earlier run left that did not end."""
    others = [path for path in out.list() if path != paths.LEASE and path.partition("/")[0] not in folders]
    if others:
        raise OutputError(f"{out.uri()}: expected a new folder for the collection, found {min(others)} in it")
    for folder in folders:
        out.delete_folder(folder)
