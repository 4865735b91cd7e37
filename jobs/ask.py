"""Job: ask. A table of queries is sent to a service, waited for, and its result fetched: scripts need no code."""

import hashlib
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import nullcontext, suppress
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from pydantic import ValidationError

from engine.storage.table_file import kind_of
from jobs.report import note, progress, warn
from schemas.ask import Asked, AskJob
from schemas.errors import BusyError, ConfigError, DataError, InputNotFoundError, IntegrityError, StoreError
from schemas.manifest import content_id
from schemas.service import Problem
from schemas.service_jobs import JobAnswer, JobParameters, ResultFormat

TOKEN_VARIABLE = "VOORWERP_TOKEN"  # nosec B105
TRIES, LONGEST_PAUSE_S = 8, 60.0
"""Of one request, where the service cannot be reached or puts it off."""
TIMEOUT_S = 600.0
"""For which an answer is waited for: a table is read before it is answered."""
_BLOCK_BYTES = 1 << 20
LONGEST_WAIT_S = 15.0
"""From one look at a job to the next; shorter at first, so that a small table is not waited for."""
_FORMATS: dict[str, ResultFormat] = {".parquet": "parquet", ".csv": "csv", ".vot": "votable", ".xml": "votable"}
_TYPES = {"parquet": "application/vnd.apache.parquet", "csv": "text/csv", "fits": "application/fits"}
_LOCAL = ("localhost", "127.0.0.1", "::1")


def run(job: AskJob) -> None:
    """Ask, or go on with what an earlier run of the same command asked; write the answer.

    Raises
    ------
    ConfigError
        The output's name is of no known kind, or the token is missing or allows nothing.
    InputNotFoundError
        There is no such table, or no such service.
    DataError
        The service refuses the table or cannot answer it.
    BusyError
        The service puts it off again and again.
    StoreError
        The service cannot be reached, or failed; the same command goes on.
    IntegrityError
        What was fetched is not what the service has.
    """
    output, table = Path(job.output), Path(job.table)
    if output.suffix not in _FORMATS:
        raise ConfigError(f"output: expected a name ending in {', '.join(_FORMATS)}, found {job.output!r}")
    if not table.is_file():
        raise InputNotFoundError(f"expected a table, found nothing at {table}")
    service = _Service(job.url, _token(job))
    service.ask("GET", "/v1/health", tries=1).close()
    remembered, parameters = output.with_name(f"{output.name}.job"), _parameters(job)
    question = content_id({"url": job.url, "parameters": parameters, "table": _digest(table)})
    asked = _remembered(remembered, question)
    found = _found(service, asked)
    if found is None:
        asked = Asked(question=question, key=asked.key if asked.job is None else uuid4().hex)
        remembered.write_text(asked.model_dump_json())
        found = _send(service, table, parameters, asked.key)
        remembered.write_text(asked.model_copy(update={"job": found.id}).model_dump_json())
    try:
        found = _wait(service, found)
        if found.result is None:
            remembered.unlink()
            raise DataError(f"job {found.id}: {found.phase}" + (f": {found.error}" if found.error else ""))
        _fetch(service, found, output)
    except (KeyboardInterrupt, SystemExit, StoreError, BusyError):
        note("ask", f"job {found.id} goes on at the service; the same command goes on with it")
        raise
    if not job.keep:
        with suppress(InputNotFoundError):
            service.ask("DELETE", f"/v1/jobs/{found.id}").close()
    remembered.unlink()
    unanswered = "".join(f" + {n:,} {reason}" for reason, n in sorted(found.unanswered.items()))
    counts = f"{found.n_queries:,} planned = {found.answered:,} answered{unanswered}"
    note("ask", f"{counts}; {found.result.n_rows:,} rows in {output}")


class _Service:
    """A service, and who asks it."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._token = url, token
        self._opener = urllib.request.build_opener(_NoRedirect)
        host = urllib.parse.urlsplit(url).hostname
        if url.startswith("http:") and host not in _LOCAL:
            warn(f"{url} is not encrypted: whoever is on the way can read the token")

    def ask(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: Callable[[], IO[bytes]] | None = None,
        tries: int = TRIES,
    ) -> HTTPResponse:
        """Send a request, and again where it cannot be answered now; one that is sent twice counts once.

        Raises as `run`.
        """
        for number in range(tries):
            is_last = number == tries - 1
            data = body() if body else None
            request = urllib.request.Request(f"{self._url}{path}", data, method=method)
            for name, value in {"Authorization": f"Bearer {self._token}", **(headers or {})}.items():
                request.add_unredirected_header(name, value)
            try:
                return self._opener.open(request, timeout=TIMEOUT_S)
            except urllib.error.HTTPError as error:
                pause_s = _pause_s(error, number)
                if pause_s is None or is_last:
                    raise _explained(error, self._url) from error
            except (OSError, HTTPException) as error:
                if is_last:
                    reason = getattr(error, "reason", error)
                    raise StoreError(
                        f"{self._url}: expected a service, found that it cannot be asked: {reason}. Run the same "
                        "command again when it is back; it goes on from there."
                    ) from error
                pause_s = min(2.0**number / 4, LONGEST_PAUSE_S)
            finally:
                if data is not None:
                    data.close()
            time.sleep(pause_s)
        raise AssertionError

    def job(self, method: str, path: str, **sent: Any) -> JobAnswer:
        """Send a request that is answered with a job; raises as `run`."""
        with self.ask(method, path, **sent) as answer:
            text = answer.read()
        try:
            return JobAnswer.model_validate_json(text)
        except ValidationError as error:
            raise StoreError(f"{self._url}: expected the answer of a service of this version of voorwerp") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Nobody else is to get the token."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Refuse."""
        return


