"""Conditions, maps of the sky and recalls over HTTP: what passes, what is refused, and what it may cost."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from astropy.coordinates import Latitude, Longitude
from hypothesis import given, settings
from hypothesis import strategies as st
from mocpy import MOC
from starlette.testclient import TestClient

from engine.cluster.answer import Question, answer, effort_for, recall_of
from engine.cluster.filters import filter_for
from engine.cluster.opened import open_release
from engine.cluster.resolve import places_of_ids
from engine.cluster.serving import ReleaseSearcher
from engine.compute.predicate import Predicate
from engine.storage.store import Store
from schemas.errors import BusyError, ConfigError, DataError
from schemas.service import NeighboursQuestion
from schemas.tables import DEC, OBJECT_ID, RA
from tests.service.conftest import N, Served


def ids_of(answered: dict) -> set[str]:
    (one,) = answered["answers"]
    return {row["object_id"] for row in one["neighbours"]}


def test_only_objects_that_meet_a_condition_are_answers(reader: TestClient, served: Served) -> None:
    asked = {"id": served.id(0), "k": N, "where": "mag_r < 3 and not note is None or mag_r >= 11.5"}
    expected = {served.id(row) for row in range(1, N) if row != 9 and row / 10 >= 11.5}
    assert ids_of(reader.get("/v1/neighbours", params=asked).json()) == expected
    posted = {"ids": [served.id(0)], "k": N, "where": asked["where"]}
    assert ids_of(reader.post("/v1/neighbours", json=posted).json()) == expected


@pytest.mark.parametrize("form", ["ascii", "json"])
def test_only_objects_that_a_moc_covers_are_answers(reader: TestClient, served: Served, form: str) -> None:
    moc = MOC.from_string("1/0-11 20 2/160-180")
    text = moc.to_string(format="json") if form == "json" else "1/0-11,20\n2/160-180"
    inside = moc.contains_lonlat(Longitude(served.ra_deg, unit="deg"), Latitude(served.dec_deg, unit="deg"))
    asked = {"ids": [served.id(0)], "k": N, "moc": text, "cone": {"ra_deg": 0, "dec_deg": 90, "radius_arcsec": 5e5}}
    near = served.dec_deg >= 90 - 5e5 / 3600
    expected = {served.id(row) for row in np.flatnonzero(inside & near) if row}
    assert ids_of(reader.post("/v1/neighbours", json=asked).json()) == expected


@pytest.mark.parametrize(
    "where",
    [
        "",
        "mag_r <",
        "mag < 3",
        "cutout == 'x'",
        "__import__('os').system('true')",
        "mag_r.real > 1",
        "(lambda: mag_r)() > 1",
        "[x for x in mag_r]",
        "f'{mag_r}' == '1'",
        "mag_r ** 9 > 1",
        "mag_r < 99999999999999999999999999",
        "mag_r == 'a'",
        "note > 1",
        "note * 5 == 'a'",
        "not " * 240 + "mag_r",
        "mag_r > 1" + " or mag_r > 1" * 100,
        "mag_r > 0x" + "f" * 300,
        "\x00mag_r > 1",
        "1 < 2",
        "components > 1",
        "seen > 1",
        "object_id == 'a'",
    ],
    ids=lambda text: text[:30],
)
def test_conditions_that_cannot_be_asked_are_refused_with_a_reason(
    reader: TestClient, served: Served, where: str
) -> None:
    found = reader.post("/v1/neighbours", json={"ids": [served.id(0)], "where": where})
    assert (found.status_code, found.json()["reason"]) == (422, "invalid"), found.text
    assert "where" in found.json()["detail"]


@pytest.mark.parametrize(
    "where",
    [
        "-" * 900 + "mag_r > 1",
        "(" * 450 + "mag_r" + ")" * 450 + " > 1",
        "+".join(["mag_r"] * 160) + " > 1",
        "mag_r > 1e999",
        "mag_r in [1, 'a']",
        f"mag_r in [{','.join('1' * 400)}]",
    ],
    ids=lambda text: text[:30],
)
def test_conditions_that_are_odd_are_answered_or_refused(reader: TestClient, served: Served, where: str) -> None:
    found = reader.post("/v1/neighbours", json={"ids": [served.id(0)], "where": where})
    assert found.status_code in (200, 422), found.text


PIECES = ["mag_r", "note", "seen", "object_id", "1", "-2.5", "'a'", "None", "True", "[1, 2]", "(", ")", "<", "==", "in"]
PIECES += ["is", "not", "and", "or", "+", "/", "*", "9" * 30, "\ud800", "1e400", "{}", "if", "else", ":=", "ra_deg"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join) | st.text(max_size=40))
@settings(max_examples=200, deadline=None)
def test_any_condition_is_a_filter_or_refused(where: str) -> None:
    columns = {"mag_r": [1.0, None], "note": ["a", "b"], "object_id": [1, 2], "ra_deg": [0.0, 1.0]}
    columns["seen"] = pa.array([1, 2], pa.timestamp("s"))
    table = pa.table(columns)
    try:
        passing = filter_for(table.schema, None, None, where)
    except ConfigError:
        return
    if passing.where:
        try:
            assert len(Predicate(passing.where).mask(table)) == 2
        except ConfigError:
            return


@pytest.mark.parametrize(
    "moc",
    [
        "",
        "garbage",
        "3/99999",
        "3/-1",
        "30/1",
        "3/1 3/1",
        "{",
        '{"3": [99999]}',
        '{"a": [1]}',
        '{"3": {}}',
        '{"3": [1.5]}',
        "[" * 10_000,
        "{" * 10_000,
        "3/" + "9" * 1000,
    ],
    ids=lambda text: text[:20],
)
def test_maps_that_are_none_are_refused_with_a_reason(reader: TestClient, served: Served, moc: str) -> None:
    found = reader.post("/v1/neighbours", json={"ids": [served.id(0)], "moc": moc})
    assert (found.status_code, found.json()["reason"]) == (422, "invalid"), found.text
    assert "moc" in found.json()["detail"]


@given(st.text(alphabet='0123456789/-, {}[]":\ns', max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_a_map_or_refused(text: str) -> None:
    schema = pa.schema({"object_id": pa.int64()})
    try:
        assert filter_for(schema, None, text, None).moc is not None
    except DataError:
        return


def test_approximate_answers_say_so_with_the_recall_that_was_measured(reader: TestClient, served: Served) -> None:
    wanted = min(setting.recall for setting in served.release.detail.settings)
    effort = effort_for(served.release, wanted)
    places = places_of_ids(served.release, pa.array([served.id(3)]))
    table = answer(served.release, np.arange(1), places, None, Question(5, effort=effort))
    asked = {"id": served.id(3), "k": 5, "approximate": wanted}
    found = reader.get("/v1/neighbours", params=asked).json()
    (one,) = found["answers"]
    assert [row["object_id"] for row in one["neighbours"]] == [str(value) for value in table[OBJECT_ID].to_pylist()]
    assert (one["exactness"], found["recall"]) == ("approximate", recall_of(served.release, effort))
    assert (found["shards_asked"], found["n_shards"]) == (3, 3)
    headers = reader.get("/v1/neighbours", params={**asked, "format": "csv"}).headers
    assert (headers["voorwerp-exactness"], float(headers["voorwerp-recall"])) == ("approximate", found["recall"])
    exact = reader.get("/v1/neighbours", params={"id": served.id(3), "k": 5}).json()
    assert (exact["answers"][0]["exactness"], exact["recall"]) == ("exact", None)


def test_a_recall_that_the_index_was_not_measured_to_reach_is_refused(reader: TestClient, served: Served) -> None:
    for recall in (1.5, -1, 0):
        assert reader.get("/v1/neighbours", params={"id": served.id(3), "approximate": recall}).status_code == 422
    release = served.release
    settings_of = [setting.model_copy(update={"recall": 0.5}) for setting in release.detail.settings]
    assert settings_of
    lower = replace(release, detail=release.detail.model_copy(update={"settings": settings_of}))
    with pytest.raises(ConfigError, match=r"0\.5000 at most"):
        effort_for(lower, 0.9)


def test_few_look_at_every_object_at_once(served: Served) -> None:
    searcher = ReleaseSearcher(served.release)
    searcher._filtering._turns.acquire()
    searcher._filtering._turns.acquire()
    question = NeighboursQuestion(ids=(served.id(0),), where="mag_r > 1")
    with ThreadPoolExecutor(20) as pool:
        asked = [pool.submit(searcher.neighbours, question) for _ in range(20)]
        assert len(searcher.neighbours(NeighboursQuestion(ids=(served.id(0),))).table)
        for _ in range(2):
            searcher._filtering._turns.release()
        failed = [one.exception() for one in asked if one.exception()]
    assert {type(one) for one in failed} <= {BusyError}
    assert len(failed) < 20


def test_columns_can_be_let_go_of_while_others_read_them(served: Served) -> None:
    shard = next(one for one in open_release(Store(str(served.output))).shards if one.n_rows)
    expected = {name: shard.column(name).to_pylist() for name in (OBJECT_ID, RA, DEC)}
    ids = shard.column(OBJECT_ID)

    def read(number: int) -> None:
        for _ in range(30):
            name = (OBJECT_ID, RA, DEC)[number % 3]
            assert shard.column(name).to_pylist() == expected[name]
            assert len(shard.directions) == shard.n_rows
            assert shard.find(ids).tolist() == list(range(shard.n_rows))
            assert shard.columns_bytes >= 0

    def forget() -> None:
        for _ in range(200):
            shard.forget_columns()

    with ThreadPoolExecutor(7) as pool:
        running = [pool.submit(read, number) for number in range(6)] + [pool.submit(forget)]
        for one in running:
            one.result()
