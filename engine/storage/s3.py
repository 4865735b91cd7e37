"""The clients of an S3 store, one of each kind per process, and what is said when a store fails.

S3 is configured by the usual AWS_* environment variables (AWS_ENDPOINT_URL included).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from botocore.exceptions import BotoCoreError
from pyarrow import fs

from schemas.errors import InputNotFoundError, StoreError

S3_CONNECT_TIMEOUT_S = 10
S3_REQUEST_TIMEOUT_S = 60
S3_ATTEMPTS = 6
_GONE_OR_IN_A_RACE = ("NoSuchKey", "ConditionalRequestConflict")


@cache
def s3_filesystem() -> fs.S3FileSystem:
    """Return the client for data, which costs a fifth of the other's time per request."""
    return fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        connect_timeout=S3_CONNECT_TIMEOUT_S,
        request_timeout=S3_REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
    )


@cache
def s3fs_client():  # type: ignore[no-untyped-def]
    """Return the client for what pyarrow cannot do: conditional writes, uploads that can be abandoned."""
    import s3fs

    return s3fs.S3FileSystem(
        config_kwargs={
            "connect_timeout": S3_CONNECT_TIMEOUT_S,
            "read_timeout": S3_REQUEST_TIMEOUT_S,
            "retries": {"max_attempts": S3_ATTEMPTS, "mode": "standard"},
        }
    )


def call(method: str, full_path: str, **arguments: Any) -> dict[str, Any]:
    """Make one request about the object at "bucket/key"."""
    bucket, _, key = full_path.partition("/")
    return s3fs_client().call_s3(method, Bucket=bucket, Key=key, **arguments)


def put_if(full_path: str, data: bytes, **condition: str) -> bool:
    """Write an object under a condition, `IfNoneMatch` or `IfMatch`; return False where that does not hold."""
    try:
        call("put_object", full_path, Body=data, **condition)
    except OSError as error:
        code = _answer(error).get("Code")
        if code == "PreconditionFailed" or ("IfMatch" in condition and code in _GONE_OR_IN_A_RACE):
            return False
        raise
    return True


def _answer(error: BaseException) -> dict[str, Any]:
    """Return what the store said, where it said anything."""
    return getattr(error.__cause__, "response", {}).get("Error", {})


@contextmanager
def explained(uri: str, writing: bool = False) -> Iterator[None]:
    """Turn the errors of disks and clients into ours, which name the place.

    Raises
    ------
    InputNotFoundError
        Nothing is there to read.
    StoreError
        Anything else.
    """
    try:
        yield
    except (OSError, BotoCoreError) as error:
        if isinstance(error, FileNotFoundError) and not writing:
            raise InputNotFoundError(f"expected a file, found nothing at {uri}") from error
        raise StoreError(f"the store failed at {uri}: {error}") from error
