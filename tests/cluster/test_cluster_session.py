"""The start of a local cluster on a machine that is busy."""

import pytest
import ray

from engine.cluster import session

SLOW = "The current node timed out during startup. This could happen because ..."


@pytest.mark.parametrize(("failures", "tries"), [(0, 1), (1, 2), (2, 2)])
def test_a_start_that_took_too_long_is_tried_once_more(
    monkeypatch: pytest.MonkeyPatch, failures: int, tries: int
) -> None:
    begun: list[str] = []

    def init(**_: object) -> None:
        begun.append("init")
        if begun.count("init") <= failures:
            raise Exception(SLOW)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: begun.append("shutdown"))
    if failures == 2:
        with pytest.raises(RuntimeError, match="timed out during startup"):
            session._start_here(num_cpus=4)
    else:
        session._start_here(num_cpus=4)
    assert begun.count("init") == tries
    assert begun.count("shutdown") == failures


def test_another_failure_of_a_start_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ValueError("no such option")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ValueError, match="no such option"):
        session._start_here(num_cpus=4)
