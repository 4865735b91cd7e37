"""A space spread over a cluster: actors hold its partitions in memory, get a small posterior, return their best."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from engine.cluster.campaign import components_of_campaign
from engine.cluster.session import LOST, causes
from engine.cluster.space import OpenSpace, open_space, read_part
from engine.cluster.stream import stream
from engine.compute.acquisition import Acquisition, value_of
from engine.compute.gp import Posterior
from engine.compute.ranking import Best, Candidates, merge, score_all
from engine.storage.artefacts import decode, encode
from engine.storage.parquet import as_matrix, write_table
from engine.storage.store import Store
from schemas.campaign import Campaign
from schemas.errors import WorkersLostError
from schemas.partition import PartitionFile
from schemas.tables import (
    ACQUISITION,
    COMPONENTS,
    MEAN,
    NEAREST_DISTANCE,
    NEAREST_RATED,
    OBJECT_ID,
    POSITION,
    RANK,
    RATING,
    SD,
)

_SEARCHES_KEPT = 8
"""Of each actor: several people may ask at once."""
_CPUS = 0.1
"""As Ray counts: an actor works only while somebody asks."""


class SharedSpace:
    """A space whose rows are held by actors; answers are those of one process that holds all.

    Parameters
    ----------
    folder : Store
        Of the components.
    partitions : sequence of PartitionFile
    workers : int
        Actors, at most one per partition.
    threads, device
        Of each actor.
    advance : callable or None
        Told of objects as they are read.

    Raises
    ------
    IntegrityError
        A file is missing, or not the one that its record names.
    WorkersLostError
        Of every method as well: an actor is lost, and the space with it.
    """

    def __init__(
        self,
        folder: Store,
        partitions: Sequence[PartitionFile],
        workers: int,
        threads: int = 1,
        device: str = "cpu",
        advance: Callable[[int], None] | None = None,
    ) -> None:
        shares = share(partitions, workers)
        sizes = [sum(part.n_rows for part in share) for share in shares]
        self.n = sum(sizes)
        self._starts = np.cumsum([0, *sizes])
        holder = ray.remote(num_cpus=_CPUS, num_gpus=int(device == "cuda"), scheduling_strategy="SPREAD")(_Holder)
        self._holders: list[Any] = [
            holder.remote(folder, share, threads, device, int(start))
            for share, start in zip(shares, self._starts[:-1], strict=True)
        ]
        with _all_there():
            for size in ray.get([one.n.remote() for one in self._holders]):
                if advance:
                    advance(size)
        self._searches = count()

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of ids, (m,) int64; -1 for those that are not here."""
        return np.max([*self._every("find", list(ids)), np.full(len(ids), -1)], axis=0)

    def ids(self, rows: np.ndarray) -> list[str]:
        """Ids of rows, as text."""
        return list(self._taken("ids", rows, np.empty(len(rows), object)))

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """Vectors of rows, (m, d) float64."""
        with _all_there():
            dimension = ray.get(self._holders[0].dimension.remote())
        return self._taken("vectors", rows, np.empty((len(rows), dimension)))

    def candidates(
        self, posterior: Posterior, acquisition: Acquisition, best_rating: float, excluded: np.ndarray
    ) -> "SharedCandidates":
        """Candidates by the bounds of a posterior, without some rows."""
        search = next(self._searches)
        owners = np.searchsorted(self._starts, excluded, side="right") - 1
        given = ray.put((posterior, acquisition, best_rating))
        begun = [
            one.begin.remote(search, given, excluded[owners == number]) for number, one in enumerate(self._holders)
        ]
        with _all_there():
            ray.get(begun)
        return SharedCandidates(self._holders, search)

    def close(self) -> None:
        """Let go of the actors."""
        for one in self._holders:
            ray.kill(one)

    def _every(self, method: str, *arguments: Any) -> list[Any]:
        with _all_there():
            return list(ray.get([getattr(one, method).remote(*arguments) for one in self._holders]))

    def _taken(self, method: str, rows: np.ndarray, out: np.ndarray) -> np.ndarray:
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        asked = {
            number: getattr(self._holders[number], method).remote(rows[owners == number]) for number in set(owners)
        }
        with _all_there():
            for number, values in asked.items():
                out[owners == number] = ray.get(values)
        return out


