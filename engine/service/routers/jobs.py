"""Routes about bulk queries: a table is sent, becomes a job, and its result is fetched. Like IVOA UWS 1.1, in JSON.

A job belongs to the token that sent it. To all others but those of scope admin it does not exist.
"""

import re
from collections.abc import AsyncIterator, Iterator
from itertools import chain
from typing import Annotated

import anyio
import anyio.from_thread
import anyio.to_thread
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse

from engine.service.job_protocol import Jobs, Result
from engine.service.problems import ProblemError, wrong
from engine.service.security import UPLOADS, Caller, caller_with, forbidden
from engine.service.streams import csv_parts, votable_parts
from engine.service.tables import CSV, PARQUET
from engine.service.votables import VOTABLE
from schemas.campaign import Name
from schemas.service import ServeConfig
from schemas.service_jobs import (
    MOST_WAIT_S,
    JobAnswer,
    JobId,
    JobParameters,
    JobsAnswer,
    ListParameters,
    ResultFormat,
    ResultParameters,
    UploadFormat,
    WaitParameters,
)

_LOOK_AGAIN_S = 0.25
_QUEUE_RETRY_S, _SPACE_RETRY_S = 30, 3600
_FORMATS: dict[str, UploadFormat | None] = {
    PARQUET: "parquet",
    "application/x-parquet": "parquet",
    "application/parquet": "parquet",
    CSV: "csv",
    "application/csv": "csv",
    VOTABLE: "votable",
    "application/xml": "votable",
    "text/xml": "votable",
    "application/fits": "fits",
    "image/fits": "fits",
    "application/octet-stream": None,
    "application/gzip": None,
    "application/x-www-form-urlencoded": None,
    "": None,
}
"""By Content-Type; None: as its first bytes say. Among these is what curl says of data that it is not told about."""
_MEDIA_TYPES: dict[ResultFormat, str] = {
    "parquet": PARQUET,
    "csv": f"{CSV}; charset=utf-8; header=present",
    "votable": VOTABLE,
}
_SUFFIXES: dict[ResultFormat, str] = {"parquet": "parquet", "csv": "csv", "votable": "vot"}
_BODY = {
    "required": True,
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _FORMATS if kind},
}

Reader = Annotated[Caller, Depends(caller_with("read"))]
Id = Annotated[JobId, Path()]
Key = Annotated[
    Name | None, Header(alias="Idempotency-Key", description="Names this request: sent again, it is the same job.")
]


def _owner(caller: Reader) -> str:
    if caller.name is None:
        raise forbidden("read", "expected a token: a job belongs to one")
    return caller.name


def _seen_by(caller: Reader) -> str | None:
    """Whose jobs a caller sees; None for everybody's."""
    return None if "admin" in caller.scopes and caller.name else _owner(caller)


Owner = Annotated[str, Depends(_owner)]
Seen = Annotated[str | None, Depends(_seen_by)]


