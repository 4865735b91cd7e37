"""The page for people: files of this package. They hold no data, so that they are read without a token."""

import hashlib
from importlib.resources import files
from pathlib import PurePath
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from engine.service.problems import ProblemError

INDEX = "index.html"
SAMP_HUBS = "http://localhost:21012 http://127.0.0.1:21012"
"""Of the reader's own computer, where the SAMP Web Profile has them (SAMP 1.3, section 5)."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    f"connect-src 'self' {SAMP_HUBS}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


class _File(NamedTuple):
    content: bytes
    media_type: str
    tag: str


def _read_all() -> dict[str, _File]:
    found = {}
    for file in files("engine.service").joinpath("page").iterdir():
        if media_type := _MEDIA_TYPES.get(PurePath(file.name).suffix):
            content = file.read_bytes()
            found[file.name] = _File(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')
    return found


_FILES = _read_all()
PATHS = frozenset({"/", *(f"/page/{name}" for name in _FILES)})
"""What is served here, and nothing else."""


def routes() -> APIRouter:
    """Make the routes."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        return _answer(request, INDEX)

    @router.get("/page/{name}")
    async def page_file(request: Request, name: str) -> Response:
        return _answer(request, name)

    return router


def _answer(request: Request, name: str) -> Response:
    if name not in _FILES:
        raise ProblemError(404, "not-found", "the page has no such file")
    file = _FILES[name]
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "Content-Type": file.media_type,
        "ETag": file.tag,
    }
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if file.tag in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers)
