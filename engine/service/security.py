"""Who asks, and whether they may.

Without a token only health and the page are answered, and no byte of a body is read before that is known.
A token comes as `Authorization: Bearer TOKEN` and nowhere else.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import anyio
from anyio import CapacityLimiter
from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from engine.service.limits import DailyQuota, RateLimit, counted, read_body, replayed
from engine.service.problems import ProblemError, answer_to
from engine.storage.tokens import TokenStore
from schemas.errors import VoorwerpError
from schemas.service import ServeConfig, TokenScope

HEALTH = "/v1/health"
"""Anyone may ask it, whatever else is asked of the service."""
IMAGES = "/v1/neighbours/image"
"""What is posted there may be as large as an image."""
METRICS = "/metrics"
"""Read by a collector: it is to see what goes on when there is no room for others, however often it asks."""
UPLOADS = "/v1/jobs"
"""What is posted there may be large, and is not held in memory."""
CALLER = "voorwerp.caller"
"""Key of an ASGI scope: the `Caller`, once known."""
_ROOM_FOR_METRICS = 4
"""Requests that are let in when there are too many others."""
_LOOKS_AT_ONCE = 8
"""At tokens; in threads of their own, so that no search keeps a caller from being told to wait."""
_PUT_OFF_S = 1
_bearer = HTTPBearer(auto_error=False, description="From `voorwerp token create`.")


class Caller(NamedTuple):
    """Who asks."""

    name: str | None
    """Of the token; None without one."""
    scopes: tuple[TokenScope, ...]
    rater: str | None = None


class Gate:
    """Lets requests through to an application, one after the other checked: room, token, rate, size.

    Parameters
    ----------
    app : ASGI application
    tokens : TokenStore
    config : ServeConfig
    clock : callable
        Seconds that never go back.
    open_paths : set of str
        That anyone may ask.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenStore,
        config: ServeConfig,
        clock: Callable[[], float],
        open_paths: frozenset[str],
    ) -> None:
        self._app, self._tokens, self._config, self._open_paths = app, tokens, config, open_paths
        self._rate = RateLimit(config.rate_per_minute, clock)
        self._quota = DailyQuota(config.quota_per_day, clock) if config.quota_per_day else None
        self._inside, self._looking = 0, CapacityLimiter(_LOOKS_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application, or with a problem."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http" or _path(scope) in self._open_paths:
            await self._app(scope, receive, send)
            return
        self._inside += 1
        try:
            admitted = await self._admitted(scope, receive)
        except (ProblemError, VoorwerpError) as error:
            await answer_to(error, scope)(scope, receive, send)
        else:
            if admitted:
                await self._app(scope, admitted, send)
        finally:
            self._inside -= 1

    async def _admitted(self, scope: Scope, receive: Receive) -> Receive | None:
        """What the application reads the request from; None where the client left."""
        is_collector = _path(scope) == METRICS
        if self._inside > self._config.most_at_once + (_ROOM_FOR_METRICS if is_collector else 0):
            raise _put_off("too many requests are being answered", _PUT_OFF_S)
        scope[CALLER] = caller = await self._caller(scope)
        if is_collector and "metrics" in caller.scopes:
            return replayed(b"", receive)
        address = (scope.get("client") or ("",))[0]
        who = f"address {address}" if caller.name is None else f"token {caller.name}"
        if wait_s := self._rate.take(who):
            raise _put_off(f"expected at most {self._config.rate_per_minute:,} requests a minute", wait_s)
        if self._quota and (wait_s := self._quota.take(who)):
            raise _put_off(f"expected at most {self._config.quota_per_day:,} requests a day", wait_s)
        if scope["method"] == "POST" and _path(scope) == UPLOADS:
            return counted(scope, receive, self._config.most_upload_bytes)
        most = self._config.max_image_bytes if _path(scope) == IMAGES else self._config.max_body_bytes
        body = await read_body(scope, receive, most)
        return None if body is None else replayed(body, receive)

    async def _caller(self, scope: Scope) -> Caller:
        given = Headers(scope=scope).getlist("authorization")
        if not given and self._config.anonymous_read:
            return Caller(None, ("read",))
        kind, _, token = given[0].partition(" ") if len(given) == 1 else ("", "", "")
        if kind.lower() != "bearer":
            raise _unknown("expected a token: Authorization: Bearer TOKEN", "")
        found = await anyio.to_thread.run_sync(self._tokens.verify, token.strip(), limiter=self._looking)
        if found is None:
            raise _unknown("expected a token that was created here and not revoked", ', error="invalid_token"')
        return Caller(found.name, found.scopes, found.rater)


def caller_with(scope: TokenScope) -> Callable[..., Caller]:
    """Make a dependency: the caller, who has a scope; 403 for others."""

    def caller(request: Request, _: object = Security(_bearer)) -> Caller:
        found: Caller = request.scope[CALLER]
        if scope not in found.scopes:
            raise forbidden(scope, f"expected a token of scope {scope}, found {', '.join(found.scopes)}")
        return found

    return caller


def forbidden(scope: TokenScope, detail: str) -> ProblemError:
    """Refuse what a token does not allow."""
    challenge = f'Bearer realm="voorwerp", error="insufficient_scope", scope="{scope}"'
    return ProblemError(403, "forbidden", detail, {"WWW-Authenticate": challenge})


READS = Depends(caller_with("read"))
"""For routes that anyone who reads may ask, whoever they are."""


def _path(scope: Scope) -> str:
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def _unknown(detail: str, more: str) -> ProblemError:
    return ProblemError(401, "unauthorised", detail, {"WWW-Authenticate": f'Bearer realm="voorwerp"{more}'})


def _put_off(detail: str, wait_s: float) -> ProblemError:
    return ProblemError(429, "too-many", f"{detail}; try again", {"Retry-After": str(max(1, math.ceil(wait_s)))})