class SharedCandidates:
    """Candidates that actors hold."""

    def __init__(self, holders: Sequence[Any], search: int) -> None:
        self._holders, self._search = holders, search

    @property
    def least_alike(self) -> float:
        """As of `engine.compute.ranking.Candidates.least_alike`."""
        with _all_there():
            return min(ray.get([one.least_alike.remote(self._search) for one in self._holders]))

    def best(self, posterior: Posterior, acquisition: Acquisition, best_rating: float, k: int) -> Best:
        """Merge the best of every actor; as of `engine.compute.ranking.Candidates.best`."""
        given = ray.put((posterior, acquisition, best_rating))
        with _all_there():
            return merge(ray.get([one.best.remote(self._search, given, k) for one in self._holders]), k)


def share_campaign_space(campaign: Campaign, workers: int, threads: int) -> SharedSpace:
    """Spread the components of a campaign over actors; errors as of `components_of_campaign` and `SharedSpace`."""
    return SharedSpace(*components_of_campaign(campaign), workers, threads)


@contextmanager
def _all_there() -> Iterator[None]:
    """Raise WorkersLostError where an actor is lost, and else what it raised."""
    try:
        with causes():
            yield
    except LOST as error:
        raise WorkersLostError("a process that holds a part of the space was lost") from error


def share(partitions: Sequence[PartitionFile], workers: int) -> list[list[PartitionFile]]:
    """Cut partitions into consecutive shares of about as many rows, none empty."""
    ends = np.cumsum([part.n_rows for part in partitions])
    numbers = (ends - 1) * workers // ends[-1]
    return [
        [part for part, number in zip(partitions, numbers, strict=True) if number == wanted]
        for wanted in np.unique(numbers)
    ]


class _Holder:
    """An actor: some partitions."""

    def __init__(
        self, folder: Store, partitions: Sequence[PartitionFile], threads: int, device: str, first_row: int
    ) -> None:
        self._space: OpenSpace = open_space(folder, partitions, threads, device, first_row)
        self._dimension = self._space.vectors(np.array([first_row])).shape[1]
        self._searches: dict[int, Candidates] = {}

    def n(self) -> int:
        return self._space.n

    def dimension(self) -> int:
        return self._dimension

    def find(self, ids: list[str]) -> np.ndarray:
        return self._space.find(ids)

    def ids(self, rows: np.ndarray) -> list[str]:
        return self._space.ids(rows)

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        return self._space.vectors(rows)

    def begin(self, search: int, given: tuple[Posterior, Acquisition, float], excluded: np.ndarray) -> None:
        self._searches[search] = self._space.candidates(*given, excluded)
        while len(self._searches) > _SEARCHES_KEPT:
            del self._searches[next(iter(self._searches))]

    def least_alike(self, search: int) -> float:
        return self._searches[search].least_alike

    def best(self, search: int, given: tuple[Posterior, Acquisition, float], k: int) -> Best:
        return self._searches[search].best(*given, k)


def components_of(
    folder: Store, partitions: Sequence[PartitionFile], ids: pa.Array, advance: Callable[[int], None]
) -> tuple[pa.Array, np.ndarray]:
    """Read the components of objects by their ids, those that are there: ids, and (n, d) float64, in order of id."""

    def run(record: dict[str, Any]) -> dict[str, Any]:
        table = read_part(folder, decode(PartitionFile, record["part"], "partition record"))
        found = table.filter(pc.is_in(table[OBJECT_ID], value_set=ids))
        return {"ids": found[OBJECT_ID].to_pylist(), "vectors": as_matrix(found[COMPONENTS]), "n": len(table)}

    found_ids: list[Any] = []
    vectors: list[np.ndarray] = []
    for record in stream(_records(partitions), {"fn": run}):
        found_ids += list(record["ids"])
        vectors.append(record["vectors"])
        advance(record["n"])
    order = sorted(range(len(found_ids)), key=found_ids.__getitem__)
    return pa.array([found_ids[at] for at in order], ids.type), np.concatenate(vectors)[order].astype(float)


