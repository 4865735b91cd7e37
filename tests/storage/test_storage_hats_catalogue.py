"""HATS catalogues out: hats calls them valid and finds every row where it belongs."""

import hats
import numpy as np
import pyarrow as pa
from hats.io.validation import is_valid_catalog
from upath import UPath

from engine.compute import sky
from engine.storage.hats_catalogue import read_columns, write_hats_metadata
from engine.storage.parquet import write_table
from engine.storage.store import Store, file_record
from schemas.partition import Partition
from schemas.tables import vector_type


def written(store: Store, n: int = 120, max_rows: int = 15) -> tuple[pa.Table, list[Partition], list]:
    """A catalogue of random positions in adaptive partitions; its rows, partitions and metadata records."""
    generator = np.random.default_rng(0)
    ra, dec = generator.uniform(0, 360, n), np.degrees(np.arcsin(generator.uniform(-1, 1, n)))
    healpix = sky.healpix_29(ra, dec)
    order = np.argsort(healpix)
    vectors = generator.normal(size=(n, 3)).astype(np.float32)
    table = pa.table(
        {
            "_healpix_29": healpix[order],
            "object_id": np.arange(n)[order],
            "ra_deg": ra[order],
            "dec_deg": dec[order],
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 3).cast(vector_type(3)),
        }
    )
    partitions = []
    for part in sky.partition(healpix[order], max_rows):
        partitions.append(Partition(part.order, part.pixel))
        write_table(store, partitions[-1].path, table.slice(part.start, part.stop - part.start))
    return table, partitions, write_hats_metadata(store, "embeddings", partitions, n)


def test_hats_calls_the_catalogue_valid(store: Store) -> None:
    written(store)
    assert is_valid_catalog(UPath(store.uri()), strict=True)


def test_hats_finds_every_row_in_the_partition_of_its_pixel(local_store: Store) -> None:
    table, partitions, _ = written(local_store)
    catalogue = hats.read_hats(local_store.uri())
    assert len(catalogue) == len(table)
    assert {(pixel.order, pixel.pixel) for pixel in catalogue.get_healpix_pixels()} == set(partitions)
    assert catalogue.schema.field("embedding").type == vector_type(3)
    info = catalogue.catalog_info
    assert (info.ra_column, info.dec_column, info.healpix_order) == ("ra_deg", "dec_deg", 29)


def test_a_catalogue_of_one_row_is_valid(local_store: Store) -> None:
    written(local_store, n=1)
    assert is_valid_catalog(UPath(local_store.uri()), strict=True)


def test_every_metadata_file_is_recorded_with_its_hash(store: Store) -> None:
    _, partitions, records = written(store)
    assert {record.path for record in records} | {part.path for part in partitions} == set(store.list())
    assert all(record == file_record(record.path, store.read(record.path)) for record in records)


def test_columns_are_read_back_from_all_partitions(store: Store) -> None:
    table, _, _ = written(store)
    found = read_columns(store, ["object_id", "embedding"]).sort_by("object_id")
    assert found.equals(table.select(["object_id", "embedding"]).sort_by("object_id"))


def test_partitions_sort_by_their_first_pixel_as_their_rows_do(local_store: Store) -> None:
    _, partitions, _ = written(local_store)
    firsts = [part.first_healpix for part in partitions]
    assert firsts == sorted(firsts)
