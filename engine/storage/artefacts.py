"""Artefacts of an output: claiming, finishing, finding and publishing them. Nothing without a manifest is readable."""

import hashlib
import json
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pydantic import ValidationError

from engine.storage.store import Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError, OutputError
from schemas.manifest import (
    FORMAT,
    Claim,
    Current,
    Kind,
    Manifest,
    Parent,
    Record,
    Release,
    canonical,
    content_id,
    identity_id,
)
from schemas.partition import PartitionFile
from schemas.space import SPACES, SpaceName

LIBRARIES = ("voorwerp", "ray", "torch", "timm", "dask", "pyarrow", "faiss-cpu", "hats", "numpy", "pillow", "astropy")

AnyRecord = TypeVar("AnyRecord", bound=Record)


def claim(store: Store, kind: Kind, identity: dict[str, Any], goes_on: bool = False) -> str:
    """Give this output to one identity of a kind, or confirm that it already has it; return the artefact's id.

    Parameters
    ----------
    store, kind, identity
    goes_on : bool
        Whether an output that belongs to another identity goes on to this one: for a release onto one of its own.

    Raises
    ------
    OutputError
        The output belongs to another identity; the message names what differs.
    IntegrityError
        Its claim is no valid record, or of another format.
    """
    identity = json.loads(canonical(identity))
    if not store.create(paths.claim(kind), encode(Claim(format=FORMAT, identity=identity))):
        holder = _claimed_identity(store, kind)
        if goes_on and holder != identity:
            store.write(paths.claim(kind), encode(Claim(format=FORMAT, identity=identity)))
        elif holder != identity:
            keys = sorted(key for key in holder.keys() | identity.keys() if holder.get(key) != identity.get(key))
            differences = "\n".join(
                f"  {key}: the output holds {holder.get(key)!r}, this job asks for {identity.get(key)!r}"
                for key in keys
            )
            raise OutputError(
                f"{store.uri()} already holds the {kind} of another run "
                f"({identity_id(kind, holder)}; this job is {identity_id(kind, identity)}):\n{differences}\n"
                "Choose another output, or run the job that the output belongs to."
            )
    return identity_id(kind, identity)


def claimed(store: Store, kind: Kind) -> str:
    """Return the id of the plan or embeddings that an output holds.

    Raises
    ------
    InputNotFoundError
        The output holds none yet.
    IntegrityError
        Its claim is no valid record, or of another format.
    """
    if not store.exists(paths.claim(kind)):
        raise InputNotFoundError(f"{store.uri()} holds no {kind} yet; run the stage that makes it first")
    return identity_id(kind, _claimed_identity(store, kind))


def _claimed_identity(store: Store, kind: Kind) -> dict[str, Any]:
    path = paths.claim(kind)
    return decode(Claim, store.read(path), store.uri(path)).identity


def finish(store: Store, manifest: Manifest) -> Manifest:
    """Make an artefact readable by writing its manifest; if another process was first, return that one's."""
    path = paths.manifest(manifest.kind, manifest.id)
    store.create(path, encode(manifest))
    return read_manifest(store, manifest.kind, manifest.id)


def find(store: Store, kind: Kind, artefact_id: str) -> Manifest | None:
    """Return the manifest of a finished artefact, or None."""
    return read_manifest(store, kind, artefact_id) if store.exists(paths.manifest(kind, artefact_id)) else None


def read_manifest(store: Store, kind: Kind, artefact_id: str) -> Manifest:
    """Read the manifest of a finished artefact.

    Raises
    ------
    InputNotFoundError
        The artefact is not there or unfinished.
    IntegrityError
        The manifest is not valid, of another format version, or not the one its id promises.
    """
    path = paths.manifest(kind, artefact_id)
    if not store.exists(path):
        raise InputNotFoundError(f"{store.uri(path)}: no finished {kind}; run `voorwerp release` or the stage again")
    manifest = decode(Manifest, store.read(path), store.uri(path))
    if manifest.kind != kind or manifest.id != artefact_id or identity_id(kind, manifest.identity) != artefact_id:
        raise IntegrityError(f"{store.uri(path)}: expected the manifest of {kind} {artefact_id}, found an edited one")
    return manifest


