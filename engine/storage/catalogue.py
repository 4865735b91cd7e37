"""Catalogues in: Parquet, CSV, FITS tables, VOTable and HATS become one Arrow table with the engine's column names.

A column of images is not read: its rows become references to where each image lies.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from hats.catalog.dataset.collection_properties import CollectionProperties
from pyarrow import fs
from upath import UPath

from engine.storage.containers import is_image_type
from engine.storage.references import cells_of
from engine.storage.store import Store, resolve
from engine.storage.table_file import (
    SUFFIXES,
    integers_if_exact,
    kind_of,
    read_csv,
    read_fits,
    read_votable,
    readable_as,
)
from schemas import paths
from schemas.config import CatalogueConfig
from schemas.errors import DataError, InputNotFoundError
from schemas.tables import CUTOUT, DEC, HEALPIX, OBJECT_ID, RA, RESERVED
from schemas.validation import did_you_mean

_PARQUET = tuple(suffix for suffix, kind in SUFFIXES.items() if kind == "parquet")
_FILES_AT_ONCE = 16
"""Reading the few columns beside the images is waiting for the store."""
_ROWS_AT_ONCE = 1 << 17
"""Of text: many fewer than have 2 GiB, which is the most that Arrow holds in one piece."""
_HIVE_COLUMNS = ("Norder", "Dir", "Npix")


def read_catalogue(config: CatalogueConfig) -> pa.Table:
    """Read a whole catalogue.

    Returns
    -------
    pa.Table
        `object_id` (int64 or string, no nulls), `ra_deg` and `dec_deg` (float64), `cutout` (absolute URI or path into
        a container, or reference into this catalogue), then the other columns that are asked for, unchanged, in the
        catalogue's order.

    Raises
    ------
    InputNotFoundError
        Nothing is at the path.
    DataError
        The table cannot be read, is empty, lacks a column, has a position column that is not in degrees, an id
        column that is neither integer nor string or has nulls, or an extra column whose name voorwerp uses itself.
    """
    store = Store(config.path)
    if not store.exists(""):
        raise InputNotFoundError(f"catalogue.path: expected a catalogue, found nothing at {store.uri()}")
    kind = config.format or _detect(store)
    with readable_as(kind, store):
        table, units = _READERS[kind](store, config)
        names = table.column_names
    named = (config.id_column, config.ra_column, config.dec_column, config.cutout_column)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"{store.uri()}: expected columns of different names, found {', '.join(repeated)} repeatedly")
    _check_columns(table, named, config, store)
    if table.num_rows == 0:
        raise DataError(f"{store.uri()}: expected at least one galaxy, found an empty catalogue")
    for column in (config.ra_column, config.dec_column):
        unit = units.get(column, "deg")
        if unit.lower().rstrip(".") not in ("", "deg", "degree", "degrees"):
            raise DataError(f"{store.uri()}: column {column!r}: expected degrees, found the unit {unit!r}")
    root = Store(config.cutout_root).uri() if config.cutout_root else store.uri().rpartition("/")[0]
    columns = {
        OBJECT_ID: _ids(_plain(table[config.id_column]), config.id_column, store),
        RA: _degrees(table[config.ra_column], config.ra_column, store),
        DEC: _degrees(table[config.dec_column], config.dec_column, store),
    }
    cutouts = _plain(table[config.cutout_column])
    if pa.types.is_string(cutouts.type) or pa.types.is_large_string(cutouts.type):
        columns[CUTOUT] = _absolute(cutouts, root)
    else:
        raise DataError(
            f"{store.uri()}: column {config.cutout_column!r}: expected URIs (text), or image bytes in Parquet, "
            f"found {cutouts.type}"
        )
    for name in _wanted(table.column_names, config, store) or table.column_names:
        if name in named or name == HEALPIX or (kind == "hats" and name in _HIVE_COLUMNS):
            continue
        if name in RESERVED:
            raise DataError(f"{store.uri()}: voorwerp uses the column name {name!r} itself; rename it in the catalogue")
        columns[name] = table[name]
    return pa.table(columns)


def _detect(store: Store) -> str:
    if any(store.exists(name) for name in (paths.COLLECTION, "hats.properties", "properties")):
        return "hats"
    if kind := kind_of(store.root):
        return kind
    if _parquet_files(store):
        return "parquet"
    raise DataError(
        f"{store.uri()}: cannot tell the format from the name; "
        f"expected {', '.join(SUFFIXES)}, a folder of Parquet or HATS, or `catalogue.format`"
    )


def _read_parquet(store: Store, config: CatalogueConfig) -> tuple[pa.Table, dict[str, str]]:
    files = _parquet_files(store) or store.full_path()
    dataset = pads.dataset(files, filesystem=store.filesystem, format="parquet")
    wanted = _wanted(dataset.schema.names, config, store)
    if not _holds_images(dataset.schema, config.cutout_column):
        _check_drift(dataset, dataset.schema)
        # That pool gives back to the machine at once what reading takes beside the rows.
        return dataset.to_table(wanted, memory_pool=pa.system_memory_pool()), {}
    if "#" in config.cutout_column:
        raise DataError(
            f"{store.uri()}: column {config.cutout_column!r}: a column of images cannot have a # in its name"
        )
    _check_drift(dataset, dataset.schema.remove(dataset.schema.get_field_index(config.cutout_column)))
    others = [name for name in wanted or dataset.schema.names if name != config.cutout_column]

    def read(file: pads.ParquetFileFragment) -> pa.Table:
        return _with_references(file.to_table(columns=others, schema=dataset.schema), store, file.path, config)

    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        return pa.concat_tables(threads.map(read, dataset.get_fragments())), {}


def _parquet_files(store: Store) -> list[fs.FileInfo]:
    """Find the Parquet files of a folder by their names: a download brings others with it."""
    if store.is_file():
        return []
    return [
        fs.FileInfo(store.full_path(file.path), fs.FileType.File, size=file.size_bytes)
        for file in store.entries()
        if file.path.endswith(_PARQUET) and not any(part.startswith((".", "_")) for part in file.path.split("/"))
    ]


def _check_drift(dataset: pads.FileSystemDataset, expected: pa.Schema) -> None:
    """Refuse files of other columns than the first one's: Arrow would fill in nulls and drop the rest.

    `expected` is the dataset's schema, but for a column of images: each of these says itself what it holds.
    """
    first = dataset.files[0] if dataset.files else ""
    with ThreadPoolExecutor(_FILES_AT_ONCE) as threads:
        fragments = list(dataset.get_fragments())
        schemas = threads.map(lambda fragment: fragment.physical_schema, fragments)
        for fragment, found in zip(fragments, schemas, strict=True):
            if missing := set(expected.names) - set(found.names):
                raise DataError(
                    f"{fragment.path}: expected the columns of {first}, found no {', '.join(sorted(missing))}"
                )
            if more := set(found.names) - set(dataset.schema.names):
                raise DataError(
                    f"{fragment.path}: expected the columns of {first}, found also {', '.join(sorted(more))}"
                )
            for field in expected:
                kind = found.field(field.name).type
                if _family(kind) != _family(field.type) and not pa.types.is_null(kind):
                    raise DataError(
                        f"{fragment.path}: column {field.name!r}: expected {field.type} as in {first}, found {kind}"
                    )


def _family(kind: pa.DataType) -> pa.DataType:
    """Equate types that hold the same values: text however it is stored, bytes likewise."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) else kind


