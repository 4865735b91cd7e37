"""Campaigns over HTTP: what is asked, recorded and taken back is what the terminal would have seen."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.cluster import campaign as campaigning
from engine.cluster import turns
from engine.cluster.serving_campaigns import ServedCampaigns
from engine.cluster.space import OpenSpace
from engine.storage.campaigns import CampaignStore
from schemas.campaign import Campaign
from schemas.errors import BusyError
from tests.service.conftest import N, Served, bearer

ODD = "/v1/campaigns/odd"


def rate(client: TestClient, key: str, **ratings: int) -> dict:
    given = [{"object_id": name.removeprefix("o"), "rating": value} for name, value in ratings.items()]
    answer = client.post(f"{ODD}/rate", json={"ratings": given}, headers={"Idempotency-Key": key})
    return {"status": answer.status_code, **answer.json()}


def test_a_rater_is_asked_rates_and_is_asked_what_the_engine_asks_next(
    client: TestClient, store: CampaignStore
) -> None:
    first = client.post(f"{ODD}/next").json()
    assert (first["campaign"], first["rater"], len(first["asked"])) == ("odd", "ann", 6)
    assert client.post(f"{ODD}/next").json() == first
    ids = [one["object_id"] for one in first["asked"]]
    found = rate(client, "one", **{f"o{object_id}": n for n, object_id in enumerate(ids)})
    assert [one["object_id"] for one in found["recorded"]] == ids
    campaign = store.campaign("odd")
    held = campaigning.ratings_table(store, campaign, "ann").to_pydict()
    assert held["rating"] == [0, 1, 2, 3, 4, 5]
    second = client.post(f"{ODD}/next", json={"n": 3}).json()
    (number, record) = store.rankings("odd", "ann")[-1]
    space = campaigning.open_campaign_space(campaign, 1, lambda n: None)
    again = campaigning.reproduce(store, campaign, record, space)
    assert second["ranking"] == number
    assert second["asked"] == [one.model_dump() for one in again.asked]
    assert not {one["object_id"] for one in second["asked"]} & set(ids)


@pytest.mark.fault(35, "a request that is sent again")
def test_a_rating_that_is_sent_again_is_recorded_once_and_answered_alike(
    client: TestClient, store: CampaignStore, served: Served
) -> None:
    one, two = f"o{served.id(0)}", f"o{served.id(1)}"
    first = rate(client, "key", **{one: 3, two: 4})
    assert first["status"] == 200
    assert rate(client, "key", **{one: 3, two: 4}) == first
    assert len(store.events("odd")) == 2
    assert rate(client, "key", **{one: 3, two: 5})["status"] == 422
    assert len(store.events("odd")) == 2


def test_a_request_sent_many_times_at_once_is_recorded_once(
    client: TestClient, store: CampaignStore, served: Served
) -> None:
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: rate(client, "key", **{f"o{served.id(0)}": 2}), range(6)))
    assert all(answer == answers[0] for answer in answers)
    assert len(store.events("odd")) == 1


def test_the_rater_is_whose_token_it_is(
    make_app: Callable[..., FastAPI], token_of: Callable[..., str], store: CampaignStore, served: Served
) -> None:
    app = make_app()
    bob = TestClient(app, headers=bearer(token_of("rate", rater="bob")))
    given = {"ratings": [{"object_id": served.id(0), "rating": 5}]}
    headers = {"Idempotency-Key": "k"}
    answer = bob.post(f"{ODD}/rate", json={**given, "rater": "ann"}, headers=headers)
    assert answer.status_code == 422
    answer = bob.post(f"{ODD}/rate?rater=ann", json=given, headers={**headers, "X-Rater": "ann"})
    assert answer.status_code == 200
    assert [one.event.rater for one in store.events("odd")] == ["bob"]


def test_a_rating_is_taken_back_once_however_often_that_is_sent(
    client: TestClient, store: CampaignStore, served: Served
) -> None:
    for n in range(3):
        rate(client, f"k{n}", **{f"o{served.id(n)}": n})
    first = client.post(f"{ODD}/undo", headers={"Idempotency-Key": "u"})
    again = client.post(f"{ODD}/undo", headers={"Idempotency-Key": "u"})
    assert first.json() == again.json()
    (event,) = first.json()["recorded"]
    assert (event["kind"], event["undoes"], event["object_id"]) == ("undo", "k2", served.id(2))
    client.post(f"{ODD}/undo", headers={"Idempotency-Key": "v"})
    held = campaigning.ratings_table(store, store.campaign("odd"))
    assert held["object_id"].to_pylist() == [int(served.id(0))]
    client.post(f"{ODD}/undo", headers={"Idempotency-Key": "w"})
    nothing = client.post(f"{ODD}/undo", headers={"Idempotency-Key": "x"})
    assert (nothing.status_code, "no rating in odd" in nothing.json()["detail"]) == (422, True)
    used = client.post(f"{ODD}/undo", headers={"Idempotency-Key": "k1"})
    assert used.status_code == 422


def test_everyone_reads_their_own_ratings_and_admins_all(
    make_app: Callable[..., FastAPI], token_of: Callable[..., str], served: Served
) -> None:
    app = make_app()
    ann = TestClient(app, headers=bearer(token_of("read", "rate", rater="ann")))
    bob = TestClient(app, headers=bearer(token_of("read", "rate", "admin", rater="bob")))
    nobody = TestClient(app, headers=bearer(token_of("read", name="reader", rater=None)))
    for n in range(3):
        rate(ann, f"a{n}", **{f"o{served.id(n)}": n})
    rate(bob, "b", **{f"o{served.id(5)}": 5})
    mine = ann.get(f"{ODD}/ratings").json()
    assert [(row["object_id"], row["rating"]) for row in mine["ratings"]] == [(served.id(n), n) for n in range(3)]
    part = ann.get(f"{ODD}/ratings?start=1&n=1").json()
    assert (part["n_ratings"], part["ratings"]) == (3, mine["ratings"][1:2])
    assert ann.get(f"{ODD}/ratings?everyone=true").status_code == 403
    assert ann.get(f"{ODD}/ratings?rater=bob").status_code == 422
    assert {row["rater"] for row in bob.get(f"{ODD}/ratings?everyone=true").json()["ratings"]} == {"ann", "bob"}
    assert nobody.get(f"{ODD}/ratings").status_code == 403


def test_campaigns_on_this_release_alone_are_there_and_do_not_say_where_it_lies(
    client: TestClient, served: Served, store: CampaignStore
) -> None:
    found = client.get("/v1/campaigns").json()
    assert [one["name"] for one in found["campaigns"]] == ["odd"]
    assert client.get(ODD).json() == found["campaigns"][0]
    assert client.get(ODD).json()["config"]["batch"] == 6
    assert str(served.output) not in str(found)
    assert client.post("/v1/campaigns/elsewhere/next").status_code == 404


@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({"ratings": [{"object_id": "{id}", "rating": 6}]}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": "5"}]}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": 2.5}]}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": True}]}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "1", "rating": 5}]}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": 5}] * 2}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": 5}] * 1001}, {"Idempotency-Key": "k"}),
        ({"ratings": []}, {"Idempotency-Key": "k"}),
        ({"ratings": [{"object_id": "{id}", "rating": 5}]}, {}),
        ({"ratings": [{"object_id": "{id}", "rating": 5}]}, {"Idempotency-Key": "no spaces"}),
        ({"ratings": [{"object_id": "{id}", "rating": 5}]}, {"Idempotency-Key": "x" * 129}),
    ],
)
def test_ratings_that_cannot_be_are_refused_and_nothing_is_recorded(
    client: TestClient, store: CampaignStore, served: Served, given: dict, headers: dict
) -> None:
    ratings = [{**one, "object_id": one["object_id"].format(id=served.id(0))} for one in given["ratings"]]
    answer = client.post(f"{ODD}/rate", json={"ratings": ratings}, headers=headers)
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")
    assert str(served.output) not in answer.text
    assert store.events("odd") == []


def test_raters_who_ask_at_once_are_never_asked_about_the_same_object(
    make_app: Callable[..., FastAPI], token_of: Callable[..., str]
) -> None:
    app = make_app()
    raters = [TestClient(app, headers=bearer(token_of("rate", name=name, rater=name))) for name in "abcd"]
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda one: one.post(f"{ODD}/next", json={"n": 20}).json()["asked"], raters))
    ids = [one["object_id"] for batch in asked for one in batch]
    assert len(ids) == len(set(ids)) == 80
    rest = raters[0].post(f"{ODD}/next")
    assert len(rest.json()["asked"]) == 20
    last = TestClient(app, headers=bearer(token_of("rate", name="e", rater="e")))
    assert len(last.post(f"{ODD}/next", json={"n": 1000}).json()["asked"]) == N - 80
    none = TestClient(app, headers=bearer(token_of("rate", name="f", rater="f"))).post(f"{ODD}/next")
    assert (none.status_code, "every object is rated, or kept" in none.json()["detail"]) == (422, True)


def test_a_space_is_read_once_and_who_waits_too_long_for_it_is_told_to_try_again(
    store: CampaignStore, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Campaign] = []

    def open_space(campaign: Campaign) -> OpenSpace:
        opened.append(campaign)
        return campaigning.open_campaign_space(campaign)

    campaigns = ServedCampaigns(store, str(served.output.resolve()), open_space=open_space)
    campaigns.next("odd", "ann", None)
    campaigns.next("odd", "bob", None)
    assert len(opened) == 1
    monkeypatch.setattr(turns, "PATIENCE_S", 0.05)
    busy = ServedCampaigns(store, str(served.output.resolve()))
    asking = busy._asking.one()
    with asking, pytest.raises(BusyError, match="too many questions at once"):
        busy.next("odd", "ann", None)


def test_of_many_who_ask_a_few_wait_and_the_others_are_told_at_once(store: CampaignStore, served: Served) -> None:
    campaigns = ServedCampaigns(store, str(served.output.resolve()))
    with ThreadPoolExecutor(8) as pool:
        with campaigns._asking.one():
            asked = [pool.submit(campaigns.next, "odd", name, 1) for name in "abcdefgh"]
            first = next(as_completed(asked, timeout=10))
            assert isinstance(first.exception(), BusyError)
        found = [one.exception() for one in asked]
    assert [type(one) for one in found if one] == [BusyError]


def test_more_is_asked_beside_what_waits_so_that_a_rater_can_go_on(client: TestClient, store: CampaignStore) -> None:
    first = client.post(f"{ODD}/next").json()
    ids = [one["object_id"] for one in first["asked"]]
    rate(client, "one", **{f"o{object_id}": 3 for object_id in ids[:3]})
    assert client.post(f"{ODD}/next", json={"n": 3}).json()["asked"] == first["asked"][3:]
    more = client.post(f"{ODD}/next", json={"n": 9}).json()["asked"]
    assert more[:3] == first["asked"][3:]
    assert len({one["object_id"] for one in more} | set(ids)) == 12
    assert client.post(f"{ODD}/next").json()["asked"] == more
    (_, record) = store.rankings("odd", "ann")[-1]
    assert record.waiting == tuple(ids[3:])
    campaign = store.campaign("odd")
    space = campaigning.open_campaign_space(campaign, 1, lambda n: None)
    again = campaigning.reproduce(store, campaign, record, space)
    assert [one.object_id for one in again.asked] == [one["object_id"] for one in more[3:]]


def test_what_waits_is_asked_again_where_there_is_nothing_beside_it(client: TestClient, store: CampaignStore) -> None:
    everything = client.post(f"{ODD}/next", json={"n": 1000}).json()["asked"]
    assert len(everything) == N
    assert client.post(f"{ODD}/next", json={"n": 1000}).json()["asked"] == everything
