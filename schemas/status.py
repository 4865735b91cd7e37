"""What `voorwerp status` tells of an output, as JSON."""

from typing import Literal

from schemas.manifest import Lease, Record


class UnitsDone(Record):
    """How far a stage is that works in units."""

    kind: str
    """What it makes: embeddings, packed, map."""
    id: str
    """Of its folder of work."""
    n_units: int | None
    """Null where the plan of the units is not written yet."""
    n_done: int
    n_open: int
    """Attempts that left no commit: lost, or in work now."""
    per_minute: float | None
    """Units in a minute, lately; null where too little is done to tell."""
    minutes_left: float | None
    last_s: float | None
    """Seconds since the last commit, by the store's clock."""


class ArtefactHeld(Record):
    """A finished artefact."""

    kind: str
    id: str
    created_utc: str
    counts: dict[str, int]
    is_current: bool
    """Whether the current release is made of it."""


class ReleaseHeld(Record):
    """A published release."""

    id: str
    created_utc: str
    catalogue: str
    n_objects: int
    """That can be searched."""
    is_current: bool


class Status(Record):
    """An output at one moment."""

    format: Literal[1] = 1
    output: str
    at_utc: str
    lease: Lease | None
    """Of the run that works here, if any."""
    lease_age_s: float | None
    """Since its last sign of life, by the store's clock."""
    is_stale: bool
    """Whether the run died: the next one takes over."""
    units: list[UnitsDone]
    artefacts: list[ArtefactHeld]
    releases: list[ReleaseHeld]
    """The newest first."""
