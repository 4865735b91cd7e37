"""How often a request is made, and how that is counted."""

from collections.abc import Callable, Iterator

import pytest

from engine.storage import failures
from engine.storage.failures import Requests, requests_made, tried
from engine.storage.store import Store

PASSING = OSError("AWS Error SLOW_DOWN: come again")


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "FIRST_PAUSE_S", 0.0)


def counted(make: Callable[[], object]) -> Requests:
    before = requests_made()
    make()
    return Requests(*(now - then for now, then in zip(requests_made(), before, strict=True)))


def outcomes(*these: BaseException | str) -> Callable[[], str]:
    """A request that fails and answers like this, one time after the other."""
    left: Iterator[BaseException | str] = iter(these)

    def request() -> str:
        one = next(left)
        if isinstance(one, BaseException):
            raise one
        return one

    return request


def test_a_request_that_is_answered_in_the_end_was_retried_before() -> None:
    assert counted(lambda: tried(outcomes(PASSING, PASSING, "here"))) == Requests(answered=1, retried=2)
    assert tried(outcomes(PASSING, "here")) == "here"


def test_a_store_that_never_answers_is_given_up_after_the_last_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "S3_TRIES", 4)

    def make() -> None:
        with pytest.raises(OSError, match="SLOW_DOWN"):
            tried(outcomes(*[PASSING] * 4, "too late"))

    assert counted(make) == Requests(retried=3, given_up=1)


def test_a_refusal_is_an_answer_and_is_not_tried_again() -> None:
    def make() -> None:
        with pytest.raises(FileNotFoundError):
            tried(outcomes(FileNotFoundError("gone"), "too late"))

    assert counted(make) == Requests(answered=1)


def test_requests_of_a_store_are_counted_and_those_of_a_disk_are_none(s3_server: str, tmp_path: object) -> None:
    def use(store: Store) -> None:
        store.write("counted.txt", b"something")
        assert store.read("counted.txt") == b"something"
        assert store.exists("counted.txt")

    found = counted(lambda: use(Store(f"{s3_server}/failures")))
    assert found.answered >= 3
    assert (found.retried, found.given_up) == (0, 0)
    assert counted(lambda: use(Store(str(tmp_path)))) == Requests()
