"""Messages of the service about releases: which there are, what they were made of, what was rejected."""

from typing import Any

from schemas.manifest import Kind, Record
from schemas.reject import RejectReason


class PublishedRelease(Record):
    """A finished release of the output that is served."""

    release: str
    index: str
    created_utc: str
    architecture: str
    """Of the encoder."""
    counts: dict[str, int]
    is_served: bool


class ReleasesAnswer(Record):
    """All finished releases of the output, the newest first."""

    served: str
    releases: tuple[PublishedRelease, ...]


class ManifestSummary(Record):
    """What an artefact is."""

    kind: Kind
    id: str
    created_utc: str
    counts: dict[str, int]
    detail: dict[str, Any]
    """What is said of the artefact that does not say where anything lies."""
    n_files: int
    size_bytes: int
    """Of all files together."""


class ManifestsAnswer(Record):
    """The artefacts of the release, each made from those before it."""

    release: str
    manifests: tuple[ManifestSummary, ...]


class ManifestAnswer(ManifestSummary):
    """A manifest, but for where its files lie."""

    release: str
    format: int
    identity: dict[str, Any]
    """What decides the content; `id` is the hash of all of it, of which this leaves out places."""
    parents: dict[str, str]
    """Ids of the artefacts that it was made from."""
    versions: dict[str, str]
    durations_s: dict[str, float]


class RejectedFor(Record):
    """Objects that were rejected for one reason."""

    reason: RejectReason
    meaning: str
    n: int
    examples: tuple[str, ...]
    """Ids of some."""


class RejectsAnswer(Record):
    """What was planned and is not in the release, by reason, the most frequent first."""

    release: str
    n_rejected: int
    by_reason: tuple[RejectedFor, ...]
