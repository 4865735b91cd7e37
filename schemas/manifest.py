"""Records of what was made: identities, manifests, commit records and the release that `current` points to."""

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Format = Literal[2]
FORMAT: Format = 2
"""Version of everything written under an output folder. A reader refuses any other."""

Kind = Literal[
    "encoder",
    "plan",
    "changes",
    "packed",
    "embeddings",
    "moments",
    "components",
    "index",
    "predictions",
    "ellipse",
    "map",
    "report",
]


class Record(BaseModel):
    """A closed JSON record."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(Record):
    """One file of an artefact."""

    path: str
    """Relative to the artefact's folder."""
    size_bytes: int
    sha256: str


class Parent(Record):
    """The artefact that another was made from."""

    id: str
    manifest_sha256: str


class Claim(Record):
    """Which identity of a kind an output belongs to. Created once, before anything of that kind is made."""

    format: Format
    """Without a default: claims of format 1 do not say so."""
    identity: dict[str, Any]


class Manifest(Record):
    """What an artefact is, what it was made from and every file it has. Written last: no manifest, no artefact."""

    format: Format = FORMAT
    kind: Kind
    id: str
    identity: dict[str, Any]
    """The settings and parents that decide the content; `id` is their hash."""
    parents: dict[str, Parent] = {}
    counts: dict[str, int]
    detail: dict[str, Any] = {}
    """Results that a reader needs and that are no counts: digests, dimensions, explained variance."""
    files: list[FileRecord]
    versions: dict[str, str]
    durations_s: dict[str, float]
    created_utc: str


class Lease(Record):
    """Which run works on an output now. Renewed while it works; one that is not renewed may be taken over."""

    format: Format = FORMAT
    holder: str
    """Random; names this run."""
    host: str
    pid: int
    command: str
    since_utc: str
    lifetime_s: float
    renewals: int = 0


class Commit(Record):
    """One unit of work done: created once, never changed. The unit's rows are read through this record only."""

    format: Format = FORMAT
    unit: str
    attempt: int
    """Which attempt at the unit this was, from 1; earlier ones were lost."""
    n_planned: int
    n_ok: int
    rejected: dict[str, int]
    ok_digest: str
    rejected_digest: str
    files: list[FileRecord]
    """The unit's rows, then its rejects if it has any. Paths are relative to the work folder; the rows of a packed
    partition and of an answer, which lie where they stay, to the artefact's and to the answer's."""
    durations_s: dict[str, float]
    runtime: str = ""
    """That encoded the rows; empty where nothing was encoded."""
    counts: dict[str, int] = {}
    """What else was counted."""


class Answer(Record):
    """What a folder of an answer holds. Written last: without it the answer is unfinished."""

    format: Literal[1] = 1
    kind: Literal["neighbours", "graph", "duplicates"]
    id: str
    """Hash of the identity."""
    identity: dict[str, Any]
    """The release and index that were asked, the question, and the hash of the queries."""
    counts: dict[str, int]
    """What was planned, how much of it was answered or why not, and rows."""
    files: list[FileRecord]
    """The parts, in order."""
    versions: dict[str, str]
    durations_s: dict[str, float]
    created_utc: str


class Release(Record):
    """The manifest of a whole run: its chain of artefacts by the hashes of their manifests, and a summary."""

    format: Format = FORMAT
    id: str
    artefacts: dict[str, Parent]
    catalogue: str
    architecture: str
    weights: str
    weights_sha256: str
    preset: str
    preset_sha256: str
    counts: dict[str, int]
    durations_s: dict[str, float]
    versions: dict[str, str]
    created_utc: str


class Current(Record):
    """The pointer that readers follow."""

    format: Format = FORMAT
    release: str
    sha256: str


def canonical(value: Any) -> bytes:
    """Encode a JSON value so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def content_id(value: Any) -> str:
    """Name a JSON value by its content: 16 hex digits of SHA-256."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]


def identity_id(kind: Kind, identity: dict[str, Any]) -> str:
    """Name an artefact by what decides its content."""
    return content_id({"format": FORMAT, "kind": kind, "identity": identity})