def _holds_images(schema: pa.Schema, column: str) -> bool:
    return len(schema.get_all_field_indices(column)) == 1 and is_image_type(schema.field(column).type)


def _with_references(rows: pa.Table, store: Store, path: str, config: CatalogueConfig) -> pa.Table:
    file = path if store.is_local else f"s3://{path}"
    return rows.append_column(config.cutout_column, cells_of(file, config.cutout_column, len(rows)))


def _read_hats(store: Store, config: CatalogueConfig) -> tuple[pa.Table, dict[str, str]]:
    if store.exists(paths.COLLECTION):
        store = store.below(CollectionProperties.read_from_dir(UPath(store.uri())).hats_primary_table_url)
    return _read_parquet(store.below(paths.DATASET), config)


def _read_csv(store: Store, config: CatalogueConfig) -> tuple[pa.Table, dict[str, str]]:
    return read_csv(store, (config.id_column, config.cutout_column)), {}


_READERS: dict[str, Callable[[Store, CatalogueConfig], tuple[pa.Table, dict[str, str]]]] = {
    "parquet": _read_parquet,
    "hats": _read_hats,
    "csv": _read_csv,
    "fits": lambda store, config: read_fits(store),
    "votable": lambda store, config: read_votable(store),
}


def _wanted(names: list[str], config: CatalogueConfig, store: Store) -> list[str] | None:
    """List the columns to read, of those that there are; None for all."""
    if config.columns is None:
        return None
    named = {config.id_column, config.ra_column, config.dec_column, config.cutout_column}
    if missing := set(config.columns) - set(names):
        raise DataError(
            f"{store.uri()}: catalogue.columns: expected a column {min(missing)!r}, "
            f"found {', '.join(names)}{did_you_mean(min(missing), names, cutoff=0.4)}"
        )
    return [name for name in names if name in named | set(config.columns)]


