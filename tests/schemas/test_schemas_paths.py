"""Paths: the layout under an output, as drawn in schemas/paths.py."""

import pytest

from schemas import paths


@pytest.mark.parametrize(("pixel", "folder"), [(0, 0), (9_999, 0), (10_000, 10_000), (44_441, 40_000)])
def test_a_partition_lies_in_the_folder_of_its_ten_thousand_pixels(pixel: int, folder: int) -> None:
    # The IVOA note on HATS: Norder=k/Dir=d/Npix=n with d = floor(n / 10000) * 10000.
    assert paths.partition(6, pixel) == f"dataset/Norder=6/Dir={folder}/Npix={pixel}.parquet"


def test_a_partition_has_the_path_that_hats_gives_it() -> None:
    from hats.io.paths import pixel_catalog_file
    from hats.pixel_math import HealpixPixel

    assert str(pixel_catalog_file("root", HealpixPixel(9, 123_456))).endswith(paths.partition(9, 123_456))


def test_the_manifest_and_the_files_of_an_artefact_share_its_folder() -> None:
    assert paths.manifest("index", "abc") == paths.artefact("index", "abc") + "/manifest.json"


def test_attempts_at_one_unit_never_share_a_file_but_share_the_commit() -> None:
    assert paths.part("3-5-0", "a1") != paths.part("3-5-0", "a2")
    assert paths.commit("e", "3-5-0").startswith(paths.commits("e") + "/")


def test_shards_sort_by_name_as_by_number() -> None:
    names = [paths.shard(number) for number in range(0, 20_000, 137)]
    assert names == sorted(names)
