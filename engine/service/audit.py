"""What every answer carries, and the line that is logged of it: who asked for what, and how it went. Never a token.

Lines name routes, not URLs, so that what somebody wrote into a URL by mistake is not kept.
"""

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import uuid4

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engine.service.problems import REQUEST, answer_to
from engine.service.security import CALLER

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

audit_log = logging.getLogger("voorwerp.audit")


class Audit:
    """Wraps an application: headers, one log line for each request, and a problem where it fails unexpectedly.

    Parameters
    ----------
    app : ASGI application
    clock : callable
        Seconds that never go back.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float]) -> None:
        self._app, self._clock = app, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[REQUEST] = uuid4().hex
        started, status, n_bytes = self._clock(), None, 0

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
            caller, route = scope.get(CALLER), scope.get("route")
            line = {
                "at_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "request": scope[REQUEST],
                "caller": caller.name if caller else None,
                "rater": caller.rater if caller else None,
                "address": (scope.get("client") or (None,))[0],
                "method": scope["method"],
                "route": getattr(route, "path_format", None),
                "status": status,
                "bytes": n_bytes,
                "milliseconds": round(1000 * (self._clock() - started), 1),
            }
            audit_log.info(json.dumps(line))
