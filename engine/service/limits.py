"""How much one caller may ask: requests per minute and day, and bytes of a request. Counted in this process."""

from collections import OrderedDict
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from engine.service.problems import ProblemError

BODY_TIMEOUT_S = 30.0
"""For which the whole body of a request is waited for."""
UPLOAD_TIMEOUT_S = 1800.0
"""For which the whole of a large table is waited for; each of its parts no longer than `BODY_TIMEOUT_S`."""
DAY_S = 86_400.0
MOST_CALLERS = 10_000
"""That are remembered; who was not seen for longest is forgotten, as if they had never asked."""


class RateLimit:
    """A token bucket for each caller: as many requests at once as a minute allows, and no more over time.

    Parameters
    ----------
    per_minute : int
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self._most, self._per_second, self._clock = float(per_minute), per_minute / 60, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Count a request; return 0, or the seconds until the next one is allowed, where this one is not."""
        now = self._clock()
        left, since = self._left.pop(caller, (self._most, now))
        left = min(self._most, left + (now - since) * self._per_second)
        wait_s = 0.0 if left >= 1 else (1 - left) / self._per_second
        self._left[caller] = (left if wait_s else left - 1, now)
        if len(self._left) > MOST_CALLERS:
            self._left.popitem(last=False)
        return wait_s


class DailyQuota:
    """Counts the requests of each caller, for a day from the first of them on.

    Parameters
    ----------
    per_day : int
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, per_day: int, clock: Callable[[], float]) -> None:
        self._per_day, self._clock = per_day, clock
        self._used: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def take(self, caller: str) -> float:
        """Count a request; return 0, or the seconds until the next one is allowed, where this one is not."""
        now = self._clock()
        used, until = self._used.pop(caller, (0, now))
        if now >= until:
            used, until = 0, now + DAY_S
        is_allowed = used < self._per_day
        self._used[caller] = (used + is_allowed, until)
        if len(self._used) > MOST_CALLERS:
            self._used.popitem(last=False)
        return 0.0 if is_allowed else until - now


async def read_body(scope: Scope, receive: Receive, most_bytes: int) -> bytes | None:
    """Read the body of a request, whatever it says of its length; None where the client left.

    Raises
    ------
    ProblemError
        413 where it is larger; nothing is read where it says so itself. 408 where it takes too long.
    """
    _check_declared(scope, most_bytes)
    body = bytearray()
    try:
        with anyio.fail_after(BODY_TIMEOUT_S):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise _too_slow(f"expected the whole request within {BODY_TIMEOUT_S:g} s") from error


def counted(scope: Scope, receive: Receive, most_bytes: int) -> Receive:
    """Let a body through part by part, unread until somebody reads it, and no more of it than is allowed.

    Raises
    ------
    ProblemError
        As `read_body`: 413 now where it says so itself, else 413 or 408 when it is read.
    """
    _check_declared(scope, most_bytes)
    n_bytes, ends_s, whole = 0, anyio.current_time() + UPLOAD_TIMEOUT_S, False

    async def part() -> Message:
        nonlocal n_bytes, whole
        if whole:
            return await receive()
        try:
            with anyio.fail_after(min(BODY_TIMEOUT_S, ends_s - anyio.current_time())):
                message = await receive()
        except TimeoutError as error:
            detail = f"expected a part of the request every {BODY_TIMEOUT_S:g} s, and all in {UPLOAD_TIMEOUT_S:g} s"
            raise _too_slow(detail) from error
        n_bytes += len(message.get("body", b""))
        if n_bytes > most_bytes:
            raise _too_large(most_bytes)
        whole = not message.get("more_body", False)
        return message

    return part


def replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _check_declared(scope: Scope, most_bytes: int) -> None:
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise _too_large(most_bytes)


def _too_slow(detail: str) -> ProblemError:
    return ProblemError(408, "timeout", detail, {"Connection": "close"})


def _too_large(most_bytes: int) -> ProblemError:
    # What was not read would be taken for the next request.
    detail = f"expected a request of at most {most_bytes:,} bytes"
    return ProblemError(413, "too-large", detail, {"Connection": "close"})