def _check_columns(table: pa.Table, named: tuple[str, ...], config: CatalogueConfig, store: Store) -> None:
    keys = ("id_column", "ra_column", "dec_column", "cutout_column")
    for key, name in zip(keys, named, strict=True):
        if name not in table.column_names:
            hint = did_you_mean(name, table.column_names, cutoff=0.4)
            raise DataError(
                f"{store.uri()}: catalogue.{key}: expected a column {name!r}, "
                f"found {', '.join(table.column_names)}{hint}"
            )
    if len(set(named)) < len(named):
        raise DataError(f"catalogue: id, RA, Dec and cutout must be four columns, found {', '.join(named)}")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Undo dictionary encoding (pandas categories) and string views."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _ids(column: pa.ChunkedArray, name: str, store: Store) -> pa.ChunkedArray:
    if column.null_count:
        raise DataError(f"{store.uri()}: column {name!r}: expected an id in every row, found {column.null_count} nulls")
    if pa.types.is_integer(column.type):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(f"{store.uri()}: column {name!r}: expected 64-bit signed integers: {error}") from error
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        empty = pc.sum(pc.equal(column, "")).as_py()
        if empty:
            raise DataError(f"{store.uri()}: column {name!r}: expected an id in every row, found {empty} empty ones")
        return integers_if_exact(column.cast(pa.string()))
    raise DataError(f"{store.uri()}: column {name!r}: expected integers or strings, found {column.type}")


def _degrees(column: pa.ChunkedArray, name: str, store: Store) -> pa.ChunkedArray:
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        raise DataError(f"{store.uri()}: column {name!r}: expected degrees as numbers, found {column.type}")
    return column.cast(pa.float64())


def _absolute(column: pa.ChunkedArray, root: str) -> pa.ChunkedArray:
    """Resolve every URI (`engine.storage.store.resolve`); an empty one becomes null."""
    return pa.chunked_array(
        [
            _resolved(chunk.slice(start, _ROWS_AT_ONCE), root)
            for chunk in column.chunks
            for start in range(0, len(chunk), _ROWS_AT_ONCE)
        ],
        pa.string(),
    )


def _resolved(uris: pa.Array, root: str) -> pa.Array:
    uris = uris.cast(pa.string())
    relative = pc.invert(pc.or_(pc.match_substring(uris, "://"), pc.starts_with(uris, "/")))
    if not pc.any(relative).as_py():  # Nor is any empty.
        return uris
    absolute = pc.if_else(relative, pc.binary_join_element_wise(resolve("", root), uris, ""), uris)
    return pc.if_else(pc.equal(uris, ""), pa.scalar(None, pa.string()), absolute)
