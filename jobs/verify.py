"""Job: verify. Recompute what the manifests promise: hashes, counts, id digests, the chain of parents, HATS layout."""

from collections.abc import Iterator

import pyarrow.dataset as pads
from hats.io.validation import is_valid_catalog
from upath import UPath

from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import current_manifest, current_release, release_chain
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.store import Store
from jobs.report import accounting, console, note, progress
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord, Kind, Manifest
from schemas.tables import OBJECT_ID

_CATALOGUES: tuple[Kind, ...] = ("plan", "embeddings", "components")


def run(output: str) -> bool:
    """Verify the current release of an output; print what is wrong and return whether nothing is.

    Raises
    ------
    InputNotFoundError
        There is no finished release.
    IntegrityError
        A manifest itself is broken, so that nothing below it can be trusted.
    """
    store = Store(output)
    release = current_release(store)
    chain = release_chain(store, current_manifest(store, "index"))
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
    if not problems:
        problems += _check_accounting(store, chain["plan"], chain["embeddings"])
        problems += _check_catalogues(store, chain)
    for problem in problems:
        console.print(f"[red]problem:[/red] {problem}", soft_wrap=True)
    note(
        "verify", f"release {release.id}: " + (f"{len(problems)} problems" if problems else "everything is as promised")
    )
    note("verify", accounting(chain["embeddings"]))
    return not problems


def _check_file(folder: Store, record: FileRecord) -> Iterator[str]:
    try:
        folder.read_verified(record)
    except IntegrityError as error:
        yield str(error)


def _check_accounting(store: Store, plan: Manifest, embeddings: Manifest) -> Iterator[str]:
    folder = store.below(paths.artefact("embeddings", embeddings.id))
    embedded = read_columns(folder, [OBJECT_ID])[OBJECT_ID].to_pylist()
    rejected = read_table(folder, paths.REJECTS, [OBJECT_ID])[OBJECT_ID].to_pylist()
    if plan.counts["planned"] != len(embedded) + len(rejected):
        yield f"{plan.counts['planned']} planned, but {len(embedded)} embedded + {len(rejected)} rejected"
    if plan.detail["planned_digest"] != add_digests([id_digest(embedded), id_digest(rejected)]):
        yield "the ids embedded and rejected are not the ids planned"


def _check_catalogues(store: Store, chain: dict[Kind, Manifest]) -> Iterator[str]:
    for kind in _CATALOGUES:
        folder = store.below(paths.artefact(kind, chain[kind].id))
        if not is_valid_catalog(UPath(folder.uri()), strict=True, verbose=False):
            yield f"{folder.uri()}: not a valid HATS catalogue"
    n_components = pads.dataset(
        store.full_path(f"{paths.artefact('components', chain['components'].id)}/{paths.DATASET}"),
        filesystem=store.filesystem,
    ).count_rows()
    for kind, found in (("components", n_components), ("index", chain["index"].counts["indexed"])):
        if found != chain["embeddings"].counts["embedded"]:
            yield f"{kind}: expected {chain['embeddings'].counts['embedded']} objects, found {found}"
