"""Campaigns as a whole over HTTP: made, ranked and exported as the terminal would."""

import io
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.cluster import campaign as campaigning
from engine.cluster import serving_campaigns, standings
from engine.cluster.asking import learn_from, place
from engine.compute.gp import Kernel
from engine.compute.learning import Learned
from engine.compute.ranking import score_all
from engine.storage.campaigns import CampaignStore
from schemas.campaign import CampaignConfig
from tests.service.conftest import N, Served, bearer

ODD = "/v1/campaigns/odd"


@pytest.fixture
def admin(make_app: Callable[..., FastAPI], token_of: Callable[..., str]) -> TestClient:
    """A client who may do everything."""
    return TestClient(make_app(), headers=bearer(token_of("read", "rate", "admin")))


def rate(client: TestClient, ratings: dict[str, int], key: str, name: str = "odd") -> None:
    given = [{"object_id": object_id, "rating": rating} for object_id, rating in ratings.items()]
    url = f"/v1/campaigns/{name}/rate"
    assert client.post(url, json={"ratings": given}, headers={"Idempotency-Key": key}).status_code == 200


def first_component(served: Served, n: int) -> dict[str, int]:
    """Ratings that rise with the first component."""
    ranks = np.argsort(np.argsort(served.vectors[:n, 0]))
    return {served.id(row): int(6 * ranks[row] / n) for row in range(n)}


def test_a_campaign_is_made_once_and_asks_as_one_of_the_terminal(
    admin: TestClient, store: CampaignStore, served: Served
) -> None:
    asked = {"name": "rings", "config": {"space": "search", "batch": 3, "examples": [served.id(5)]}}
    made = admin.post("/v1/campaigns", json=asked)
    assert (made.status_code, made.headers["location"]) == (201, "/v1/campaigns/rings")
    assert made.json()["config"] == CampaignConfig.model_validate(asked["config"]).model_dump(mode="json")
    odd = store.campaign("odd")
    assert (
        store.campaign("rings").model_copy(update={"name": "odd", "config": odd.config, "created_utc": odd.created_utc})
        == odd
    )
    again = admin.post("/v1/campaigns", json=asked)
    assert (again.status_code, again.json()) == (201, made.json())
    other = admin.post("/v1/campaigns", json={**asked, "config": {"space": "search"}})
    assert (other.status_code, other.json()["reason"]) == (409, "conflict")
    assert len(admin.post("/v1/campaigns/rings/next").json()["asked"]) == 3


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "a b"}, "name"),
        ({"name": "x", "config": {"space": "sky"}}, "config.space"),
        ({"name": "x", "config": {"examples": ["1"] * 1001}}, "at most 1,000"),
        ({"name": "x", "config": {"space": "search", "examples": ["1"]}}, "the release"),
        ({"name": "x", "config": {"space": "anomaly"}}, "voorwerp campaign create"),
        ({"name": "x", "release": "/etc"}, "release"),
        ({}, "name"),
    ],
    ids=str,
)
def test_campaigns_that_cannot_be_are_not_made(
    admin: TestClient, store: CampaignStore, served: Served, asked: dict, said: str
) -> None:
    answer = admin.post("/v1/campaigns", json=asked)
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")
    assert said in answer.json()["detail"]
    assert str(served.output) not in answer.text
    assert store.names() == ["elsewhere", "odd"]


def test_the_ranking_is_that_of_scoring_every_object(admin: TestClient, store: CampaignStore, served: Served) -> None:
    empty = admin.get(f"{ODD}/ranking").json()
    assert empty == {"campaign": "odd", "ranking": 0, "n_ratings": 0, "stale": False, "ranked": []}
    ratings = first_component(served, 30)
    rate(admin, ratings, "all")
    found = admin.get(f"{ODD}/ranking", params={"n": N}).json()
    assert (found["n_ratings"], found["ranking"], found["stale"]) == (30, store.events("odd")[-1].sequence, False)
    space = campaigning.open_campaign_space(store.campaign("odd"), 1, lambda n: None)
    learned = learn_from(space, place(space, {name: float(value) for name, value in ratings.items()}), Kernel())
    assert learned
    vectors = space.vectors(np.arange(space.n)).astype(np.float32)
    scored = score_all(learned.posterior, vectors)
    order = np.argsort(-scored.mean, kind="stable")
    assert [row["object_id"] for row in found["ranked"]] == space.ids(order)
    assert [row["rank"] for row in found["ranked"]] == list(range(1, N + 1))
    np.testing.assert_allclose([row["mean"] for row in found["ranked"]], scored.mean[order], rtol=1e-12)
    np.testing.assert_allclose([row["sd"] for row in found["ranked"]], scored.sd[order], rtol=1e-9)
    few = admin.get(f"{ODD}/ranking", params={"n": 3}).json()
    assert few["ranked"] == found["ranked"][:3]


