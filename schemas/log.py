"""A line of a log as JSON: the fields that jobs and the service have in common, and what no line may hold.

at_utc  level  event  run  unit  attempt  stage  message  milliseconds        of jobs
at_utc  level  event  request  caller  rater  address  method  route  status  bytes  milliseconds    of the service
"""

import json
import logging
import os
import re
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

LogFormat = Literal["text", "json"]
Level = Literal["info", "warning", "error"]
LOG_VARIABLE = "VOORWERP_LOG"
"""Of the environment: a `LogFormat`, for this process and those that it starts."""
RUN: ContextVar[str | None] = ContextVar("run", default=None)
"""The run that this thread works for: the holder of its lease."""

HIDDEN = "***"
_LEAST_SECRET = 8
"""Characters; shorter values are words that any message may have."""
_IN_URL = re.compile(r"(?P<before>://[^/\s:@]*:)(?P<secret>[^\s@/]+)(?=@)")
_IN_QUERY = re.compile(
    r"(?P<before>\b(?:\w*password|\w*secret\w*|\w*token|x-amz-(?:signature|credential|security-token)|sig)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<before>\bbearer\s+)[\w.~+/=-]{8,}", re.IGNORECASE)
_SECRET_NAME = re.compile(r"SECRET|PASSW|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCOUNT_KEY", re.IGNORECASE)
_PLACE_NAME = re.compile(r"(FILE|PATH|URI|URL|DIR|HOME|PROFILE)$", re.IGNORECASE)


def log_line(level: Level, event: str, **fields: Any) -> str:
    """Write one line: when, how grave, what happened, for which run, and fields, of which no text holds a secret."""
    run = RUN.get()
    values = {
        "at_utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
        **({"run": run} if run else {}),
        **fields,
    }
    return json.dumps({name: without_secrets(one) if isinstance(one, str) else one for name, one in values.items()})


def without_secrets(text: str) -> str:
    """Hide passwords of URLs, tokens, and what variables of this process's environment keep secret."""
    for secret in _own_secrets():
        text = text.replace(secret, HIDDEN)
    for pattern in (_IN_URL, _IN_QUERY, _BEARER):
        text = pattern.sub(rf"\g<before>{HIDDEN}", text)
    return text


def secrets_in(environment: Mapping[str, str]) -> tuple[str, ...]:
    """List values that must not be told, the longest first: of variables that are named so, and passwords in URLs."""
    named = {value for name, value in environment.items() if _SECRET_NAME.search(name) and not _PLACE_NAME.search(name)}
    named |= {found["secret"] for value in environment.values() for found in _IN_URL.finditer(value)}
    return tuple(sorted((value for value in named if len(value) >= _LEAST_SECRET), key=lambda one: (-len(one), one)))


@cache
def _own_secrets() -> tuple[str, ...]:
    return secrets_in(os.environ)


def as_json() -> bool:
    """Whether this process is to log JSON lines."""
    return os.environ.get(LOG_VARIABLE) == "json"


class LogFormatter(logging.Formatter):
    """Formats what libraries and the service log, as JSON lines or as text; neither holds a secret."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        if not as_json():
            return without_secrets(super().format(record))
        level: Level = (
            "error" if record.levelno >= logging.ERROR else "warning" if record.levelno >= logging.WARNING else "info"
        )
        fields = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return log_line(level, "log", **fields)
