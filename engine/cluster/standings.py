"""What a campaign has learned so far from all of its raters: the best objects of the whole catalogue.

Starts no cluster: the space may be of this process or of many actors. The order is that of `voorwerp rank`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.cluster.asking import learn_from, place
from engine.cluster.space import Space
from engine.compute.acquisition import Acquisition
from engine.compute.gp import Kernel
from engine.compute.learning import Learned
from schemas.campaign import Campaign, Recorded
from schemas.errors import DataError
from schemas.rating_events import held, means


class Standings(NamedTuple):
    """The best objects, best first."""

    seen: int
    """Sequence of the last event that was looked at; 0 for none."""
    snapshot: int
    """Of the last that was learned from: earlier, where the last ratings can not be learned from."""
    n_ratings: int
    """That were learned from."""
    kernel: Kernel | None
    """The last one that was fitted."""
    stale: bool
    """Whether the last ratings could not be fitted."""
    n_asked: int
    """Objects that were asked for: there may be fewer."""
    ids: list[str]
    mean: np.ndarray
    """(n,) float64."""
    sd: np.ndarray


def stand(
    campaign: Campaign, events: Sequence[Recorded], space: Space, n: int, before: Standings | None = None
) -> Standings:
    """Rank a whole space by the mean of what is expected of ratings, ties in the order of its rows.

    Parameters
    ----------
    events : sequence of Recorded
        All of the campaign.
    n : int
        Objects to name.
    before : Standings or None
        The last ones: where nothing can be fitted to the ratings, their hyper-parameters rank; where nothing can be
        learned from the ratings at all, they stand.

    Raises
    ------
    DataError
        Nothing can be learned from the ratings, and there are no standings before.
    """
    ratings, seen = held(events), events[-1].sequence if events else 0
    placed = place(space, means(ratings), campaign.config.examples)
    if not len(placed.rows):
        return Standings(seen, seen, len(ratings), None, False, n, [], np.empty(0), np.empty(0))
    start = Kernel(campaign.config.kernel)
    try:
        learned: Learned | None = learn_from(space, placed, start)
        assert learned
        if learned.stale and before and before.kernel:
            learned = learn_from(space, placed, before.kernel, refit=False)
            assert learned
            learned = learned._replace(stale=True)
    except np.linalg.LinAlgError as error:
        if before is None or before.n_asked < n:
            raise DataError(f"{campaign.name}: nothing can be learned from its ratings: {error}") from error
        return before._replace(seen=seen, stale=True)
    acquisition = Acquisition("mean")
    candidates = space.candidates(learned.posterior, acquisition, learned.best, np.empty(0, np.int64))
    best = candidates.best(learned.posterior, acquisition, learned.best, n)
    fitted = learned.posterior.kernel if not learned.stale else before and before.kernel
    return Standings(seen, seen, len(ratings), fitted, learned.stale, n, space.ids(best.rows), best.mean, best.sd)