def encoder_identity(architecture: str, n_bands: int, weights_sha256: str | None) -> dict[str, Any]:
    """Say what decides an encoder; its id is the hash of this."""
    return {"architecture": architecture, "bands": n_bands, "weights_sha256": weights_sha256}


def components_identity(
    embeddings_id: str, space: SpaceName, n_components: int, method: str, basis: str | None = None
) -> dict[str, Any]:
    """Say what decides components; their id is the hash of this. A kept basis is that of other embeddings' fit."""
    return {
        "embeddings": embeddings_id,
        "space": space,
        "n_components": n_components,
        "unit_variance": SPACES[space].unit_variance,
        "method": method,
        **({"basis": basis} if basis and basis != embeddings_id else {}),
    }


def components_in(store: Store, components: Manifest, space: SpaceName) -> Manifest | None:
    """Find what components of one space are in another: of the same embeddings, fitted alike; None if not made yet."""
    if components.identity["space"] == space:
        return components
    made = components.identity
    n_components = SPACES[space].n_components
    wanted = components_identity(made["embeddings"], space, n_components, made["method"], made.get("basis"))
    return find(store, "components", identity_id("components", wanted))


def partitions_of(manifest: Manifest) -> list[PartitionFile]:
    """Partitions that a manifest lists."""
    return [PartitionFile.model_validate(part) for part in manifest.detail["partitions"]]


def as_parent(manifest: Manifest) -> Parent:
    """Refer to an artefact from one made from it."""
    return Parent(id=manifest.id, manifest_sha256=hashlib.sha256(encode(manifest)).hexdigest())


def parent_of(store: Store, manifest: Manifest, kind: Kind) -> Manifest:
    """Read the artefact that another was made from.

    Raises
    ------
    IntegrityError
        The parent's manifest is no longer the one that the artefact was made from.
    """
    expected = manifest.parents[kind]
    parent = read_manifest(store, kind, expected.id)
    if as_parent(parent) != expected:
        raise IntegrityError(
            f"{store.uri(paths.manifest(kind, expected.id))}: expected the manifest with SHA-256 "
            f"{expected.manifest_sha256}, found {as_parent(parent).manifest_sha256}; "
            f"{manifest.kind} {manifest.id} was made from another"
        )
    return parent


def publish(store: Store, index: Manifest) -> Release:
    """Point `current` at the release that ends in this index: its whole chain of parents, checked."""
    chain = release_chain(store, index)
    artefacts: dict[str, Parent] = {kind: as_parent(manifest) for kind, manifest in chain.items()}
    release_id = content_id({kind: parent.model_dump() for kind, parent in artefacts.items()})
    release = Release(
        id=release_id,
        artefacts=artefacts,
        catalogue=chain["plan"].detail["catalogue"],
        architecture=chain["encoder"].identity["architecture"],
        weights=chain["encoder"].detail["source"],
        weights_sha256=chain["encoder"].identity["weights_sha256"],
        preset=chain["embeddings"].detail["preset"],
        preset_sha256=chain["embeddings"].detail["preset_sha256"],
        counts={key: value for manifest in chain.values() for key, value in manifest.counts.items()},
        durations_s={key: value for manifest in chain.values() for key, value in manifest.durations_s.items()},
        versions=library_versions(),
        created_utc=utc_now(),
    )
    path = paths.release(release_id)
    store.create(path, encode(release))
    data = store.read(path)
    store.write(paths.CURRENT, encode(Current(release=path, sha256=hashlib.sha256(data).hexdigest())))
    return decode(Release, data, store.uri(path))


def release_chain(store: Store, index: Manifest) -> dict[Kind, Manifest]:
    """Read an index's chain of parents: encoder, plan, embeddings, components, index."""
    components = parent_of(store, index, "components")
    embeddings = parent_of(store, components, "embeddings")
    return {
        "encoder": parent_of(store, embeddings, "encoder"),
        "plan": parent_of(store, embeddings, "plan"),
        "embeddings": embeddings,
        "components": components,
        "index": index,
    }