def routes(jobs: Jobs, config: ServeConfig) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["jobs"])
    waiting = anyio.CapacityLimiter(max(1, config.most_at_once // 4))
    """Of the requests that there is room for, most are not to be such as wait."""

    @router.post(UPLOADS, status_code=201, openapi_extra={"requestBody": _BODY})
    def create_job(
        request: Request, response: Response, owner: Owner, asked: Annotated[JobParameters, Query()], key: Key = None
    ) -> JobAnswer:
        """Queue a table of queries: Parquet, CSV, FITS or VOTable with object_id, ra and dec, or components."""
        if asked.k > config.most_k:
            raise wrong("k", f"expected at most {config.most_k:,}")
        kind = _format(request.headers.get("content-type", ""))
        usage = jobs.usage(owner)
        if usage.n_open >= config.most_jobs_waiting:
            raise _put_off(f"{usage.n_open:,} jobs have not ended yet", _QUEUE_RETRY_S)
        if usage.n_own_open >= config.most_jobs_of_token:
            raise _put_off(f"{usage.n_own_open:,} jobs of yours have not ended yet", _QUEUE_RETRY_S)
        if usage.own_bytes >= config.most_job_bytes_of_token:
            raise _put_off(f"{usage.own_bytes:,} bytes of yours are kept; delete jobs", _SPACE_RETRY_S)
        made = jobs.create(owner, key, asked, kind, _parts(request))
        response.headers["Location"] = f"{UPLOADS}/{made.id}"
        return made

    @router.get(UPLOADS)
    def all_jobs(seen: Seen, asked: Annotated[ListParameters, Query()]) -> JobsAnswer:
        """List the token's jobs, the newest first; for tokens of scope admin everybody's."""
        found = jobs.all(seen)
        return JobsAnswer(n_jobs=len(found), jobs=tuple(found[: asked.n]))

    @router.get(f"{UPLOADS}/{{job}}")
    async def one_job(seen: Seen, job: Id, asked: Annotated[WaitParameters, Query()]) -> JobAnswer:
        """Say how far a job is; with wait, when its phase is another one, or the time is over."""
        found = await anyio.to_thread.run_sync(jobs.one, job, seen)
        if asked.wait == 0 or found.ended_utc:
            return found
        try:
            waiting.acquire_on_behalf_of_nowait(found_by := object())
        except anyio.WouldBlock:  # Who waits may be answered early.
            return found
        try:
            with anyio.move_on_after(MOST_WAIT_S if asked.wait < 0 else min(asked.wait, MOST_WAIT_S)):
                phase = found.phase
                while found.phase == phase:
                    await anyio.sleep(_LOOK_AGAIN_S)
                    found = await anyio.to_thread.run_sync(jobs.one, job, seen)
        finally:
            waiting.release_on_behalf_of(found_by)
        return found

    @router.post(f"{UPLOADS}/{{job}}/abort")
    def abort_job(seen: Seen, job: Id) -> JobAnswer:
        """End a job without a result; one that has ended stays as it is."""
        return jobs.abort(job, seen)

    @router.delete(f"{UPLOADS}/{{job}}", status_code=204)
    def delete_job(seen: Seen, job: Id) -> None:
        """End a job, and delete it with its result."""
        jobs.delete(job, seen)

    @router.get(
        f"{UPLOADS}/{{job}}/result",
        response_class=Response,
        responses={
            200: {"content": {PARQUET: {}, CSV: {}, VOTABLE: {}}},
            206: {"description": "A part of the Parquet file."},
            304: {"description": "The result is as it was."},
        },
    )
    def result(request: Request, seen: Seen, job: Id, asked: Annotated[ResultParameters, Query()]) -> Response:
        """Fetch the result of a job that is completed; of Parquet also a part (Range)."""
        found = jobs.result(job, seen)
        if found is None:
            phase = jobs.one(job, seen).phase
            raise ProblemError(409, "no-result", f"expected a job that is COMPLETED, found one that is {phase}")
        tag = f'"{found.file.sha256[:32]}-{asked.format}"'
        headers = {
            "ETag": tag,
            "Content-Disposition": f'attachment; filename="{job}.{_SUFFIXES[asked.format]}"',
            "Content-Type": _MEDIA_TYPES[asked.format],
        }
        known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
        if known & {tag, "*"}:
            return Response(status_code=304, headers={"ETag": tag})
        if asked.format == "parquet":
            return _file(request, found, headers)
        tables = found.tables()
        first = next(tables)
        if asked.format == "csv":
            return StreamingResponse(csv_parts(first.schema, chain([first], tables)), headers=headers)
        about = jobs.one(job, seen)
        said = {"release": about.release, "index": about.index, "job": job}
        return StreamingResponse(votable_parts(first.schema, chain([first], tables), said), headers=headers)

    return router


def _format(content_type: str) -> UploadFormat | None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in _FORMATS:
        expected = ", ".join(name for name in _FORMATS if name)
        raise ProblemError(415, "unknown-format", f"Content-Type: expected the table itself as one of {expected}")
    return _FORMATS[kind]


def _put_off(detail: str, wait_s: int) -> ProblemError:
    return ProblemError(429, "too-many", f"{detail}; try again", {"Retry-After": str(wait_s)})


def _parts(request: Request) -> Iterator[bytes]:
    """Read a body as it arrives, from a thread: no more of it is in memory than a part."""
    stream = request.stream()

    async def following(stream: AsyncIterator[bytes]) -> bytes | None:
        return await anext(stream, None)

    try:
        while (part := anyio.from_thread.run(following, stream)) is not None:
            yield part
    except ClientDisconnect as error:
        raise ProblemError(400, "incomplete", "expected the whole table, found its beginning") from error


def _file(request: Request, found: Result, headers: dict[str, str]) -> Response:
    """Answer with the file, or with the one part of it that is asked for (RFC 9110, section 14)."""
    size = found.file.size_bytes
    headers["Accept-Ranges"] = "bytes"
    asked = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", request.headers.get("range", ""))
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"] or not asked or not any(asked.groups()):
        headers["Content-Length"] = str(size)
        return StreamingResponse(found.read(0, size), headers=headers)
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= min(stop, size):
        raise ProblemError(
            416, "no-such-part", f"Range: expected a part of {size:,} bytes", {"Content-Range": f"bytes */{size}"}
        )
    headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{size}", "Content-Length": str(stop - start)}
    return StreamingResponse(found.read(start, stop), status_code=206, headers=headers)
