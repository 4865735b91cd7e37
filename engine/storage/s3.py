"""The clients of an S3 store, one of each kind per process. A request fails for good after `S3_TRIES` tries.

S3 is configured by the usual AWS_* environment variables (AWS_ENDPOINT_URL included).
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import fsspec.asyn
from botocore.exceptions import ResponseStreamingError
from pyarrow import fs

from engine.storage import failures
from engine.storage.failures import answer_of, tried

S3_CONNECT_TIMEOUT_S = 5
S3_REQUEST_TIMEOUT_S = 20
"""Without a byte."""


@cache
def s3_filesystem(retries: bool) -> fs.S3FileSystem:
    """Return a client for data, which costs a fifth of the other's time per request.

    Parameters
    ----------
    retries : bool
        Whether it tries again by itself, as a client must that is handed to a library. It leaves out an answer 429
        with a text, and errors at reads of less than their text is long; `tried` around one without retries does not.
    """
    # Arrow's standard strategy takes retries from a quota of 100 per process, and gives none back.
    strategy = fs.AwsDefaultS3RetryStrategy(max_attempts=failures.S3_TRIES - 1 if retries else 0)
    return fs.S3FileSystem(
        endpoint_override=os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"),
        region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1",
        connect_timeout=S3_CONNECT_TIMEOUT_S,
        request_timeout=S3_REQUEST_TIMEOUT_S,
        retry_strategy=strategy,
    )


@cache
def s3fs_client():  # type: ignore[no-untyped-def]
    """Return the client for what pyarrow cannot do: conditional writes, uploads that can be abandoned.

    Its `call_s3` is `tried`, as the loops of s3fs and botocore would multiply, and leave out 429.
    """
    import s3fs

    client = s3fs.S3FileSystem(
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": S3_CONNECT_TIMEOUT_S,
            "read_timeout": S3_REQUEST_TIMEOUT_S,
            "retries": {"total_max_attempts": 1},
        },
    )
    client.retries = 1
    client.call_s3 = lambda method, **arguments: tried(lambda: _once(method, arguments))
    return client


def call(method: str, full_path: str, **arguments: Any) -> dict[str, Any]:
    """Make a request about the object at "bucket/key", as often as it takes up to `S3_TRIES`."""
    return tried(lambda: call_once(method, full_path, **arguments))


def call_once(method: str, full_path: str, **arguments: Any) -> dict[str, Any]:
    """Make a request about the object at "bucket/key" and leave it at that."""
    bucket, _, key = full_path.partition("/")
    return _once(method, {"Bucket": bucket, "Key": key} | arguments)


def get(full_path: str) -> tuple[bytes, str]:
    """Read a whole object and its ETag, in one request: they belong together."""

    def request() -> tuple[bytes, str]:
        answer = call_once("get_object", full_path)
        with _cut_short_or_garbled():
            return fsspec.asyn.sync(s3fs_client().loop, answer["Body"].read), str(answer["ETag"])

    return tried(request)


def put_if(full_path: str, data: bytes, **condition: str) -> bool:
    """Write an object under a condition, `IfNoneMatch` or `IfMatch`; return False where that does not hold."""
    try:
        call("put_object", full_path, Body=data, **condition)
    except OSError as error:
        code = answer_of(error).get("code")
        if code == "PreconditionFailed" or (code == "NoSuchKey" and "IfMatch" in condition):
            return False
        raise
    return True


def _once(method: str, arguments: dict[str, Any]) -> dict[str, Any]:
    client = s3fs_client()
    with _cut_short_or_garbled():
        return fsspec.asyn.sync(client.loop, client._call_s3, method, **arguments)


@contextmanager
def _cut_short_or_garbled() -> Iterator[None]:
    """Turn errors that botocore lets through into its own."""
    from aiohttp import ClientError
    from botocore.parsers import ResponseParserError

    try:
        yield
    except (ClientError, ResponseParserError) as error:
        raise ResponseStreamingError(error=error) from error
