"""The map of a release that is served: its points, read from one file when they are asked for."""

from functools import cached_property, lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.opened import OpenRelease
from engine.storage.artefacts import parent_of, read_manifest
from engine.storage.local_copy import verified_path
from engine.storage.parquet import read_table
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError
from schemas.manifest import Manifest
from schemas.map import MapDetail
from schemas.service_map import MapAnswer
from schemas.tables import DEC, MAP_X, MAP_Y, OBJECT_ID, RA

_COLUMNS_KEPT = 8
"""Of values, in memory: 4 MB for a million points each."""


class ServedMap:
    """A finished map as an `engine.service.map_protocol.ReleaseMap`.

    Parameters
    ----------
    release : OpenRelease
        That is served.
    manifest : Manifest
        Of a map of it.
    """

    def __init__(self, release: OpenRelease, manifest: Manifest) -> None:
        self._release, self._manifest = release, manifest
        self._detail = MapDetail.model_validate({name: manifest.detail[name] for name in MapDetail.model_fields})
        self._column = lru_cache(_COLUMNS_KEPT)(self._read)

    def open(self) -> None:
        """Read what every look at the map needs.

        Raises
        ------
        IntegrityError
            The points are missing or changed.
        """
        _ = self._positions, self._objects

    def about(self) -> MapAnswer:
        """Say what the map is of."""
        detail, counts = self._detail, self._manifest.counts
        return MapAnswer(
            release=self._release.id,
            map=self._manifest.id,
            created_utc=self._manifest.created_utc,
            n_objects=counts["mapped"],
            n_fitted=counts["fitted"],
            **{name: getattr(detail, name) for name in MapDetail.model_fields},
        )

    def positions(self, start: int, n: int) -> np.ndarray:
        """Read positions of points, (at most n, 2) float32."""
        return self._positions[start : start + n]

    def values(self, column: str, start: int, n: int) -> np.ndarray:
        """Read values of points, (at most n,) float32; DataError where there is no such column of numbers."""
        if column not in {one.name for one in self._detail.columns}:
            raise DataError(f"column: expected a column of numbers that the map has, found {column!r}")
        return self._column(column)[start : start + n]

    def objects(self, rows: np.ndarray) -> pa.Table:
        """Read `object_id`, `ra_deg` and `dec_deg` of points, in the order of rows."""
        return self._objects.take(pa.array(rows))

    @cached_property
    def _place(self) -> tuple[Store, str]:
        """Folder and name of the file of points, after a check of its hash."""
        folder = self._release.store.below(paths.artefact("map", self._manifest.id))
        record = next(file for file in self._manifest.files if file.path == paths.POINTS)
        path = verified_path(folder, record)
        return Store(str(path.parent)), path.name

    @cached_property
    def _positions(self) -> np.ndarray:
        table = read_table(*self._place, [MAP_X, MAP_Y])
        return np.column_stack([table[name].to_numpy() for name in (MAP_X, MAP_Y)])

    @cached_property
    def _objects(self) -> pa.Table:
        return read_table(*self._place, [OBJECT_ID, RA, DEC]).combine_chunks()

    def _read(self, column: str) -> np.ndarray:
        values = read_table(*self._place, [column])[column].cast(pa.float64())
        numbers = pc.fill_null(values, float("nan")).to_numpy()
        with np.errstate(over="ignore"):
            single = numbers.astype(np.float32)
        return np.where(np.isfinite(single), single, np.float32("nan"))


def find_map(release: OpenRelease) -> ServedMap | None:
    """Find the newest map of what a release embedded; None where there is none."""
    store = release.store
    embeddings = parent_of(store, release.components, "embeddings")
    found = []
    for path in store.list("map"):
        map_id, _, rest = path.removeprefix("map/").partition("/")
        if rest == paths.MANIFEST:
            manifest = read_manifest(store, "map", map_id)
            if manifest.parents["embeddings"].id == embeddings.id:
                found.append(manifest)
    newest = max(found, key=lambda one: (one.created_utc, one.id), default=None)
    return None if newest is None else ServedMap(release, newest)
