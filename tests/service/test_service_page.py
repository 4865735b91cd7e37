"""The page is there for everyone, holds no data, and lets a browser do nothing but what it needs."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.service.routers import page

FOLDER = Path(page.__file__).parents[1] / "page"
Make = Callable[..., FastAPI]


def test_the_page_is_read_without_a_token_and_is_as_it_lies_in_the_package(make_app: Make) -> None:
    client = TestClient(make_app())
    assert {"/", "/page/index.html", "/page/page.css", "/page/app.mjs", "/page/icon.svg"} <= page.PATHS
    assert {path.removeprefix("/page/") for path in page.PATHS} - {"/"} == {file.name for file in FOLDER.iterdir()}
    for path in page.PATHS:
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.content == (FOLDER / (path.removeprefix("/page/").strip("/") or "index.html")).read_bytes()
        assert answer.headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src")
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.mjs", "text/javascript; charset=utf-8"),
        ("/page/page.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ],
)
def test_a_file_has_its_media_type_and_is_not_sent_again(make_app: Make, path: str, media_type: str) -> None:
    client = TestClient(make_app())
    answer = client.get(path)
    assert answer.headers["content-type"] == media_type
    assert answer.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/page/x.mjs",
        "/page/../security.py",
        "/page/%2e%2e/app.py",
        "/page//app.mjs",
        "/page/app.mjs/",
    ],
)
def test_nothing_else_is_open(make_app: Make, path: str) -> None:
    assert TestClient(make_app()).get(path).status_code == 401
    assert TestClient(make_app(anonymous_read=True)).get(path).status_code == 404


def test_the_page_has_neither_scripts_nor_styles_in_it_nor_anything_from_elsewhere() -> None:
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert "innerHTML" not in text
        assert "insertAdjacent" not in text
        assert "eval(" not in text
    index = (FOLDER / "index.html").read_text()
    assert "<style" not in index
    assert "style=" not in index
    assert "://" not in index
    assert index.count("<script") == index.count("</script>") == index.count(' src="page/') - index.count("<img")
