"""Job: duplicates. Pairs of objects that are close in component space or on the sky, each once, with both measures."""

from collections import Counter
from time import perf_counter
from typing import Any

import numpy as np

from engine.cluster import duplicates, graph
from engine.cluster.counts import counted
from engine.cluster.duplicates import BEYOND_CAP, BOTH, BY_DISTANCE, BY_SKY, CAP, DEFAULT_SHARE, Limits
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.parts import Made
from engine.storage.answers import check_answer_size
from engine.storage.store import Store
from jobs.report import note
from jobs.units import Search, check_output, do_units, finished, publish, search_identity, working
from schemas.config import DuplicatesJob
from schemas.tables import pairs_schema


def run(job: DuplicatesJob) -> Counter[str]:
    """Report the near-duplicates, or go on where an earlier run of the same job stopped; return pairs by criterion.

    Raises
    ------
    ConfigError
        The output's name is of no known kind.
    OutputError
        The output holds the answer to another question.
    BusyError
        Another run works on it.
    """
    check_output(job.output)
    started = perf_counter()
    release = open_release(Store(job.release), job.as_of)
    limits = Limits(_distance(release, job.distance), job.radius_arcsec)
    identity = search_identity(release, cap=CAP, **limits._asdict())
    search = Search("duplicates", identity, job.output, release, job.device, job.ray)
    if answer := finished(search):
        return Counter({name: answer.counts[name] for name in (BY_DISTANCE, BY_SKY, BOTH)})
    in_space, on_sky = graph.runs(release, CAP), duplicates.units_of(release)
    sizes = [graph.n_objects(release, record) for record in in_space] + [record["n_objects"] for record in on_sky]
    device = "cuda" if job.device == "cuda" else None

    def make(opened: OpenRelease, record: dict[str, Any]) -> Made:
        if "at" in record:
            return duplicates.close_on_sky(opened, record, limits)
        return duplicates.close_in_space(opened, record, limits, device)

    with working(search) as held:
        commits = do_units(search, [*in_space, *on_sky], sizes, "objects", make, held)
        counts = counted(commits, 2 * release.n_objects)
        found: Counter[str] = Counter({BY_DISTANCE: 0, BY_SKY: 0, BOTH: 0})
        for commit in commits:
            found.update(commit.counts)
        check_answer_size(job.output, found["rows"])
        publish(search, commits, counts.record | found, pairs_schema(release.id_type), started)
    _summarise(found, limits, job.output)
    return found


def _distance(release: OpenRelease, asked: float | None) -> float:
    if asked is not None:
        return asked
    usual = duplicates.usual_distance(release)
    chosen = float(np.float32(DEFAULT_SHARE * usual))
    note(
        "duplicates",
        f"distance {chosen:.6g}: {DEFAULT_SHARE:g} of {usual:.6g}, the median distance to the nearest neighbour "
        "(--distance sets another)",
    )
    return chosen


def _summarise(found: Counter[str], limits: Limits, output: str) -> None:
    note(
        "duplicates",
        f"{found['rows']:,} pairs in {output}: {found[BY_DISTANCE]:,} within distance {limits.distance:.6g} alone, "
        f"{found[BY_SKY]:,} within {limits.radius_arcsec:g} arcsec alone, {found[BOTH]:,} both",
    )
    if found[BEYOND_CAP]:
        note(
            "duplicates",
            f"{found[BEYOND_CAP]:,} objects have more than {CAP} others within the distance, which are all reported. "
            "Are they one image many times, or is the distance too large?",
        )
