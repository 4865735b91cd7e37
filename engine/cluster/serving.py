"""A release as the service asks it, in this process, from several threads at once. Starts no cluster."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property

import numpy as np
import pyarrow as pa

from engine.cluster.answer import Question, effort_for, recall_of, unanswered
from engine.cluster.bulk import Asked, completed, in_order
from engine.cluster.cone import objects_in
from engine.cluster.filters import Filter, filter_for
from engine.cluster.groups import Groups, ShardGroup, knowing
from engine.cluster.opened import OpenRelease
from engine.cluster.pictures import pictures_of
from engine.cluster.resolve import Resolved, places_of_ids, resolve
from engine.cluster.serving_images import SentImages
from engine.cluster.serving_release import ReleaseFacts
from engine.cluster.turns import Turns
from engine.compute.rejects import Reject
from engine.compute.search import Places
from engine.storage.artefacts import partitions_of
from engine.storage.parquet import read_schema
from engine.storage.queries import Queries
from engine.storage.reports import ReportFiles
from schemas.found import Found
from schemas.manifest import Kind, Manifest, Release
from schemas.partition import Partition
from schemas.service import Cone, ImageQuestion, NeighboursQuestion, ReleaseAnswer
from schemas.service_releases import RejectsAnswer
from schemas.tables import COMPONENTS, CUTOUT, DEC, HEALPIX, OBJECT_ID, RA

PICTURES_AT_ONCE, PICTURES_WAITING = 4, 12
"""Cutouts may be large: so few are in memory in full."""
FILTERED_AT_ONCE, FILTERED_WAITING = 2, 14
"""A filter that is new looks at every object, and takes memory for that."""
_SAME_PLACE_ARCSEC = 1e-3


class ReleaseSearcher:
    """An open release as an `engine.service.protocols.Searcher`.

    Parameters
    ----------
    release : OpenRelease
    n_threads : int
        That share the queries of one request.
    """

    def __init__(self, release: OpenRelease, n_threads: int = 1) -> None:
        self._release, self._group = release, ShardGroup(release, range(len(release.shards)), n_threads)
        self._facts, self._images = ReleaseFacts(release), SentImages(release, n_threads)
        self._drawing = Turns("pictures", PICTURES_AT_ONCE, PICTURES_WAITING)
        self._filtering = Turns(
            "questions with a cone, a MOC or a condition", FILTERED_AT_ONCE, FILTERED_WAITING, "filtered"
        )

    def open(self, advance: Callable[[int], None]) -> None:
        """Open and check every shard now, so that no question waits for that; tell of objects as they are opened.

        Raises
        ------
        IntegrityError
            A file is missing or changed.
        """
        for shard in self._release.shards:
            shard.open()
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

    def neighbours(self, question: NeighboursQuestion) -> Found:
        """Answer queries; errors as of the protocol."""
        release = self._release
        effort = None if question.approximate is None else effort_for(release, question.approximate)
        how = Question(question.k, question.exclusion_radius_arcsec, question.include_self, effort)
        passing = filter_for(release.schema, question.cone, question.moc, question.where)
        return self._found(self._resolved(_queries(question), question.match_radius_arcsec), how, passing)

    def similar(self, image: bytes, question: ImageQuestion) -> Found | Reject:
        """Find the neighbours of an image; errors as of the protocol."""
        release = self._release
        effort = None if question.approximate is None else effort_for(release, question.approximate)
        passing = filter_for(release.schema, question.cone, None, question.where)
        vector = self._images.place(image)
        if isinstance(vector, Reject):
            return vector
        asked = Asked(np.arange(1), None, vector[np.newaxis])
        rest = unanswered(np.empty(0, np.int64), [], release.id_type)
        return self._found(Resolved(asked, rest), Question(question.k, effort=effort), passing)

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

    def releases(self) -> list[Release]:
        """Read the records of all finished releases of the output, the newest first."""
        return self._facts.releases()

    def manifests(self) -> dict[Kind, Manifest]:
        """Give the manifests of the release's artefacts, each after those that it was made from."""
        return self._facts.manifests()

    def report(self, release: str) -> ReportFiles | None:
        """Read the newest report card of a release of the output; None where there is none."""
        return self._facts.report(release)

    def rejects(self) -> RejectsAnswer:
        """Count what was rejected, by reason."""
        return self._facts.rejects()

    def footprint(self) -> bytes:
        """Draw where the release has objects, as a MOC in FITS."""
        return self._facts.footprint()

    def picture(self, object_id: str, side: int) -> np.ndarray | Reject:
        """Draw an object's cutout, as `engine.cluster.pictures.pictures_of`; BusyError where many are drawn already."""
        with self._drawing.one():
            return pictures_of(self._release, [object_id], side)[0]

    def _found(self, resolved: Resolved, how: Question, passing: Filter) -> Found:
        release = self._release
        with self._filtering.one() if any(passing) else nullcontext():
            found = self._searched(resolved.asked, how, passing)
        made = completed(found, resolved.asked, release.id_type)
        recall = None if how.effort is None else recall_of(release, how.effort)
        return Found(in_order([made.table, resolved.rest]), recall, len(release.shards), len(release.shards))

    def _resolved(self, queries: Queries, match_radius_arcsec: float) -> Resolved:
        return resolve(self._release, queries, match_radius_arcsec)

    def _searched(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        return self._group.search(asked, how, passing)

    @cached_property
    def _partitions(self) -> list[Partition]:
        return [part.partition for part in partitions_of(self._release.components)]

    @cached_property
    def _columns(self) -> list[str]:
        return read_schema(self._release.components_folder, self._partitions[0].path).names


class GroupedSearcher(ReleaseSearcher):
    """A release whose shards are searched in groups, wherever those are.

    Parameters
    ----------
    release : OpenRelease
        Whose files are read for single objects, cones and cutouts.
    groups : Groups
    """

    def __init__(self, release: OpenRelease, groups: Groups) -> None:
        super().__init__(release)
        self._groups = groups

    def _resolved(self, queries: Queries, match_radius_arcsec: float) -> Resolved:
        known: list[pa.Table] = []

        def find(ids: pa.Array) -> Places:
            places, found = self._groups.find(ids)
            known.append(found)
            return places

        resolved = resolve(self._release, queries, match_radius_arcsec, find)
        return resolved._replace(asked=knowing(resolved.asked, known[0])) if known else resolved

    def _searched(self, asked: Asked, how: Question, passing: Filter) -> pa.Table:
        return self._groups.search(asked, how, passing)


def _queries(question: NeighboursQuestion) -> Queries:
    if question.ids:
        return Queries("id", question.n, ids=pa.array(question.ids, pa.string()))
    if question.positions_deg:
        return Queries("position", question.n, None, *np.array(question.positions_deg, float).T)
    return Queries("vector", question.n, vectors=np.array(question.vectors, np.float32))
