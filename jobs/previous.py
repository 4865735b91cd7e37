"""The release that another one follows: found, checked, and compared with what the new one wants."""

from dataclasses import dataclass
from typing import Any

from engine.storage.artefacts import current_release, find_release, manifest_of, release_chain
from engine.storage.store import Store
from schemas.config import OntoConfig
from schemas.errors import OutputError
from schemas.manifest import Manifest, Release

FREE = ("plan",)
"""What of the embeddings' identity may differ: everything else decides vectors."""


@dataclass(frozen=True)
class Previous:
    """A finished release and its chain of artefacts."""

    store: Store
    release: Release
    plan: Manifest
    embeddings: Manifest
    components: Manifest
    index: Manifest
    config: OntoConfig

    def is_in(self, store: Store) -> bool:
        """Whether it is in the very output that this one will be in."""
        return self.store.uri() == store.uri()

    @property
    def name(self) -> dict[str, str]:
        """What a manifest says of it."""
        return {"output": self.store.uri(), "release": self.release.id, "embeddings": self.embeddings.id}


def find_previous(config: OntoConfig) -> Previous:
    """Open the release that a job names.

    Raises
    ------
    InputNotFoundError
        There is no such release, or an artefact of it is gone.
    IntegrityError
        A manifest of its chain was changed since, or is of another format.
    """
    store = Store(config.release)
    release = find_release(store, config.as_of) if config.as_of else current_release(store)
    chain = release_chain(store, manifest_of(store, release, "index"))
    return Previous(store, release, chain["plan"], chain["embeddings"], chain["components"], chain["index"], config)


def check_embedded_alike(previous: Previous, identity: dict[str, Any]) -> None:
    """Refuse to take vectors over that this job would not make.

    Raises
    ------
    OutputError
        The release before has another encoder, preset or version of the engine; the message names what differs.
    """
    before = previous.embeddings.identity
    keys = sorted(key for key in before.keys() | identity.keys() if before.get(key) != identity.get(key))
    differences = [
        f"  {key}: the release before has {before.get(key)!r}, this job asks for {identity.get(key)!r}"
        for key in keys
        if key not in FREE
    ]
    if differences:
        raise OutputError(
            f"onto {previous.store.uri()}: expected a release embedded as this job would, found release "
            f"{previous.release.id} that differs:\n"
            + "\n".join(differences)
            + "\nVectors made in two ways cannot stand in one release: leave out --onto, and choose another output."
        )


def basis_in(components: dict[str, Any]) -> str:
    """Name the embeddings whose fit components are made by, from their identity: their own, or those of one before."""
    return str(components.get("basis", components["embeddings"]))
