"""Job: verify. Recompute what the manifests promise: hashes, counts, id digests, the chain of parents, HATS layout.

Of a finished release all of it; of an output that only holds a packed catalogue, that and its plan.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.dataset as pads
from hats.io.validation import is_valid_catalog
from upath import UPath

from engine.compute.digest import add_digests, id_digest
from engine.storage.artefacts import claimed, current_manifest, current_release, parent_of, read_manifest, release_chain
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.reports import check_signature
from engine.storage.signing import id_of, read_public_key
from engine.storage.store import Store
from jobs.report import accounting, note, progress, wrong
from schemas import paths
from schemas.errors import IntegrityError
from schemas.manifest import FileRecord, Kind, Manifest
from schemas.reject import WITHOUT_PLACE
from schemas.tables import OBJECT_ID, REASON

_CATALOGUES: set[Kind] = {"plan", "packed", "embeddings", "components", "predictions", "ellipse", "map"}
_OF_EMBEDDINGS: tuple[Kind, ...] = ("moments", "components", "predictions", "ellipse", "map", "report")


def run(output: str, public_key: Path | None = None) -> bool:
    """Verify the current release or the packed catalogue of an output; print what is wrong, return whether nothing is.

    With a public key, check first that this release is the one whose report card was signed.

    Raises
    ------
    InputNotFoundError
        There is neither, or no signature of this key.
    IntegrityError
        A manifest itself is broken, so that nothing below it can be trusted; or this is not what the key has signed.
    """
    store = Store(output)
    if public_key:
        _check_signature(store, public_key)
    name, chain = _chain(store)
    beside = _beside(store, chain)
    problems: list[str] = []
    everything = [*chain.values(), *beside, *_changes(store, chain)]
    with progress("verify", sum(len(manifest.files) for manifest in everything), "files") as advance:
        for manifest in everything:
            folder = store.below(paths.artefact(manifest.kind, manifest.id))
            for record in manifest.files:
                problems += _check_file(folder, record)
                advance(1)
            known = {paths.MANIFEST, *(record.path for record in manifest.files)}
            if manifest.kind == "report":
                known |= set(folder.list(paths.SIGNATURES))
            problems += [
                f"{folder.uri(path)}: left over, no manifest names it" for path in folder.list() if path not in known
            ]
    made = chain["packed" if "packed" in chain else "embeddings"]
    if not problems:
        problems += _check_accounting(store, chain["plan"], made)
        problems += _check_catalogues(store, everything)
        problems += _check_counts(store, chain, beside)
    for problem in problems:
        wrong(problem)
    note("verify", f"{name}: " + (f"{len(problems)} problems" if problems else "everything is as promised"))
    note("verify", accounting(made))
    return not problems


def _check_signature(store: Store, public_key: Path) -> None:
    key = read_public_key(public_key)
    report = check_signature(store, current_release(store).id, key)
    note("verify", f"report {report.id} of release {report.release} is signed by key {id_of(key)}")


def _chain(store: Store) -> tuple[str, dict[Kind, Manifest]]:
    if not store.exists(paths.CURRENT) and store.exists(paths.claim("packed")):
        packed = read_manifest(store, "packed", claimed(store, "packed"))
        return f"packed {packed.id}", {"plan": parent_of(store, packed, "plan"), "packed": packed}
    release = current_release(store)
    return f"release {release.id}", release_chain(store, current_manifest(store, "index"))


def _beside(store: Store, chain: dict[Kind, Manifest]) -> list[Manifest]:
    """What else was made of the release's embeddings: kept moments, other components, predictions, ellipses, maps."""
    found = []
    for kind in _OF_EMBEDDINGS if "embeddings" in chain else ():
        for path in store.list(kind):
            artefact_id, _, rest = path.removeprefix(f"{kind}/").partition("/")
            if rest == paths.MANIFEST and not (kind in chain and chain[kind].id == artefact_id):
                manifest = read_manifest(store, kind, artefact_id)
                if manifest.parents["embeddings"].id == chain["embeddings"].id:
                    found.append(manifest)
    return found


def _changes(store: Store, chain: dict[Kind, Manifest]) -> list[Manifest]:
    """What the release did not take over from the one before it, where there is one."""
    onto = chain["embeddings"].detail.get("onto") if "embeddings" in chain else None
    return [read_manifest(store, "changes", onto["changes"])] if onto else []


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


def _check_catalogues(store: Store, manifests: Sequence[Manifest]) -> Iterator[str]:
    for manifest in manifests:
        folder = store.below(paths.artefact(manifest.kind, manifest.id))
        if manifest.kind in _CATALOGUES and not is_valid_catalog(UPath(folder.uri()), strict=True, verbose=False):
            yield f"{folder.uri()}: not a valid HATS catalogue"


def _check_counts(store: Store, chain: dict[Kind, Manifest], beside: Sequence[Manifest]) -> Iterator[str]:
    if "index" not in chain:
        return
    tables = [manifest for manifest in (chain["components"], *beside) if manifest.kind in _CATALOGUES]
    found = {f"{manifest.kind} {manifest.id}": _count(store, manifest) for manifest in tables}
    found["index"] = chain["index"].counts["indexed"]
    for name, n in found.items():
        if n != chain["embeddings"].counts["embedded"]:
            yield f"{name}: expected {chain['embeddings'].counts['embedded']} objects, found {n}"


def _count(store: Store, manifest: Manifest) -> int:
    folder = store.full_path(f"{paths.artefact(manifest.kind, manifest.id)}/{paths.DATASET}")
    n = int(pads.dataset(folder, filesystem=store.filesystem).count_rows())
    if manifest.kind == "ellipse":  # It has rejects of its own: cutouts that were lost since they were embedded.
        n += len(read_table(store.below(paths.artefact(manifest.kind, manifest.id)), paths.REJECTS, [OBJECT_ID]))
    return n
