"""A release and its campaigns as the service asks them, in this process. Starts no cluster.

Both may be asked from several threads at once.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property

import numpy as np
import pyarrow as pa

from engine.cluster import campaign as campaigning
from engine.cluster.answer import Question
from engine.cluster.bulk import answer_asked, in_order
from engine.cluster.cone import objects_in
from engine.cluster.filters import Filter
from engine.cluster.opened import OpenRelease
from engine.cluster.pictures import pictures_of
from engine.cluster.resolve import places_of_ids, resolve
from engine.cluster.space import OpenSpace
from engine.compute.rejects import Reject
from engine.storage.artefacts import partitions_of
from engine.storage.campaigns import CampaignStore
from engine.storage.parquet import read_schema
from engine.storage.queries import Queries
from schemas.campaign import Campaign, Recorded
from schemas.errors import BusyError, DataError, InputNotFoundError
from schemas.partition import Partition
from schemas.service import AskedObject, Cone, NeighboursQuestion, NextAnswer, ReleaseAnswer
from schemas.tables import COMPONENTS, CUTOUT, DEC, HEALPIX, OBJECT_ID, RA

PATIENCE_S = 30.0
"""For which a request waits for its turn."""
PICTURES_AT_ONCE, PICTURES_WAITING = 4, 12
"""Cutouts may be large: so few are in memory in full."""
QUESTIONS_AT_ONCE, QUESTIONS_WAITING = 1, 7
"""Of campaigns: each takes every core that there is."""
_SAME_PLACE_ARCSEC = 1e-3


class _Turns:
    """Lets a few in at once and a few more wait, so that those who wait cannot take every thread from others."""

    def __init__(self, what: str, at_once: int, most_waiting: int) -> None:
        self._what = what
        self._turns = threading.BoundedSemaphore(at_once)
        self._room = threading.BoundedSemaphore(at_once + most_waiting)

    @contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a turn, not for ever, and have it for the length of a block; BusyError where that is not to be."""
        if not self._room.acquire(blocking=False):
            raise BusyError(f"too many {self._what} at once; try again")
        try:
            if not self._turns.acquire(timeout=PATIENCE_S):
                raise BusyError(f"too many {self._what} at once; try again")
            try:
                yield
            finally:
                self._turns.release()
        finally:
            self._room.release()


class ReleaseSearcher:
    """An open release as an `engine.service.protocols.Searcher`.

    Parameters
    ----------
    release : OpenRelease
    n_threads : int
        That share the queries of one request.
    """

    def __init__(self, release: OpenRelease, n_threads: int = 1) -> None:
        self._release, self._n_threads = release, n_threads
        self._drawing = _Turns("pictures", PICTURES_AT_ONCE, PICTURES_WAITING)

    def open(self, advance: Callable[[int], None]) -> None:
        """Open and check every shard now, so that no question waits for that; tell of objects as they are opened.

        Raises
        ------
        IntegrityError
            A file is missing or changed.
        """
        for shard in self._release.shards:
            if shard.n_rows:
                _ = shard.boxes
                for name in (OBJECT_ID, RA, DEC, CUTOUT):
                    if name in shard.schema.names:
                        shard.column(name)
            advance(shard.n_rows)

    def about(self) -> ReleaseAnswer:
        """Say what is served."""
        release = self._release
        return ReleaseAnswer(
            release=release.id,
            index=release.index.id,
            index_format=release.index.format,
            index_kind=release.detail.kind,
            components=release.components.id,
            n_objects=release.n_objects,
            dimension=release.detail.dimension,
            id_type="int64" if pa.types.is_integer(release.id_type) else "string",
            n_shards=len(release.shards),
            created_utc=release.index.created_utc,
        )

    def neighbours(self, question: NeighboursQuestion) -> pa.Table:
        """Answer queries, exactly; errors as of `engine.cluster.resolve.resolve`."""
        release, cone = self._release, question.cone
        resolved = resolve(release, _queries(question), question.match_radius_arcsec)
        passing = Filter((cone.ra_deg, cone.dec_deg, cone.radius_arcsec) if cone else None)
        how = Question(question.k, question.exclusion_radius_arcsec, question.include_self)
        made = answer_asked(release, resolved.asked, how, passing.on(release), self._n_threads)
        return in_order([made.table, resolved.rest])

    def cone(self, cone: Cone, everything: bool = False) -> pa.Table:
        """Find the objects of a cone, as `engine.cluster.cone.objects_in`."""
        others = [name for name in self._columns if name not in (OBJECT_ID, RA, DEC, HEALPIX, CUTOUT, COMPONENTS)]
        columns = [OBJECT_ID, RA, DEC, *(others if everything else [])]
        return objects_in(self._release.components_folder, self._partitions, cone, columns)

    def object(self, object_id: str) -> pa.Table:
        """Read one row of the catalogue with its `components`; no row where there is no such object.

        Only its partition is read: the shards would keep every column in memory.
        """
        release = self._release
        columns = [name for name in self._columns if name not in (HEALPIX, CUTOUT)]
        places = places_of_ids(release, pa.array([object_id], pa.string()))
        if places.rows[0] < 0:
            return read_schema(release.components_folder, self._partitions[0].path).empty_table()
        own = release.take(places, [OBJECT_ID, RA, DEC])
        (known,) = own.to_pylist()
        cone = Cone(ra_deg=known[RA], dec_deg=known[DEC], radius_arcsec=_SAME_PLACE_ARCSEC)
        found = objects_in(release.components_folder, self._partitions, cone, columns)
        return found.filter(pa.array([one == known[OBJECT_ID] for one in found[OBJECT_ID].to_pylist()]))

    def picture(self, object_id: str, side: int) -> np.ndarray | Reject:
        """Draw an object's cutout, as `engine.cluster.pictures.pictures_of`; BusyError where many are drawn already."""
        with self._drawing.one():
            return pictures_of(self._release, [object_id], side)[0]

    @cached_property
    def _partitions(self) -> list[Partition]:
        return [part.partition for part in partitions_of(self._release.components)]

    @cached_property
    def _columns(self) -> list[str]:
        return read_schema(self._release.components_folder, self._partitions[0].path).names