class Ranked(NamedTuple):
    """What every partition is scored by."""

    posterior: Posterior
    acquisition: Acquisition
    best_rating: float
    rated_ids: pa.Array
    """(n,) of the posterior's points, of the catalogue's type."""
    ratings: np.ndarray
    """(n,) float64."""


def means_by_part(
    folder: Store, partitions: Sequence[PartitionFile], posterior: Posterior, advance: Callable[[int], None]
) -> np.ndarray:
    """Score the means of all objects, (n,) float64, in the order of the partitions' rows."""
    shared = ray.put(posterior)

    def run(record: dict[str, Any]) -> dict[str, Any]:
        part = decode(PartitionFile, record["part"], "partition record")
        vectors = as_matrix(read_part(folder, part, [COMPONENTS])[COMPONENTS])
        return {"number": record["number"], "mean": score_all(ray.get(shared), vectors).mean}

    found: list[np.ndarray] = [np.empty(0)] * len(partitions)
    for record in stream(_records(partitions), {"fn": run}):
        found[record["number"]] = record["mean"]
        advance(len(record["mean"]))
    return np.concatenate(found)


def write_ranked(
    folder: Store,
    target: Store,
    partitions: Sequence[PartitionFile],
    ranked: Ranked,
    ranks: np.ndarray,
    advance: Callable[[int], None],
) -> list[PartitionFile]:
    """Write what is known of every object, a partition at a time, beside its id and position.

    Parameters
    ----------
    ranks : (n,) int64 array
        In the order of the partitions' rows.
    """
    shared = ray.put(ranked)
    ends = np.cumsum([part.n_rows for part in partitions])

    def run(record: dict[str, Any]) -> dict[str, Any]:
        part = decode(PartitionFile, record["part"], "partition record")
        written = _write_part(folder, target, part, ray.get(shared), record["ranks"], record["first_row"])
        return {"part": encode(written)}

    records = [
        {**record, "ranks": ranks[end - part.n_rows : end], "first_row": end - part.n_rows}
        for record, part, end in zip(_records(partitions), partitions, ends, strict=True)
    ]
    written = []
    for record in stream(records, {"fn": run}):
        written.append(decode(PartitionFile, record["part"], "partition record"))
        advance(written[-1].n_rows)
    return sorted(written, key=lambda part: part.partition.first_healpix)


def _write_part(
    folder: Store, target: Store, part: PartitionFile, ranked: Ranked, ranks: np.ndarray, first_row: int
) -> PartitionFile:
    table = read_part(folder, part, [*POSITION, COMPONENTS])
    scored = score_all(ranked.posterior, as_matrix(table[COMPONENTS]))
    rows = np.arange(first_row, first_row + part.n_rows)
    value = value_of(ranked.acquisition, ranked.best_rating).value(scored.mean, scored.sd, rows)
    places = pc.index_in(table[OBJECT_ID], value_set=ranked.rated_ids)
    columns = {name: table[name] for name in POSITION} | {
        RANK: ranks,
        MEAN: scored.mean,
        SD: scored.sd,
        ACQUISITION: value,
        RATING: pa.array(ranked.ratings).take(places),
        NEAREST_RATED: ranked.rated_ids.take(pa.array(scored.nearest)),
        NEAREST_DISTANCE: scored.distance,
    }
    file = write_table(target, part.partition.path, pa.table(columns))
    return PartitionFile(partition=part.partition, n_rows=part.n_rows, file=file)


def _records(partitions: Sequence[PartitionFile]) -> list[dict[str, Any]]:
    return [{"part": encode(part), "number": number} for number, part in enumerate(partitions)]
