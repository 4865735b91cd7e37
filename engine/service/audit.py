"""What every answer carries, and the line that is logged of it: who asked for what, and how it went. Never a token.

Lines name routes, not URLs, so that what somebody wrote into a URL by mistake is not kept.
"""

import logging
from collections.abc import Callable
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.service.problems import REQUEST, answer_to
from engine.service.security import CALLER
from schemas.log import log_line
from schemas.metrics import QUEUE_DEPTH, REQUEST_SECONDS, REQUESTS, Recorder, no_recorder

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Answers are data: no browser is to run, frame, keep or guess anything from them, unless a route says otherwise."""
REQUEST_ID = "X-Request-Id"
_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})

audit_log = logging.getLogger("voorwerp.audit")


class Audit:
    """Wraps an application: headers, one log line for each request, and a problem where it fails unexpectedly.

    Parameters
    ----------
    app : ASGI application
    clock : callable
        Seconds that never go back.
    record : callable
        Metrics.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float], record: Recorder = no_recorder) -> None:
        self._app, self._clock, self._record, self._inside = app, clock, record, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST] = uuid4().hex
        started, status, n_bytes = self._clock(), None, 0
        self._count(1)

        async def observed(message: Message) -> None:
            nonlocal status, n_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers[REQUEST_ID] = scope[REQUEST]
            n_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, observed)
        except Exception as error:
            if status is not None:
                raise  # Half an answer cannot be taken back; the server logs this and ends the connection.
            await answer_to(error, scope)(scope, receive, observed)
        finally:
            seconds, caller = self._clock() - started, scope.get(CALLER)
            route = getattr(scope.get("route"), "path_format", None)
            self._count(-1)
            self._measure(scope["method"], route, status, seconds)
            line = log_line(
                "info",
                "request",
                request=scope[REQUEST],
                caller=caller.name if caller else None,
                rater=caller.rater if caller else None,
                address=(scope.get("client") or (None,))[0],
                method=scope["method"],
                route=route,
                status=status,
                bytes=n_bytes,
                milliseconds=round(1000 * seconds, 1),
            )
            audit_log.info(line)

    def _count(self, n: int) -> None:
        self._inside += n
        self._record(QUEUE_DEPTH, self._inside, queue="requests")

    def _measure(self, method: str, route: str | None, status: int | None, seconds: float) -> None:
        """Record a request. Labels are from short lists, whatever is asked for: each value is kept for good."""
        labels = {"route": route or "none", "method": method if method in _METHODS else "other"}
        self._record(REQUESTS, status=str(status or "none"), **labels)
        self._record(REQUEST_SECONDS, seconds, **labels)