class ServedCampaigns:
    """Campaigns on one output as `engine.service.protocols.Campaigns`; those on others are not there.

    A space is read when it is first asked about, and stays; one rater is asked at a time.

    Parameters
    ----------
    store : CampaignStore
    release : str
        Output of the release, as campaigns name it.
    threads : int
        Where objects are scored.
    opened : OpenRelease or None
        The release that is served: ids of campaigns on it are looked for there, without opening it again.
    """

    def __init__(self, store: CampaignStore, release: str, threads: int = 1, opened: OpenRelease | None = None) -> None:
        self._store, self._release, self._threads, self._opened = store, release, threads, opened
        self._asking = _Turns("questions", QUESTIONS_AT_ONCE, QUESTIONS_WAITING)
        self._spaces: dict[str, OpenSpace] = {}

    def all(self) -> list[Campaign]:
        """Read them, in order of name."""
        found = (self._store.campaign(name) for name in self._store.names())
        return [one for one in found if one.release == self._release]

    def campaign(self, name: str) -> Campaign:
        """Read one; InputNotFoundError where there is none on this output."""
        found = self._store.campaign(name)
        if found.release != self._release:
            raise InputNotFoundError(f"{name}: expected a campaign on {self._release}, found one on {found.release}")
        return found

    def next(self, name: str, rater: str, n: int | None) -> NextAnswer:
        """Ask a rater, as `engine.cluster.campaign.next_batch`; BusyError also where others are asked for long."""
        campaign = self.campaign(name)
        with self._asking.one():
            if campaign.components not in self._spaces:
                space = campaigning.open_campaign_space(campaign, self._threads, lambda n_rows: None)
                self._spaces[campaign.components] = space
            batch = campaigning.next_batch(self._store, campaign, rater, self._spaces[campaign.components], n)
        asked = tuple(AskedObject(**one.model_dump()) for one in batch.asked)
        return NextAnswer(campaign=name, rater=rater, ranking=batch.ranking, asked=asked)

    def rate(self, name: str, rater: str, ratings: Sequence[tuple[str, int]], request: str) -> list[Recorded]:
        """Record ratings, as `engine.cluster.campaign.rate`."""
        campaign = self.campaign(name)
        opened = self._opened if self._opened and self._opened.id == campaign.release_id else None
        try:
            return campaigning.rate(self._store, campaign, rater, ratings, request, opened)
        except DataError as error:  # Where the release lies is not for those who ask.
            raise DataError(str(error).replace(campaign.release, "the release")) from error

    def undo(self, name: str, rater: str, request: str) -> Recorded:
        """Take back the rater's last rating that holds, once for each request; errors as of the protocol."""
        return campaigning.undo(self._store, self.campaign(name), rater, request)

    def ratings(self, name: str, rater: str | None) -> pa.Table:
        """Read the ratings that hold, as `engine.cluster.campaign.ratings_table`."""
        return campaigning.ratings_table(self._store, self.campaign(name), rater)


def _queries(question: NeighboursQuestion) -> Queries:
    if question.ids:
        return Queries("id", question.n, ids=pa.array(question.ids, pa.string()))
    if question.positions_deg:
        return Queries("position", question.n, None, *np.array(question.positions_deg, float).T)
    return Queries("vector", question.n, vectors=np.array(question.vectors, np.float32))