def current_release(store: Store) -> Release:
    """Read the release that `current` points to.

    Raises
    ------
    InputNotFoundError
        The output holds no finished release.
    IntegrityError
        The release record is not the one that `current` names.
    """
    if not store.exists(paths.CURRENT):
        raise InputNotFoundError(f"{store.uri()}: no finished release here; run `voorwerp release` with this output")
    current = decode(Current, store.read(paths.CURRENT), store.uri(paths.CURRENT))
    data = store.read(current.release)
    found = hashlib.sha256(data).hexdigest()
    if found != current.sha256:
        raise IntegrityError(f"{store.uri(current.release)}: expected SHA-256 {current.sha256}, found {found}")
    return decode(Release, data, store.uri(current.release))


def find_release(store: Store, release_id: str) -> Release:
    """Read a release that was published here, current or not.

    Raises
    ------
    InputNotFoundError
        The output holds no such release; the message names those that it holds.
    IntegrityError
        The record is not the one that its id promises.
    """
    held = [PurePosixPath(name).stem for name in store.list(paths.RELEASES)]
    if release_id not in held:
        raise InputNotFoundError(
            f"{store.uri()}: expected one of its releases ({', '.join(held) or 'none'}), found {release_id!r}"
        )
    return _read_release(store, release_id)


def _read_release(store: Store, release_id: str) -> Release:
    path = paths.release(release_id)
    release = decode(Release, store.read(path), store.uri(path))
    chain = {kind: parent.model_dump() for kind, parent in release.artefacts.items()}
    if release.id != release_id or content_id(chain) != release_id:
        raise IntegrityError(f"{store.uri(path)}: expected the record of release {release_id}, found an edited one")
    return release


def all_releases(store: Store) -> list[Release]:
    """Read the records of all releases that were published here, the newest first.

    Raises
    ------
    IntegrityError
        One is not the one that its id promises.
    """
    found = [_read_release(store, PurePosixPath(name).stem) for name in store.list(paths.RELEASES)]
    return sorted(found, key=lambda one: (one.created_utc, one.id), reverse=True)


def current_manifest(store: Store, kind: Kind) -> Manifest:
    """Read the manifest of the current release's artefact of a kind, checked against the release record."""
    return manifest_of(store, current_release(store), kind)


def manifest_of(store: Store, release: Release, kind: Kind) -> Manifest:
    """Read the manifest of a release's artefact of a kind.

    Raises
    ------
    IntegrityError
        It is not the manifest that the release names.
    """
    expected = release.artefacts[kind]
    manifest = read_manifest(store, kind, expected.id)
    if as_parent(manifest) != expected:
        path = store.uri(paths.manifest(kind, expected.id))
        raise IntegrityError(f"{path}: not the manifest that the release names; it was changed after publication")
    return manifest


def encode(record: Record) -> bytes:
    """Encode a record as indented JSON."""
    return (record.model_dump_json(indent=1) + "\n").encode()


def decode(model: type[AnyRecord], data: bytes, where: str) -> AnyRecord:
    """Decode a record.

    Raises
    ------
    IntegrityError
        The bytes are not a valid record, or one of another format.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"] == ("format",):
                found = 1 if problem["type"] == "missing" else problem["input"]
                expected = problem.get("ctx", {}).get("expected", FORMAT)
                raise IntegrityError(
                    f"{where}: expected format {expected}, found format {found}: another version of voorwerp made this "
                    "output. Choose a new output, or use the version that made it."
                ) from error
        raise IntegrityError(f"{where}: not a valid {model.__name__} record: {error}") from error


def library_versions() -> dict[str, str]:
    """Versions of voorwerp and of the libraries that can change a result."""
    return {name: version(name) for name in LIBRARIES}


def open_output(target: str) -> Store:
    """Open an output that is there.

    Raises
    ------
    InputNotFoundError
        Nothing is at it.
    """
    store = Store(target)
    if not store.exists(""):
        raise InputNotFoundError(f"expected the output of a release, found nothing at {store.uri()}")
    return store


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
