"""Which objects of a space to ask a person about, and what is known from what was rated."""

import hashlib
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import NamedTuple

import numpy as np

from engine.cluster.metrics import record
from engine.cluster.space import Space
from engine.compute.acquisition import Acquisition, value_of
from engine.compute.batches import SPREAD_SAMPLE, choose_batch, is_any_like_another, spread
from engine.compute.gp import Kernel, Posterior, condition, mean_and_sd
from engine.compute.learning import Learned, learn
from schemas.campaign import HIGHEST, FirstKind, RankingConfig
from schemas.metrics import FIT_SECONDS

_REHEARSED = 10
"""Ratings, as many as a first batch has."""


class Placed(NamedTuple):
    """Ratings of objects of a space."""

    ids: list[str]
    rows: np.ndarray
    """(n,) int64."""
    ratings: np.ndarray
    """(n,) float64."""
    unknown: list[str]
    """Ids that the space does not have."""


class Question(NamedTuple):
    """Objects to ask about, in order, and what is expected of them: NaN where nothing is known yet."""

    rows: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    value: np.ndarray


def place(space: Space, ratings: Mapping[str, float], examples: Sequence[str] = ()) -> Placed:
    """Find rated objects, and examples, which are rated as high as can be unless they have a rating."""
    given = dict.fromkeys(examples, float(HIGHEST)) | dict(ratings)
    ids, values = list(given), np.array(list(given.values()), float)
    rows = space.find(ids)
    known = rows >= 0
    return Placed(
        [object_id for object_id, here in zip(ids, known, strict=True) if here],
        rows[known],
        values[known],
        [object_id for object_id, here in zip(ids, known, strict=True) if not here],
    )


def learn_from(
    space: Space, placed: Placed, start: Kernel, prior: Posterior | None = None, refit: bool = True
) -> Learned | None:
    """Learn from ratings, by hyper-parameters fitted from a start or those of it; None where there are none."""
    if not len(placed.rows):
        return None
    points = space.vectors(placed.rows)
    if refit:
        started = perf_counter()
        learned = learn(points, placed.ratings, start, prior)
        record(FIT_SECONDS, perf_counter() - started)
        return learned
    return Learned(condition(start, points, placed.ratings, prior), placed.ratings, None, stale=False)


def ask(
    space: Space, learned: Learned | None, config: RankingConfig, excluded: np.ndarray, n: int, seed: int
) -> Question:
    """Choose up to n objects to ask about, none of which is excluded (rows, each once).

    Where ratings tell no object from another, as if nothing were known; not so in batches as the paper has them.
    """
    if learned is None:
        rows = first_batch(space, config.first, excluded, n, seed)
        return Question(rows, *np.full((3, len(rows)), np.nan))
    acquisition = acquisition_of(config, seed)
    candidates = space.candidates(learned.posterior, acquisition, learned.best, excluded)
    if config.batch_kind == "believer" and is_any_like_another(learned, candidates):
        rows = first_batch(space, config.first, excluded, n, seed)
        mean, sd = mean_and_sd(learned.posterior, space.vectors(rows))
        return Question(rows, mean, sd, value_of(acquisition, learned.best).value(mean, sd, rows))
    return Question(*choose_batch(learned, candidates, n, acquisition, config.batch_kind)[:4])


def first_batch(space: Space, kind: FirstKind, excluded: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Choose rows when nothing is known: random ones, or far from each other in a sample."""
    wanted = n if kind == "random" else max(n, SPREAD_SAMPLE)
    drawn = np.random.default_rng(seed).choice(space.n, min(wanted + len(excluded), space.n), replace=False)
    rows = drawn[~np.isin(drawn, excluded)][:wanted]
    if kind == "random" or not len(rows):
        return rows
    rows = np.sort(rows)
    return rows[spread(space.vectors(rows).astype(np.float32), n, seed)]


def rehearse(space: Space, config: RankingConfig) -> None:
    """Ask once about made-up ratings: what libraries make at their first use is then there when a person waits."""
    rows = first_batch(space, "random", np.empty(0, int), _REHEARSED, config.seed)
    ratings = {object_id: float(number % 2) for number, object_id in enumerate(space.ids(rows))}
    placed = place(space, ratings)
    learned = learn(space.vectors(placed.rows), placed.ratings, Kernel(config.kernel))  # Not a fit to be counted.
    ask(space, learned, config, placed.rows, 1, config.seed)


def acquisition_of(config: RankingConfig, seed: int) -> Acquisition:
    """Say how objects are valued."""
    return Acquisition(config.acquisition, config.epsilon, config.kappa, seed)


def seed_of(seed: int, rater: str, snapshot: int) -> int:
    """Derive the seed of one batch: raters are asked different things, and the same again only of the same state."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{rater}/{snapshot}".encode()).digest()[:6], "big")
