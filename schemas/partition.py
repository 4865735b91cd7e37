"""Pieces of a catalogue: HATS partitions, and the units of work they are cut into."""

from typing import NamedTuple, Self

from schemas import paths
from schemas.manifest import FileRecord, Record


class Partition(NamedTuple):
    """A HEALPix pixel, nested."""

    order: int
    pixel: int

    @property
    def name(self) -> str:
        """Name of the partition where it is a unit of work."""
        return f"{self.order}-{self.pixel}"

    @classmethod
    def of(cls, name: str) -> Self:
        """Return the partition of a name."""
        return cls(*(int(part) for part in name.split("-")))

    @property
    def path(self) -> str:
        """Path of the partition's file, relative to its catalogue."""
        return paths.partition(self.order, self.pixel)

    @property
    def first_healpix(self) -> int:
        """First pixel at order 29 inside: sorting by it gives the order of the rows."""
        return self.pixel << 2 * (29 - self.order)

    @property
    def end_healpix(self) -> int:
        """The pixel at order 29 after the last one inside."""
        return (self.pixel + 1) << 2 * (29 - self.order)


class PartitionFile(Record):
    """A partition that was written."""

    partition: Partition
    n_rows: int
    file: FileRecord


class Unit(NamedTuple):
    """A unit of work: one row group of one partition of the plan."""

    name: str
    order: int
    pixel: int
    row_group: int
    n_rows: int

    @property
    def partition(self) -> Partition:
        """The partition that the unit is a piece of."""
        return Partition(self.order, self.pixel)
