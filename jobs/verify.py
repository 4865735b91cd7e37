"""Job: verify. Recompute what the manifests promise: hashes, counts, id digests, the chain of parents, HATS layout.

Of a finished release all of it; of an output that only holds a packed catalogue, that and its plan.
"""

from collections.abc import Iterator

import pyarrow.dataset as pads
from hats.io.validation import is_valid_catalog
from upath import UPath

from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import claimed, current_manifest, current_release, parent_of, read_manifest, release_chain
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs.report import accounting, console, note, progress
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord, Kind, Manifest
from schemas.reject import WITHOUT_PLACE
from schemas.tables import OBJECT_ID, REASON

_CATALOGUES: set[Kind] = {"plan", "packed", "embeddings", "components"}


def run(output: str) -> bool:
    """Verify the current release or the packed catalogue of an output; print what is wrong, return whether nothing is.

    Raises
    ------
    InputNotFoundError
        There is neither.
    IntegrityError
        A manifest itself is broken, so that nothing below it can be trusted.
    """
    store = Store(output)
    name, chain = _chain(store)
    problems: list[str] = []
    with progress("verify", sum(len(manifest.files) for manifest in chain.values()), "files") as advance:
        for kind, manifest in chain.items():
            folder = store.below(paths.artefact(kind, manifest.id))
            for record in manifest.files:
                problems += _check_file(folder, record)
                advance(1)
            known = {paths.MANIFEST, *(record.path for record in manifest.files)}
            problems += [
                f"{folder.uri(path)}: left over, no manifest names it" for path in folder.list() if path not in known
            ]
    made = chain["packed" if "packed" in chain else "embeddings"]
    if not problems:
        problems += _check_accounting(store, chain["plan"], made)
        problems += _check_catalogues(store, chain)
    for problem in problems:
        console.print(f"[red]problem:[/red] {problem}", soft_wrap=True)
    note("verify", f"{name}: " + (f"{len(problems)} problems" if problems else "everything is as promised"))
    note("verify", accounting(made))
    return not problems


def _chain(store: Store) -> tuple[str, dict[Kind, Manifest]]:
    if not store.exists(paths.CURRENT) and store.exists(paths.claim("packed")):
        packed = read_manifest(store, "packed", claimed(store, "packed"))
        return f"packed {packed.id}", {"plan": parent_of(store, packed, "plan"), "packed": packed}
    release = current_release(store)
    return f"release {release.id}", release_chain(store, current_manifest(store, "index"))


def _check_file(folder: Store, record: FileRecord) -> Iterator[str]:
    try:
        folder.read_verified(record)
    except IntegrityError as error:
        yield str(error)


def _check_accounting(store: Store, plan: Manifest, made: Manifest) -> Iterator[str]:
    folder = store.below(paths.artefact(made.kind, made.id))
    rejects = read_table(folder, paths.REJECTS, [OBJECT_ID, REASON]).to_pylist()
    rejected = [reject[OBJECT_ID] for reject in rejects]
    ids = read_columns(folder, [OBJECT_ID])[OBJECT_ID].to_pylist()
    if made.kind == "packed":  # It keeps a row for every planned object; those of rejects have no cutout.
        without = {reject[OBJECT_ID] for reject in rejects if reject[REASON] not in WITHOUT_PLACE}
        ids = [object_id for object_id in ids if object_id not in without]
    if plan.counts["planned"] != len(ids) + len(rejected):
        yield f"{plan.counts['planned']} planned, but {len(ids)} {made.kind} + {len(rejected)} rejected"
    if plan.detail["planned_digest"] != add_digests([id_digest(ids), id_digest(rejected)]):
        yield f"the ids {made.kind} and rejected are not the ids planned"


def _check_catalogues(store: Store, chain: dict[Kind, Manifest]) -> Iterator[str]:
    for kind in _CATALOGUES & chain.keys():
        folder = store.below(paths.artefact(kind, chain[kind].id))
        if not is_valid_catalog(UPath(folder.uri()), strict=True, verbose=False):
            yield f"{folder.uri()}: not a valid HATS catalogue"
    if "index" not in chain:
        return
    n_components = pads.dataset(
        store.full_path(f"{paths.artefact('components', chain['components'].id)}/{paths.DATASET}"),
        filesystem=store.filesystem,
    ).count_rows()
    for kind, found in (("components", n_components), ("index", chain["index"].counts["indexed"])):
        if found != chain["embeddings"].counts["embedded"]:
            yield f"{kind}: expected {chain['embeddings'].counts['embedded']} objects, found {found}"
