"""The report card over HTTP: the bytes that were signed, a page that may do nothing, and neither without a token."""

import html
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.serving import ReleaseSearcher
from engine.service.report_policy import policy_of, style_hash
from engine.storage.store import Store
from jobs import keygen, report_card
from schemas import paths
from schemas.report import Report, ReportJob
from tests.generated import clustered, positions, write_release
from tests.service.conftest import Served, bearer

Make = Callable[..., FastAPI]
Create = Callable[..., str]
N = 200


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """A release with a signed report."""
    folder = tmp_path_factory.mktemp("reported")
    ra_deg, dec_deg = positions(N, 2)
    objects = {"object_id": range(N), "ra_deg": ra_deg, "dec_deg": dec_deg}
    write_release(folder / "out", objects, clustered(N, 4, 5))
    keygen.run(folder / "key")
    report_card.run(ReportJob(release=str(folder / "out"), tile_objects=20, key=folder / "key"))
    return open_release(Store(str(folder / "out")))


@pytest.fixture
def client(release: OpenRelease, make_app: Make, token_of: Create) -> TestClient:
    return TestClient(make_app(searcher=ReleaseSearcher(release)), headers=bearer(token_of("read")))


def stored(release: OpenRelease, name: str) -> bytes:
    (path,) = Path(release.store.uri()).glob(f"report/*/{name}")
    return path.read_bytes()


def test_the_report_is_the_bytes_that_are_signed(client: TestClient, release: OpenRelease) -> None:
    answer = client.get(f"/v1/releases/{release.id}/report")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == stored(release, paths.REPORT)
    assert Report.model_validate_json(answer.content).release == release.id
    (signature,) = Path(release.store.uri()).glob("report/*/signatures/*.sig")
    assert answer.headers["voorwerp-signed-by"] == signature.stem


def test_the_page_may_show_its_own_style_and_images_and_do_nothing_else(
    client: TestClient, release: OpenRelease
) -> None:
    answer = client.get(f"/v1/releases/{release.id}/report.html")
    assert answer.content == stored(release, paths.REPORT_PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")[:-1])
    (style,) = re.findall("<style>(.*?)</style>", answer.text, re.DOTALL)
    assert policy == {
        "default-src": "'none'",
        "style-src": style_hash(style),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert answer.headers["content-security-policy"].endswith("; sandbox")
    assert style_hash(style) in html.unescape(answer.text)  # The page says the same of itself, for those who save it.


def test_a_page_without_a_style_gets_none() -> None:
    assert "style-src 'none'" in policy_of(b"<html></html>")


@pytest.mark.parametrize("suffix", ["", ".html"])
def test_who_may_read_nothing_reads_no_report(
    make_app: Make, token_of: Create, release: OpenRelease, suffix: str
) -> None:
    app, path = make_app(searcher=ReleaseSearcher(release)), f"/v1/releases/{release.id}/report{suffix}"
    assert TestClient(app).get(path).status_code == 401
    assert TestClient(app, headers=bearer(token_of("rate"))).get(path).status_code == 403


@pytest.mark.parametrize("suffix", ["", ".html"])
def test_where_there_is_no_report_the_answer_says_so(
    make_app: Make, token_of: Create, served: Served, suffix: str
) -> None:
    client = TestClient(make_app(), headers=bearer(token_of("read")))
    for name in (served.release.id, "0" * 16):
        answer = client.get(f"/v1/releases/{name}/report{suffix}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "no-report")
    for name in ("..", "%2e%2e", "A" * 16, "0" * 15):
        assert client.get(f"/v1/releases/{name}/report{suffix}").status_code in (404, 422)


def test_a_report_that_was_changed_is_not_told(
    client: TestClient, release: OpenRelease, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = Path(release.store.uri()).glob(f"report/*/{paths.REPORT}")
    data = path.read_bytes()
    try:
        path.write_bytes(data.replace(b'"n_planned":200', b'"n_planned":201'))
        answer = client.get(f"/v1/releases/{release.id}/report")
    finally:
        path.write_bytes(data)
    assert answer.status_code == 500
    assert str(path.parent) not in json.dumps(answer.json())
