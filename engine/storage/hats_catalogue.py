"""HATS catalogues out: partition files, and the metadata that makes lsdb and hats open them.

Follows the IVOA note on HATS; the paths come from `schemas.paths`, the metadata files from the hats library. What a run
makes has the metadata that readers need. A collection, made to be handed on, has all of it: where on the sky it is,
statistics, one row of every partition to look at, its margin, and where it comes from.
"""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from engine.storage.parquet import write_table
from engine.storage.store import Store, file_record
from schemas import paths
from schemas.errors import DataError
from schemas.manifest import FileRecord
from schemas.partition import Partition
from schemas.tables import DEC, HEALPIX, OBJECT_ID, RA

if TYPE_CHECKING:  # It takes a second to load: workers, which only read and write partitions, never do.
    from hats.catalog import TableProperties

_METADATA = ("hats.properties", "properties", "partition_info.csv", "dataset/_metadata", "dataset/_common_metadata")
_HEALPIX_ORDER = 29
_DEEPEST_ORDER = 7
_ROWS_PER_PARTITION = 1_000_000
"""Of a table that is in memory: where more share a pixel of the deepest order, the partition is larger."""
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def write_hats_metadata(
    store: Store, name: str, partitions: Iterable[Partition], n_rows: int, provenance: Mapping[str, Any] = _NOTHING
) -> list[FileRecord]:
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
    provenance : mapping
        More properties.
    """
    from hats.io.parquet_metadata import write_parquet_metadata
    from upath import UPath

    write_properties(store, name, partitions, n_rows, provenance)
    write_parquet_metadata(UPath(store.uri()))
    return [file_record(path, store.read(path)) for path in _METADATA]


def write_properties(
    store: Store, name: str, partitions: Iterable[Partition], n_rows: int, more: Mapping[str, Any] = _NOTHING
) -> None:
    """Write what a catalogue is and which partitions it has: of objects, unless `more` makes it something else."""
    from hats.catalog import CatalogType, PartitionInfo
    from hats.pixel_math import HealpixPixel
    from upath import UPath

    root = UPath(store.uri())
    PartitionInfo.from_healpix([HealpixPixel(*partition) for partition in partitions]).write_to_file(catalog_path=root)
    settings = {
        "catalog_name": name,
        "catalog_type": CatalogType.OBJECT,
        "total_rows": n_rows,
        "ra_column": RA,
        "dec_column": DEC,
        "healpix_column": HEALPIX,
        "healpix_order": _HEALPIX_ORDER,
    }
    _table_properties(settings | dict(more)).to_properties_file(root)


def _table_properties(settings: Mapping[str, Any]) -> "TableProperties":
    from hats.catalog import TableProperties

    return TableProperties(**settings)


def write_statistics(store: Store) -> None:
    """Write what all columns hold, partition by partition, one row of each to look at, and the joint footers."""
    from hats.io.parquet_metadata import write_parquet_metadata
    from upath import UPath

    write_parquet_metadata(UPath(store.uri()), create_thumbnail=True, create_per_partition_stats=True)


def write_sky_map(store: Store, counts: np.ndarray) -> None:
    """Write how many objects every HEALPix pixel of an order has, nested: as hats reads it now, and as it did."""
    from hats.io.file_io import write_fits_image
    from hats.io.skymap import write_skymap
    from upath import UPath

    root = UPath(store.uri())
    write_fits_image(counts, root / paths.POINT_MAP)
    write_skymap(counts, root)


def write_coverage(store: Store, pixels: np.ndarray, order: int) -> float:
    """Write the multi-order coverage map (IVOA MOC 2.0) of HEALPix pixels; return the share of the sky that it has."""
    from mocpy import MOC

    moc = MOC.from_healpix_cells(pixels, np.full(len(pixels), order, np.uint8), order)
    data = BytesIO()
    moc.serialize("fits").writeto(data)
    store.write(paths.COVERAGE, data.getvalue())
    return float(moc.sky_fraction)


def write_hats_table(store: Store, name: str, table: pa.Table) -> None:
    """Write a table that is in memory as a HATS catalogue; rows without a position lie beside it.

    Parameters
    ----------
    store : Store
        A new folder.
    table : pa.Table
        With `ra_deg` and `dec_deg`, sorted in any way; an object may have several rows.

    Raises
    ------
    DataError
        No row has a position.
    """
    from hats.catalog import CatalogType
    from hats.pixel_math import compute_spatial_index, generate_alignment

    placed = pc.and_(pc.is_valid(table[RA]), pc.is_valid(table[DEC]))
    rows, rest = table.filter(placed), table.filter(pc.invert(placed))
    if not rows:
        raise DataError(f"{store.uri()}: expected a row with a position for a HATS catalogue, found none")
    healpix = np.asarray(compute_spatial_index(rows[RA].to_numpy(), rows[DEC].to_numpy()), np.int64)
    order = np.argsort(healpix, kind="stable")
    rows = rows.take(pa.array(order)).add_column(0, HEALPIX, pa.array(healpix[order]))
    pixels = healpix[order] >> 2 * (_HEALPIX_ORDER - _DEEPEST_ORDER)
    counts = np.bincount(pixels, minlength=12 * 4**_DEEPEST_ORDER)
    most = max(_ROWS_PER_PARTITION, int(counts.max()))
    found = {
        Partition(int(part[0]), int(part[1]))
        for part in generate_alignment(counts, highest_order=_DEEPEST_ORDER, threshold=most)[np.unique(pixels)]
    }
    for partition in found:
        shift = 2 * (_HEALPIX_ORDER - partition.order)
        start, stop = np.searchsorted(healpix[order], [partition.pixel << shift, (partition.pixel + 1) << shift])
        write_table(store, partition.path, rows.slice(start, stop - start))
    if rest:
        write_table(store, paths.UNPLACED, rest)
    write_hats_metadata(store, name, sorted(found), len(rows), {"catalog_type": CatalogType.SOURCE})


def write_collection(
    store: Store, name: str, primary: str, margins: Sequence[str], extensions: Mapping[str, Sequence[str]]
) -> None:
    """Write what a collection holds, in folders below it: its catalogue, margins, and tables with more columns.

    Parameters
    ----------
    extensions : mapping
        From the folder of a table to the columns that it adds.
    """
    from hats.catalog.dataset.collection_properties import CollectionProperties
    from hats.catalog.dataset.extension_properties import ExtensionProperties
    from upath import UPath

    root = UPath(store.uri())
    for folder, columns in extensions.items():
        ExtensionProperties(
            name=folder,
            primary_catalog=root.name,
            primary_column=OBJECT_ID,
            join_catalog=folder,
            join_column=OBJECT_ID,
            extension_columns=list(columns),
            extension_join_style="left",
            shares_primary_coordinates=True,
        ).to_properties_file(root)
    CollectionProperties(
        name=name,
        hats_primary_table_url=primary,
        all_margins=list(margins) or None,
        default_margin=margins[0] if margins else None,
        all_extensions={folder: f"{folder}.properties" for folder in extensions} or None,
    ).to_properties_file(root)


def read_partitions(store: Store) -> list[Partition]:
    """List the partitions of a HATS catalogue, in order of position.

    Raises
    ------
    FileNotFoundError
        It has no list of them.
    """
    from hats.catalog import PartitionInfo
    from upath import UPath

    pixels = PartitionInfo.read_from_dir(UPath(store.uri())).get_healpix_pixels()
    found = [Partition(int(pixel.order), int(pixel.pixel)) for pixel in pixels]
    return sorted(found, key=lambda part: part.first_healpix)


def read_columns(store: Store, columns: list[str]) -> pa.Table:
    """Read columns of every partition of a HATS catalogue, in path order."""
    dataset = pads.dataset(store.full_path(paths.DATASET), filesystem=store.filesystem, format="parquet")
    return dataset.to_table(columns=columns)
