"""Kept: made once, whoever asks; bounded by weight; and what cannot be made is not tried again for every row."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.storage.images import CutoutError
from engine.storage.kept import Kept
from schemas.errors import StoreError
from schemas.reject import RejectReason


def test_a_thing_is_made_once_by_many_threads_that_ask_at_once() -> None:
    kept: Kept[object] = Kept(3)
    made: list[object] = []
    barrier = threading.Barrier(16)

    def make() -> object:
        time.sleep(0.05)  # Long enough for the others to ask meanwhile.
        made.append(object())
        return made[-1]

    def get(number: int) -> object:
        barrier.wait()
        return kept.get("a", make)

    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(get, range(16))) == set(made)
    assert len(made) == 1


def test_threads_that_want_another_thing_do_not_wait() -> None:
    kept: Kept[str] = Kept(3)
    other_is_made = threading.Event()

    def slow() -> str:
        assert other_is_made.wait(30)
        return "slow"

    with ThreadPoolExecutor(1) as thread:
        waiting = thread.submit(kept.get, "a", slow)
        assert kept.get("b", lambda: "quick") == "quick"
        other_is_made.set()
        assert waiting.result() == "slow"


def test_what_was_used_longest_ago_goes_first() -> None:
    kept: Kept[str] = Kept(2)
    made: list[str] = []

    def get(key: str) -> str:
        return kept.get(key, lambda: made.append(key) or key)  # type: ignore[func-returns-value]

    assert [get(key) for key in "abacab"] == list("abacab")
    assert "".join(made) == "abcb"


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 15)), max_size=60))
def test_things_never_weigh_more_than_allowed_unless_one_alone_does(asked: list[tuple[int, int]]) -> None:
    kept: Kept[bytes] = Kept(20, len)
    alive: dict[int, bytes] = {}
    for key, weight in asked:
        alive[key] = kept.get(key, lambda weight=weight: bytes(weight))
        slots = kept._slots
        assert sum(len(slot.value or b"") for slot in slots.values()) == kept._weight <= 20
        assert key in slots
    heavy = Kept[bytes](20, len)
    for key in range(3):
        assert len(heavy.get(key, lambda: bytes(50))) == 50
        assert len(heavy._slots) == 1


def test_a_refusal_is_kept_and_a_fault_of_the_store_is_not() -> None:
    kept: Kept[str] = Kept(3)
    tries: list[Exception] = []

    def fail(error: Exception) -> str:
        tries.append(error)
        raise error

    for _ in range(3):
        with pytest.raises(CutoutError, match="cut short") as caught:
            kept.get("a", lambda: fail(CutoutError(RejectReason.INTEGRITY, "cut short")))
        assert caught.value.reason is RejectReason.INTEGRITY
    assert len(tries) == 1
    for _ in range(3):
        with pytest.raises(StoreError):
            kept.get("b", lambda: fail(StoreError("down")))
    assert len(tries) == 4
    assert kept.get("b", lambda: "up again") == "up again"


def test_many_threads_with_many_things_and_little_room_get_what_they_ask_for() -> None:
    kept: Kept[bytes] = Kept(100, len)

    def get(number: int) -> bool:
        key = number * 7919 % 23
        return kept.get(key, lambda: bytes([key]) * 30) == bytes([key]) * 30

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(get, range(3000)))
    assert sum(slot.weight for slot in kept._slots.values()) == kept._weight <= 100
