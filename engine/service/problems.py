"""Errors as answers: every one is a problem document (RFC 9457), and none tells about the inside of the service."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from schemas.errors import (
    BusyError,
    ConfigError,
    DataError,
    InputNotFoundError,
    NoEncoderError,
    OutputError,
    StoreError,
    VoorwerpError,
)
from schemas.service import Problem, WrongValue

PROBLEM_JSON = "application/problem+json"
REQUEST = "voorwerp.request"
"""Key of an ASGI scope: the name of the request in the log."""
BUSY_RETRY_S = 2
"""After which what was busy is worth another try."""
_MOST_ERRORS = 20
_STATUS: dict[type[VoorwerpError], tuple[int, str]] = {
    ConfigError: (422, "invalid"),
    DataError: (422, "invalid"),
    InputNotFoundError: (404, "not-found"),
    OutputError: (409, "conflict"),
    BusyError: (503, "busy"),
    NoEncoderError: (501, "no-encoder"),
    StoreError: (503, "unavailable"),
}
_FOR_THE_CALLER = (ConfigError, DataError, BusyError)
"""Whose messages are about the request; those of others name files and databases."""

_log = logging.getLogger("voorwerp.service")


class ProblemError(Exception):
    """A request that is answered with a problem."""

    def __init__(
        self,
        status: int,
        reason: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[WrongValue] = (),
    ) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail
        self.headers, self.errors = dict(headers or {}), tuple(errors)


def wrong(where: str, said: str) -> ProblemError:
    """Refuse a value of a request."""
    return ProblemError(422, "invalid", f"{where}: {said}", errors=[WrongValue(where=where, said=said)])


def problem_of(error: Exception) -> ProblemError:
    """Turn any error into a problem, which says no more than the caller should know."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, VoorwerpError):
        status, reason = next((found for kind, found in _STATUS.items() if isinstance(error, kind)), (500, "internal"))
        detail = str(error) if isinstance(error, _FOR_THE_CALLER) else _without_detail(status)
        return ProblemError(status, reason, detail, {"Retry-After": str(BUSY_RETRY_S)} if status == 503 else None)
    if isinstance(error, RequestValidationError):
        found = [_wrong_value(one) for one in error.errors()[:_MOST_ERRORS]]
        return ProblemError(422, "invalid", "; ".join(f"{one.where}: {one.said}" for one in found), errors=found)
    if isinstance(error, HTTPException):
        reason = {404: "no-such-route", 405: "no-such-method"}.get(error.status_code, "invalid")
        return ProblemError(error.status_code, reason, _without_detail(error.status_code), error.headers)
    return ProblemError(500, "internal", _without_detail(500))


def answer_to(error: Exception, scope: Scope) -> Response:
    """Answer an error with its problem; where the service is to blame, its log says how."""
    problem = problem_of(error)
    if problem.status >= 500:
        _log.error("request %s: %s", scope.get(REQUEST, ""), error, exc_info=None if _is_expected(error) else error)
    content = Problem(
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        reason=problem.reason,
        request=scope.get(REQUEST, ""),
        errors=problem.errors,
    )
    text = json.dumps(content.model_dump())  # ASCII: what is quoted may hold halves of characters.
    return Response(text, problem.status, problem.headers, PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """Let an application answer every error with a problem."""

    async def answer(request: Request, error: Exception) -> Response:
        return answer_to(error, request.scope)

    for kind in (ProblemError, VoorwerpError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, answer)
    described = app.openapi

    def openapi() -> dict[str, Any]:
        """Say of problems what they are; FastAPI takes every model for plain JSON."""
        if app.openapi_schema is None:
            for operations in described()["paths"].values():
                for operation in operations.values():
                    content = operation["responses"]["default"]["content"]
                    content[PROBLEM_JSON] = content.pop("application/json")
        return described()

    app.openapi = openapi  # type: ignore[method-assign]


def _is_expected(error: Exception) -> bool:
    return isinstance(error, VoorwerpError | ProblemError | HTTPException)


def _without_detail(status: int) -> str:
    return {
        404: "what was asked for is not here",
        405: "this is not done here; Allow says what is",
        409: "there is another one of this name",
        500: "the service failed; its log says how, under the name of this request",
        501: "the encoder that the release was made with is not here, so that images cannot be compared with it",
        503: "the service cannot answer now; try again",
    }.get(status, HTTPStatus(status).phrase)


def _wrong_value(error: dict[str, Any]) -> WrongValue:
    place = [str(part) for part in error["loc"]]
    said = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    return WrongValue(where=".".join(place), said=said)
