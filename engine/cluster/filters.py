"""Which objects may be answers: the filters of a search as a mask per shard, made once per process."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from engine.cluster.opened import OpenRelease, OpenShard
from engine.compute.predicate import Predicate
from engine.compute.sky import in_cone, in_moc
from schemas.config import FilterConfig
from schemas.service import Cone
from schemas.tables import CUTOUT, DEC, HEALPIX, RA

FILTERS_KEPT = 8
"""Whose masks stay, a byte for each object, so that who asks again with one of them does not wait for it again."""


class Filter(NamedTuple):
    """The filters of a search, complete in themselves: workers need no file besides."""

    cone: tuple[float, float, float] | None = None
    moc: str | None = None
    """Its cells as text."""
    where: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the answer."""
        return self._asdict()

    def on(self, release: OpenRelease) -> Callable[[int], np.ndarray] | None:
        """Return what gives the mask of a shard, (n,) bool of its rows; None where every object may be an answer."""
        return _masks(release, self) if any(self) else None


def open_filter(release: OpenRelease, config: FilterConfig) -> Filter:
    """Read and check the filters of a search.

    Raises
    ------
    ConfigError
        The condition is none, or asks for columns that the catalogue does not have or cannot compare so.
    InputNotFoundError, DataError
        The MOC is missing, or is none.
    """
    _check(config.where, release.schema)
    moc = None
    if config.moc:
        from engine.storage.coverage import read_moc  # Its library takes a third of a second to load.

        moc = read_moc(config.moc).to_string()
    return Filter(config.cone, moc, config.where)


def filter_for(schema: pa.Schema, cone: Cone | None, moc: str | None, where: str | None) -> Filter:
    """Check the filters of somebody who is not told where cutouts lie, so that no condition can be about that either.

    Parameters
    ----------
    schema : pa.Schema
        Columns of the release's objects.
    cone : Cone or None
    moc : str or None
        As text or JSON.
    where : str or None

    Raises
    ------
    ConfigError
        The condition is none, or asks for columns that are not there or cannot be compared so.
    DataError
        The MOC is none.
    """
    _check(where, pa.schema([field for field in schema if field.name not in (CUTOUT, HEALPIX)]))
    circle = (cone.ra_deg, cone.dec_deg, cone.radius_arcsec) if cone else None
    if moc is None:
        return Filter(circle, None, where)
    from engine.storage.coverage import parse_moc

    return Filter(circle, parse_moc(moc).to_string(), where)


def _check(where: str | None, schema: pa.Schema) -> None:
    if where:
        Predicate(where).mask(schema.empty_table())


@lru_cache(maxsize=FILTERS_KEPT)
def _masks(release: OpenRelease, passing: Filter) -> Callable[[int], np.ndarray]:
    return lru_cache(maxsize=None)(lambda number: _mask(release.shards[number], passing))


def _mask(shard: OpenShard, passing: Filter) -> np.ndarray:
    cone, moc, where = passing
    good = np.ones(shard.n_rows, bool)
    if cone or moc:
        ra_deg, dec_deg = (shard.column(name).to_numpy() for name in (RA, DEC))
        if cone:
            good &= in_cone(ra_deg, dec_deg, *cone)
        if moc:
            from mocpy import MOC

            good &= in_moc(MOC.from_string(moc), ra_deg, dec_deg)
    if where:
        predicate = Predicate(where)
        good &= predicate.mask(shard.read(predicate.columns)).to_numpy(zero_copy_only=False)
    return good
