"""Pictures over HTTP: those of the engine, and of what is no picture the reason."""

import io
import threading
from collections.abc import Callable

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from engine.cluster import serving, turns
from engine.cluster.pictures import pictures_of
from engine.cluster.serving import ReleaseSearcher
from tests.service.conftest import BOMB, CUT, HTML, MISSING, Served, bearer


def test_a_cutout_is_the_picture_of_the_engine(reader: TestClient, served: Served) -> None:
    for side in (16, 48, 160):
        answer = reader.get(f"/v1/objects/{served.id(0)}/cutout.jpg", params={"side": side})
        assert answer.headers["content-type"] == "image/jpeg"
        shown = np.asarray(Image.open(io.BytesIO(answer.content)))
        (expected,) = pictures_of(served.release, [served.id(0)], side)
        assert isinstance(expected, np.ndarray)
        assert shown.shape == expected.shape
        assert np.abs(shown.astype(int) - expected).mean() < 3


def test_a_picture_that_is_known_is_not_sent_again(reader: TestClient, served: Served) -> None:
    path = f"/v1/objects/{served.id(0)}/cutout.jpg"
    tag = reader.get(path).headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = reader.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert reader.get(path, headers={"If-None-Match": '"other"'}).status_code == 200
    assert reader.get(path, params={"side": 16}).headers["etag"] != tag
    assert reader.get(f"/v1/objects/{served.id(5)}/cutout.jpg").headers["etag"] != tag


def test_only_what_everyone_may_see_may_be_kept_by_anyone(make_app: Callable[..., FastAPI], served: Served) -> None:
    answer = TestClient(make_app(anonymous_read=True)).get(f"/v1/objects/{served.id(0)}/cutout.jpg")
    assert answer.headers["cache-control"] == "public, max-age=3600"


@pytest.mark.parametrize(
    ("row", "reason"),
    [(HTML, "decode_error"), (CUT, "decode_error"), (BOMB, "too_large"), (MISSING, "not_found")],
)
def test_what_is_no_picture_is_404_with_the_reason_and_nothing_of_it_is_sent(
    reader: TestClient, served: Served, row: int, reason: str
) -> None:
    answer = reader.get(f"/v1/objects/{served.id(row)}/cutout.jpg")
    assert (answer.status_code, answer.json()["reason"]) == (404, reason)
    assert answer.headers["content-type"] == "application/problem+json"
    assert str(served.output.parent) not in answer.text
    assert "<script>" not in answer.text


def test_an_object_that_is_not_there_has_no_picture(reader: TestClient) -> None:
    answer = reader.get("/v1/objects/1/cutout.jpg")
    assert (answer.status_code, answer.json()["reason"]) == (404, "not_found")


@pytest.mark.parametrize("side", ["0", "7", "1025", "-5", "big", "1e2", "1000000000000"])
def test_pictures_have_sides_within_bounds(reader: TestClient, served: Served, side: str) -> None:
    answer = reader.get(f"/v1/objects/{served.id(0)}/cutout.jpg", params={"side": side})
    assert (answer.status_code, answer.json()["errors"][0]["where"]) == (422, "query.side")


def test_no_more_than_a_few_pictures_are_drawn_at_once(
    make_app: Callable[..., FastAPI],
    token_of: Callable[..., str],
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing, going_on, begun = 0, threading.Event(), threading.Semaphore(0)
    most = 0

    def slow(*arguments: object) -> list[np.ndarray]:
        nonlocal drawing, most
        drawing += 1
        most = max(most, drawing)
        begun.release()
        going_on.wait(5)
        drawing -= 1
        return [np.zeros((8, 8, 3), np.uint8)]

    monkeypatch.setattr(serving, "pictures_of", slow)
    monkeypatch.setattr(turns, "PATIENCE_S", 0.1)
    client = TestClient(make_app(searcher=ReleaseSearcher(served.release)), headers=bearer(token_of("read")))
    path, found = f"/v1/objects/{served.id(0)}/cutout.jpg", []
    threads = [threading.Thread(target=lambda: found.append(client.get(path).status_code)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert begun.acquire(timeout=5)
    refused = client.get(path)
    going_on.set()
    for thread in threads:
        thread.join()
    assert (refused.status_code, refused.json()["reason"], most) == (503, "busy", 4)
    assert found == [200] * 4
