"""What can become of an object from one release to the next: a closed list."""

from enum import StrEnum


class Change(StrEnum):
    """How an object differs from the release before; one that has the same cutout and position has no row."""

    ADDED = "added"
    """Its id is new."""
    CHANGED = "changed"
    """It has another cutout: another place, size or version of the file."""
    MOVED = "moved"
    """The same cutout at another position."""
    DROPPED = "dropped"
    """It is no longer there: a tombstone."""
