"""HATS collections: catalogues with their margins and everything that describes them. Starts no cluster.

Partitions are links to the release's where the disk has links, and copied by the store itself on S3.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from engine.compute import margin
from engine.compute.sky import HEALPIX_ORDER
from engine.storage.hats_catalogue import (
    write_coverage,
    write_properties,
    write_sky_map,
    write_statistics,
)
from engine.storage.parquet import read_schema, read_table, write_table
from engine.storage.store import Store
from schemas.partition import Partition, PartitionFile
from schemas.tables import HEALPIX

THREADS = 8
"""Partitions at once: of each, one table is in memory."""
SKY_MAP_ORDER = 7
"""Pixels of 27 arcmin: a map of 1.5 MB."""
COVERAGE_ORDER = 10
"""Pixels of 3.4 arcmin."""


class Catalogue(NamedTuple):
    """A HATS catalogue as it is to be described."""

    name: str
    provenance: Mapping[str, Any]
    default_columns: Sequence[str] | None = None
    """That readers load where they are told nothing; all when None."""


def copy_catalogue(
    source: Store,
    target: Store,
    partitions: Sequence[PartitionFile],
    catalogue: Catalogue,
    advance: Callable[[int], None],
) -> None:
    """Copy partitions that are known by their hashes, and describe them in full.

    Raises
    ------
    IntegrityError
        A partition is missing or changed.
    """

    def take(part: PartitionFile) -> np.ndarray:
        target.take_over(source, part.file)
        return read_table(target, part.file.path, [HEALPIX])[HEALPIX].to_numpy()

    counts, covered = _empty_sky_map(), []
    with ThreadPoolExecutor(THREADS) as threads:
        for part, healpix in zip(partitions, threads.map(take, partitions), strict=True):
            counts += np.bincount(_pixels(healpix, SKY_MAP_ORDER), minlength=len(counts))
            covered.append(np.unique(_pixels(healpix, COVERAGE_ORDER)))
            advance(part.n_rows)
    write_statistics(target)
    write_sky_map(target, counts)
    more = {
        "skymap_order": SKY_MAP_ORDER,
        "moc_sky_fraction": write_coverage(target, np.unique(np.concatenate(covered)), COVERAGE_ORDER),
        "hats_max_rows": max(part.n_rows for part in partitions),
        "hats_estsize": sum(part.file.size_bytes for part in partitions) // 1024,
        "default_columns": catalogue.default_columns,
    }
    n_rows = sum(part.n_rows for part in partitions)
    write_properties(
        target, catalogue.name, [part.partition for part in partitions], n_rows, {**catalogue.provenance, **more}
    )


def write_margin(
    source: Store,
    target: Store,
    partitions: Sequence[Partition],
    radius_arcsec: float,
    catalogue: Catalogue,
    primary: str,
    advance: Callable[[int], None],
) -> int:
    """Write the margin of a catalogue; return its rows.

    Every partition gets the objects within a radius of it, and some beyond. So does sky without objects, because
    another catalogue may have some there. Where there are none at all, nothing is written.

    Parameters
    ----------
    source, target : Store
        Of the catalogue, and of its margin.
    partitions : sequence of Partition
        In order of position.
    """
    order = margin.margin_order(radius_arcsec)
    held = list(partitions)

    def make(part: Partition) -> int:
        pixels = margin.margin_pixels(part, order)
        near = [held[place] for place in margin.overlapping(pixels, order, held) if held[place] != part]
        rows = pa.concat_tables(
            [
                source_schema.empty_table(),
                *(_beside(read_table(source, other.path), part, pixels, order) for other in near),
            ]
        )
        if rows:
            write_table(target, part.path, rows.sort_by(HEALPIX))
        return len(rows)

    source_schema = read_schema(source, held[0].path)
    wanted = margin_partitions(held)
    with ThreadPoolExecutor(THREADS) as threads:
        found = []
        for n_rows in threads.map(make, wanted):
            found.append(n_rows)
            advance(1)
    written = [part for part, n_rows in zip(wanted, found, strict=True) if n_rows]
    if written:
        from hats.catalog import CatalogType

        write_statistics(target)
        more = {
            **catalogue.provenance,
            "catalog_type": CatalogType.MARGIN,
            "primary_catalog": primary,
            "margin_threshold": radius_arcsec,
        }
        write_properties(target, catalogue.name, written, sum(found), more)
    return sum(found)


def _beside(rows: pa.Table, partition: Partition, pixels: np.ndarray, order: int) -> pa.Table:
    return rows.filter(pa.array(margin.in_margin(rows[HEALPIX].to_numpy(), partition, pixels, order)))


def margin_partitions(partitions: Sequence[Partition]) -> list[Partition]:
    """List the partitions that may have a margin: those of a catalogue, and the sky between them."""
    from hats.pixel_math import HealpixPixel
    from hats.pixel_tree.negative_tree import compute_negative_tree_pixels
    from hats.pixel_tree.pixel_tree import PixelTree

    tree = PixelTree.from_healpix([HealpixPixel(*partition) for partition in partitions])
    empty = [Partition(int(pixel.order), int(pixel.pixel)) for pixel in compute_negative_tree_pixels(tree)]
    return [*partitions, *empty]


def _pixels(healpix: np.ndarray, order: int) -> np.ndarray:
    return healpix >> 2 * (HEALPIX_ORDER - order)


def _empty_sky_map() -> np.ndarray:
    return np.zeros(12 * 4**SKY_MAP_ORDER, np.int64)
