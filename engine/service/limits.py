"""How much one caller may ask: requests per minute, and bytes of a request. Counted in this process."""

from collections import OrderedDict
from collections.abc import Callable

import anyio
from starlette.datastructures import Headers
from starlette.types import Message, Receive, Scope

from engine.service.problems import ProblemError

BODY_TIMEOUT_S = 30.0
"""For which the whole body of a request is waited for."""
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


async def read_body(scope: Scope, receive: Receive, most_bytes: int) -> bytes | None:
    """Read the body of a request, whatever it says of its length; None where the client left.

    Raises
    ------
    ProblemError
        413 where it is larger; nothing is read where it says so itself. 408 where it takes too long.
    """
    declared = Headers(scope=scope).get("content-length", "0")
    if not declared.isdecimal() or int(declared) > most_bytes:
        raise _too_large(most_bytes)
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
        detail = f"expected the whole request within {BODY_TIMEOUT_S:g} s"
        raise ProblemError(408, "timeout", detail, {"Connection": "close"}) from error


def replayed(body: bytes, receive: Receive) -> Receive:
    """Give a body that was read to whoever reads it next."""
    waiting = [body]

    async def again() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return again


def _too_large(most_bytes: int) -> ProblemError:
    # What was not read would be taken for the next request.
    detail = f"expected a request of at most {most_bytes:,} bytes"
    return ProblemError(413, "too-large", detail, {"Connection": "close"})
