"""HATS catalogues out: partition files, and the metadata that makes lsdb and hats open them.

Follows the IVOA note on HATS; the paths come from `schemas.paths`, the metadata files from the hats library.
"""

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.dataset as pads

from engine.storage.store import Store, file_record
from schemas import paths
from schemas.manifest import FileRecord
from schemas.partition import Partition
from schemas.tables import DEC, HEALPIX, RA

_METADATA = ("hats.properties", "properties", "partition_info.csv", "dataset/_metadata", "dataset/_common_metadata")


def write_hats_metadata(store: Store, name: str, partitions: Iterable[Partition], n_rows: int) -> list[FileRecord]:
    """Write the metadata files over partition files that are already there; return their records.

    Parameters
    ----------
    store : Store
        The catalogue's folder.
    name : str
        The catalogue's name in `hats.properties`.
    partitions : iterable of Partition
        Every partition that has a file; at least one.
    n_rows : int
        Rows over all partitions.
    """
    # Imported here: workers, which only read and write partitions, start a second faster.
    from hats.catalog import CatalogType, PartitionInfo, TableProperties
    from hats.io.parquet_metadata import write_parquet_metadata
    from hats.pixel_math import HealpixPixel
    from upath import UPath

    root = UPath(store.uri())
    PartitionInfo.from_healpix([HealpixPixel(*partition) for partition in partitions]).write_to_file(catalog_path=root)
    TableProperties(
        catalog_name=name,
        catalog_type=CatalogType.OBJECT,
        total_rows=n_rows,
        ra_column=RA,
        dec_column=DEC,
        healpix_column=HEALPIX,
        healpix_order=29,
    ).to_properties_file(root)
    write_parquet_metadata(root)
    return [file_record(path, store.read(path)) for path in _METADATA]


def read_columns(store: Store, columns: list[str]) -> pa.Table:
    """Read columns of every partition of a HATS catalogue, in path order."""
    dataset = pads.dataset(store.full_path(paths.DATASET), filesystem=store.filesystem, format="parquet")
    return dataset.to_table(columns=columns)