def test_a_ranking_that_is_asked_again_is_made_anew_only_after_an_event(
    admin: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, stand = [], serving_campaigns.stand
    monkeypatch.setattr(serving_campaigns, "stand", lambda *given: made.append(1) or stand(*given))
    rate(admin, first_component(served, 12), "all")
    first = admin.get(f"{ODD}/ranking").json()
    assert admin.get(f"{ODD}/ranking").json() == first
    assert len(made) == 1
    admin.post(f"{ODD}/undo", headers={"Idempotency-Key": "undo"})
    second = admin.get(f"{ODD}/ranking").json()
    assert (len(made), second["n_ratings"]) == (2, 11)
    assert second["ranking"] > first["ranking"]


@pytest.mark.fault(36, "a fit that fails, over HTTP")
def test_what_cannot_be_fitted_is_ranked_by_the_last_fit_and_says_so(
    admin: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = first_component(served, 13)
    *most, last = ratings.items()
    rate(admin, dict(most), "most")
    good = admin.get(f"{ODD}/ranking").json()
    learn = standings.learn_from
    fitted: list[Learned] = []

    def unfitted(space, placed, start, prior=None, refit=True):  # type: ignore[no-untyped-def]
        fitted.append(learn(space, placed, start, prior, refit=False)._replace(stale=refit))
        return fitted[-1]

    monkeypatch.setattr(standings, "learn_from", unfitted)
    rate(admin, dict([last]), "last")
    found = admin.get(f"{ODD}/ranking").json()
    assert (found["stale"], found["n_ratings"]) == (True, 13)
    assert fitted[-1].posterior.kernel != Kernel()

    def impossible(*given: object, **also: object) -> None:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(standings, "learn_from", impossible)
    admin.post(f"{ODD}/undo", headers={"Idempotency-Key": "undo"})
    assert admin.get(f"{ODD}/ranking").json() == found
    monkeypatch.setattr(standings, "learn_from", learn)
    rate(admin, dict([last]), "again")
    admin.post(f"{ODD}/undo", headers={"Idempotency-Key": "undo-again"})
    assert admin.get(f"{ODD}/ranking").json()["ranked"] == good["ranked"]


def test_nothing_to_learn_from_and_nothing_before_is_said(
    admin: TestClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def impossible(*given: object, **also: object) -> None:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr(standings, "learn_from", impossible)
    rate(admin, {served.id(0): 5}, "one")
    answer = admin.get(f"{ODD}/ranking")
    assert (answer.status_code, "nothing can be learned" in answer.json()["detail"]) == (422, True)


def read(answer: object, kind: str) -> pa.Table:
    content = answer.content  # type: ignore[attr-defined]
    if kind == "parquet":
        return pq.read_table(io.BytesIO(content))
    if kind == "csv":
        texts = {"object_id": pa.int64(), "request": pa.string(), "at_utc": pa.string()}
        return pacsv.read_csv(io.BytesIO(content), convert_options=pacsv.ConvertOptions(column_types=texts))
    return pa.Table.from_pandas(Table.read(io.BytesIO(content), format="votable").to_pandas(), preserve_index=False)


@pytest.mark.parametrize("kind", ["csv", "parquet", "votable"])
def test_ratings_are_exported_one_s_own_or_with_admin_everyone_s(
    make_app: Callable[..., FastAPI],
    token_of: Callable[..., str],
    store: CampaignStore,
    served: Served,
    kind: str,
) -> None:
    app = make_app()
    ann, bob = (
        TestClient(app, headers=bearer(token_of("read", "rate", name=name, rater=name))) for name in ("ann", "bob")
    )
    admin = TestClient(app, headers=bearer(token_of("read", "admin", name="admin", rater=None)))
    rate(ann, {served.id(0): 3, served.id(1): 0}, "ann")
    rate(bob, {served.id(0): 5}, "bob")
    campaign = store.campaign("odd")
    for client, everyone, rater in ((ann, False, "ann"), (bob, False, "bob"), (admin, True, None)):
        answer = client.get(f"{ODD}/export", params={"format": kind, "everyone": everyone})
        expected = campaigning.ratings_table(store, campaign, rater)
        suffix = {"votable": "vot"}.get(kind, kind)
        assert answer.headers["content-disposition"] == f'attachment; filename="ratings-odd.{suffix}"'
        found = read(answer, kind)
        for name in ("object_id", "rater", "rating", "request", "at_utc"):
            assert [str(one) for one in found[name].to_pylist()] == [str(one) for one in expected[name].to_pylist()]
    assert ann.get(f"{ODD}/export", params={"everyone": True}).status_code == 403
    assert admin.get(f"{ODD}/export").status_code == 403
    assert ann.get(f"{ODD}/export", params={"format": "json"}).status_code == 422


def test_a_ranking_is_a_table_too(admin: TestClient, served: Served) -> None:
    rate(admin, first_component(served, 12), "all")
    rows = admin.get(f"{ODD}/ranking", params={"n": 5}).json()["ranked"]
    answer = admin.get(f"{ODD}/ranking", params={"n": 5, "format": "parquet"})
    assert (answer.headers["voorwerp-stale"], answer.headers["voorwerp-ranking"]) == ("false", "12")
    table = pq.read_table(io.BytesIO(answer.content))
    assert table["object_id"].to_pylist() == [row["object_id"] for row in rows]
    assert table["expected_rating"].to_pylist() == [row["mean"] for row in rows]


def test_making_a_campaign_takes_an_admin(client: TestClient, reader: TestClient) -> None:
    for one in (client, reader):
        assert one.post("/v1/campaigns", json={"name": "x", "config": {"space": "search"}}).status_code == 403
    assert client.get("/v1/campaigns/nothing/ranking").status_code == 404
    assert client.get("/v1/campaigns/elsewhere/ranking").status_code == 404
    assert client.get("/v1/campaigns/nothing/export").status_code == 404
