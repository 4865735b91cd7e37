"""Pieces of a catalogue: partitions and the units they are cut into."""

import pytest

from schemas import paths
from schemas.manifest import FileRecord
from schemas.partition import Partition, PartitionFile, Unit


@pytest.mark.parametrize(("order", "pixel"), [(0, 11), (5, 12_287), (29, 3 << 59)])
def test_the_first_pixel_of_a_partition_lies_inside_it_and_the_one_before_does_not(order: int, pixel: int) -> None:
    first = Partition(order, pixel).first_healpix
    assert [value >> 2 * (29 - order) for value in (first, first - 1)] == [pixel, pixel - 1]


def test_a_partition_knows_its_path_and_a_unit_its_partition() -> None:
    assert Unit("2-5-0", 2, 5, 0, 3).partition == Partition(2, 5)
    assert Partition(2, 5).path == paths.partition(2, 5)


def test_a_record_of_a_partition_survives_json() -> None:
    record = PartitionFile(partition=Partition(2, 5), n_rows=7, file=FileRecord(path="x", size_bytes=1, sha256="0"))
    found = PartitionFile.model_validate_json(record.model_dump_json())
    assert found == record
    assert found.partition.path == record.partition.path
