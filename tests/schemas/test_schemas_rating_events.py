from statistics import fmean

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from pydantic import ValidationError

from schemas.campaign import RatingEvent, Recorded
from schemas.rating_events import held, means, of_others, of_rater, raters_of

RATERS, IDS = ("ann", "bob"), ("1", "2", "3")


def rated(sequence: int, rater: str, object_id: str, rating: int) -> Recorded:
    event = RatingEvent(request=f"r{sequence}", rater=rater, object_id=object_id, rating=rating, at_utc="2026")
    return Recorded(sequence=sequence, event=event)


def undone(sequence: int, rater: str, object_id: str, undoes: str) -> Recorded:
    event = RatingEvent(
        request=f"r{sequence}", rater=rater, object_id=object_id, kind="undo", undoes=undoes, at_utc="2026"
    )
    return Recorded(sequence=sequence, event=event)


class Campaign(RuleBasedStateMachine):
    """Raters rate and take back; beside the events, a stack of (request, rating) per rater and object."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Recorded] = []
        self.model: dict[tuple[str, str], list[tuple[str, int]]] = {}

    @rule(rater=st.sampled_from(RATERS), object_id=st.sampled_from(IDS), rating=st.integers(0, 5))
    def rate(self, rater: str, object_id: str, rating: int) -> None:
        self.events.append(rated(len(self.events) + 1, rater, object_id, rating))
        self.model.setdefault((rater, object_id), []).append((self.events[-1].event.request, rating))

    @precondition(lambda self: any(self.model.values()))
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        rater, object_id = data.draw(st.sampled_from([key for key, stack in self.model.items() if stack]))
        stack = self.model[rater, object_id]
        request, _ = stack.pop(data.draw(st.integers(0, len(stack) - 1)))
        self.events.append(undone(len(self.events) + 1, rater, object_id, request))

    @invariant()
    def what_holds_is_the_last_that_was_not_taken_back(self) -> None:
        expected = {key: stack[-1] for key, stack in self.model.items() if stack}
        found = held(self.events)
        assert {key: (one.event.request, one.event.rating) for key, one in found.items()} == expected
        assert [one.sequence for one in found.values()] == sorted(one.sequence for one in found.values())
        for rater in RATERS:
            mine = {object_id: rating for (name, object_id), (_, rating) in expected.items() if name == rater}
            assert of_rater(found, rater) == mine
        for object_id, mean in means(found).items():
            given = {rater: rating for (rater, name), (_, rating) in expected.items() if name == object_id}
            assert mean == pytest.approx(fmean(given.values()))
            assert raters_of(found)[object_id] == set(given)
        assert of_others(found, "ann") == of_rater(found, "bob")
        assert held(self.events[:-1]).items() | held(self.events).items() or not self.events


Campaign.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestWhatHolds = Campaign.TestCase


def test_a_rating_that_is_taken_back_brings_back_the_one_before_it() -> None:
    events = [rated(1, "ann", "1", 2), rated(2, "ann", "1", 5), undone(3, "ann", "1", "r2")]
    assert of_rater(held(events), "ann") == {"1": 2.0}
    assert of_rater(held([*events, undone(4, "ann", "1", "r1")]), "ann") == {}
    assert held([]) == {}


def test_means_are_over_raters_and_not_over_ratings() -> None:
    events = [rated(1, "ann", "1", 0), rated(2, "ann", "1", 1), rated(3, "bob", "1", 4), rated(4, "bob", "2", 5)]
    assert means(held(events)) == {"1": 2.5, "2": 5.0}


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "rate"},
        {"kind": "rate", "rating": 6},
        {"kind": "rate", "rating": 2.0},
        {"kind": "rate", "rating": True},
        {"kind": "rate", "rating": 2, "undoes": "a"},
        {"kind": "undo"},
        {"kind": "undo", "undoes": "a", "rating": 2},
        {"kind": "rate", "rating": 2, "request": "../a"},
    ],
)
def test_an_event_that_says_too_little_or_two_things_is_refused(values: dict) -> None:
    with pytest.raises(ValidationError):
        RatingEvent.model_validate({"request": "a", "rater": "ann", "object_id": "1", "at_utc": "2026", **values})
