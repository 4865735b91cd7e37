"""What it means when a store fails: that passes and is tried again, or it stops the run with a sentence."""

import errno
import random
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
)

from schemas.errors import InputNotFoundError, StoreError

S3_TRIES = 11
"""Of one request. Pauses double from `FIRST_PAUSE_S`, 26 s in all; a worker waits longer for a cutout."""
FIRST_PAUSE_S = 0.025
FAILURES = (OSError, BotoCoreError)
"""What disks, pyarrow and s3fs raise."""

_PASSING_STATUS = {408, 429, 500, 502, 503, 504}
_PASSING_CODES = {
    "BadDigest",
    "ConditionalRequestConflict",
    "IncompleteBody",
    "OperationAborted",
    "RequestTimeout",
    "SlowDown",
    "XAmzContentChecksumMismatch",
    "XAmzContentSHA256Mismatch",
}
_PASSING_TYPES = (HTTPClientError, ConnectionError, IncompleteReadError, FlexibleChecksumError)
_ARROW_PASSING = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING)\b"
    r"|HTTP status (408|429|50[0234])\b"
)
_ARROW_DENIED = re.compile(
    r"AWS Error (ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH)\b|HTTP status 40[13]\b"
)

Answer = TypeVar("Answer")
_made: Counter[str] = Counter()
_counting = threading.Lock()


class Requests(NamedTuple):
    """How many requests this process made of object stores, by what came of them; those of libraries aside."""

    answered: int = 0
    """A refusal, or that nothing is there, is an answer too."""
    retried: int = 0
    given_up: int = 0
    """Failed at the last try."""


def requests_made() -> Requests:
    """Count the requests that `tried` has made so far in this process."""
    with _counting:
        return Requests(**_made)


def tried(request: Callable[[], Answer]) -> Answer:
    """Make a request, and again while the store fails in passing, at most `S3_TRIES` times; raise what it raises."""
    number = 0
    while True:
        number += 1
        try:
            answer = request()
        except FAILURES as error:
            if not passes(error):
                _count("answered")
                raise
            if number == S3_TRIES:
                _count("given_up")
                raise
            _count("retried")
        else:
            _count("answered")
            return answer
        time.sleep(random.uniform(0.5, 1.5) * FIRST_PAUSE_S * 2 ** (number - 1))


def _count(outcome: str) -> None:
    with _counting:
        _made[outcome] += 1


def passes(error: BaseException) -> bool:
    """Whether an object store that failed like this may do better in a moment."""
    answer = answer_of(error)
    if answer:
        return answer["status"] in _PASSING_STATUS or answer["code"] in _PASSING_CODES
    return isinstance(error, _PASSING_TYPES) or bool(_ARROW_PASSING.search(str(error)))


def answer_of(error: BaseException) -> dict[str, Any]:
    """Return `status` and `code` of what the store answered; nothing where it did not, or where pyarrow asked."""
    answer = getattr(error.__cause__, "response", None)
    if not answer:
        return {}
    return {"status": answer["ResponseMetadata"]["HTTPStatusCode"], "code": answer["Error"].get("Code", "")}


@contextmanager
def explained(uri: str, writing: bool = False, size_bytes: int = 0) -> Iterator[None]:
    """Turn the errors of disks and clients into ours, which say where, why and what to do.

    Parameters
    ----------
    uri : str
        What is read or written.
    writing : bool
        Whether a file that is not there is a fault of the store.
    size_bytes : int
        How much is written.

    Raises
    ------
    InputNotFoundError
        Nothing is there to read.
    StoreError
        Anything else.
    """
    try:
        yield
    except FAILURES as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise InputNotFoundError(f"expected a file, found nothing at {uri}") from error
        raise StoreError(_sentence(error, uri, size_bytes)) from error


def _sentence(error: BaseException, uri: str, size_bytes: int) -> str:
    if not uri.startswith("s3://"):
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"no space left on {uri}, needs about {size_bytes:,} bytes, found {_free_bytes(Path(uri)):,} free "
                f"({error}). Free some and run the same command again; it goes on from what is done."
            )
    elif passes(error):
        return (
            f"object store unavailable after {S3_TRIES} tries on {uri}: {error}. "
            "Run the same command again when it is back; it goes on from what is done."
        )
    elif answer_of(error).get("status") in (401, 403) or _ARROW_DENIED.search(str(error)):
        return f"access denied to {_principal()} at {uri}: {error}. Grant it, or use other credentials."
    return f"the store failed at {uri}: {error}"


def _free_bytes(path: Path) -> int:
    """Of the disk that a path leads to, whether anything is there or not."""
    return shutil.disk_usage(next(folder for folder in (path, *path.parents) if folder.exists())).free


def _principal() -> str:
    """Name who asks, by the public half of the key."""
    import botocore.session  # Here: it takes a tenth of a second.

    credentials = botocore.session.get_session().get_credentials()
    return f"access key {credentials.access_key}" if credentials else "an anonymous user"