class _Read:
    """A file that is read once, and counted."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        self._file, self._advance = path.open("rb"), advance

    def read(self, size: int = -1) -> bytes:
        """Read a piece."""
        data = self._file.read(size)
        self._advance(len(data))
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _send(service: _Service, table: Path, parameters: dict[str, Any], key: str) -> JobAnswer:
    size = table.stat().st_size
    headers = {
        "Content-Type": _TYPES.get(kind_of(table.name) or "", "application/octet-stream"),
        "Content-Length": str(size),
        "Idempotency-Key": key,
    }
    query = urllib.parse.urlencode(parameters)
    with progress("send", size, "bytes") as advance:
        sent = 0

        def counted(n: int) -> None:
            nonlocal sent
            advance(min(n, size - sent))  # A table that is sent again is not counted again.
            sent = min(size, sent + n)

        body: Any = lambda: _Read(table, counted)  # noqa: E731
        return service.job("POST", f"/v1/jobs?{query}", headers=headers, body=body)


def _wait(service: _Service, found: JobAnswer) -> JobAnswer:
    with progress("ask", found.n_queries, "queries", done=found.n_done) as advance:
        wait_s = 1.0
        while found.ended_utc is None:
            begun_s = time.monotonic()
            later = service.job("GET", f"/v1/jobs/{found.id}?wait={wait_s:g}")
            advance(later.n_done - found.n_done)
            if later.phase == found.phase:  # The service may answer early.
                time.sleep(max(0.0, wait_s - (time.monotonic() - begun_s)))
            found, wait_s = later, min(1.3 * wait_s, LONGEST_WAIT_S)
    return found


def _fetch(service: _Service, found: JobAnswer, output: Path) -> None:
    """Fetch a result, from where an earlier run stopped; of Parquet, whose bytes are always the same."""
    assert found.result is not None
    kind, part = _FORMATS[output.suffix], output.with_name(f"{output.name}.{found.id}.part")
    for number in range(TRIES):
        start = part.stat().st_size if part.exists() and kind == "parquet" else 0
        headers = {"Range": f"bytes={start}-"} if 0 < start < found.result.size_bytes else {}
        try:
            with service.ask("GET", f"/v1/jobs/{found.id}/result?format={kind}", headers) as answer:
                _save(answer, part, found.result.size_bytes if kind == "parquet" else None)
            break
        except (OSError, HTTPException) as error:
            if number == TRIES - 1:
                raise StoreError(f"{output}: expected the whole result, found an end before it: {error}") from error
    if kind == "parquet" and _digest(part) != found.result.sha256:
        part.unlink()
        raise IntegrityError(f"{output}: expected a result of SHA-256 {found.result.sha256}, found another; ask again")
    part.replace(output)


def _save(answer: HTTPResponse, part: Path, size: int | None) -> None:
    goes_on = answer.status == 206
    done = part.stat().st_size if goes_on else 0
    known = nullcontext(lambda n: None) if size is None else progress("fetch", size, "bytes", done=done)
    with part.open("ab" if goes_on else "wb") as file, known as advance:
        while block := answer.read(_BLOCK_BYTES):
            file.write(block)
            advance(len(block))
    if size is not None and part.stat().st_size < size:
        raise OSError("the connection ended")


def _found(service: _Service, asked: Asked) -> JobAnswer | None:
    """Find the job of an earlier run; None where there is none any more."""
    if asked.job is None:
        return None
    try:
        found = service.job("GET", f"/v1/jobs/{asked.job}")
    except InputNotFoundError:
        return None
    note("ask", f"going on with job {found.id}: {found.phase}, {found.n_done:,} of {found.n_queries:,} queries done")
    return found


def _remembered(path: Path, question: str) -> Asked:
    with suppress(OSError, ValueError):
        asked = Asked.model_validate_json(path.read_bytes())
        if asked.question == question:
            return asked
    return Asked(question=question, key=uuid4().hex)


def _parameters(job: AskJob) -> dict[str, Any]:
    given = {name: getattr(job, name) for name in JobParameters.model_fields}
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in given.items()
        if value is not None
    }


def _token(job: AskJob) -> str:
    if job.token_file:
        path = Path(job.token_file)
        if not path.is_file():
            raise InputNotFoundError(f"token_file: expected a file that holds a token, found nothing at {path}")
        return path.read_text().strip()
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise ConfigError(f"token_file: expected a token in a file or in {TOKEN_VARIABLE}, found neither")
    return token


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _pause_s(error: urllib.error.HTTPError, number: int) -> float | None:
    """How long to wait before a request is sent again; None where that would not help."""
    if error.code not in (408, 429, 502, 503, 504):
        return None
    with suppress(TypeError, ValueError):
        return min(float(error.headers["Retry-After"]), LONGEST_PAUSE_S)
    return min(2.0**number, LONGEST_PAUSE_S)


def _explained(error: urllib.error.HTTPError, url: str) -> Exception:
    """Turn a problem into an error of ours."""
    try:
        detail = Problem.model_validate(json.loads(error.read(1 << 20))).detail
    except (ValueError, OSError, HTTPException):
        detail = str(error.reason)
    said = f"{url}: {detail}"
    if error.code in (401, 403):
        return ConfigError(f"token: {said}")
    if error.code == 404:
        return InputNotFoundError(said)
    if error.code in (429, 503):
        return BusyError(f"{said}. Run the same command again later; it goes on from there.")
    return DataError(said) if error.code in (400, 409, 413, 415, 416, 422) else StoreError(said)
