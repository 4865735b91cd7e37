"""From events to ratings: what holds of each rater and object after everything that was rated and taken back."""

from collections.abc import Iterable, Mapping
from statistics import fmean

from schemas.campaign import Recorded

Held = dict[tuple[str, str], Recorded]
"""By rater and object id, the rating that holds."""


def held(events: Iterable[Recorded]) -> Held:
    """Derive the ratings that hold from events in order of their sequence.

    Of several ratings of one object by one rater the latest holds; one that was taken back never held, so that the one
    before it does. The result is in the order in which the ratings were given.
    """
    given: dict[tuple[str, str], list[Recorded]] = {}
    for recorded in events:
        event = recorded.event
        ratings = given.setdefault((event.rater, event.object_id), [])
        if event.kind == "rate":
            ratings.append(recorded)
        else:
            given[event.rater, event.object_id] = [one for one in ratings if one.event.request != event.undoes]
    last = {key: ratings[-1] for key, ratings in given.items() if ratings}
    return dict(sorted(last.items(), key=lambda item: item[1].sequence))


def of_rater(ratings: Held, rater: str) -> dict[str, float]:
    """Ratings of one rater, by object id."""
    return {object_id: _value(one) for (name, object_id), one in ratings.items() if name == rater}


def of_others(ratings: Held, rater: str) -> dict[str, float]:
    """Mean rating by everyone else, by object id."""
    return means({key: one for key, one in ratings.items() if key[0] != rater})


def means(ratings: Held) -> dict[str, float]:
    """Mean rating over raters, by object id."""
    found: dict[str, list[float]] = {}
    for (_, object_id), one in ratings.items():
        found.setdefault(object_id, []).append(_value(one))
    return {object_id: fmean(values) for object_id, values in found.items()}


def raters_of(ratings: Held) -> Mapping[str, set[str]]:
    """Who rated each object, by object id."""
    found: dict[str, set[str]] = {}
    for rater, object_id in ratings:
        found.setdefault(object_id, set()).add(rater)
    return found


def _value(recorded: Recorded) -> float:
    assert recorded.event.rating is not None
    return float(recorded.event.rating)
