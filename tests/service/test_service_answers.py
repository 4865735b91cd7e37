"""What is answered is what the engine finds: neighbours, objects, cones."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pytest
from starlette.testclient import TestClient

from engine.cluster.answer import Question, answer
from engine.cluster.filters import Filter
from engine.cluster.opened import OpenRelease
from engine.cluster.resolve import places_of_ids, places_of_positions
from engine.compute.sky import separation_arcsec
from tests.service.conftest import HOSTILE_TEXT, N, Served, bearer

COLUMNS = ("rank", "object_id", "ra_deg", "dec_deg", "distance", "separation_arcsec")


def rows_of(table: pa.Table) -> list[dict[str, object]]:
    rows = table.select(list(COLUMNS)).to_pylist()
    return [{**row, "object_id": str(row["object_id"])} for row in rows]


def engine_says(
    release: OpenRelease, ids: list[str], k: int, radius: float = 0.0, include_self: bool = False, cone: object = None
) -> list[dict[str, object]]:
    places = places_of_ids(release, pa.array(ids))
    allowed = Filter(cone).on(release)  # type: ignore[arg-type]
    return rows_of(answer(release, np.arange(len(ids)), places, None, Question(k, radius, include_self), allowed))


def test_neighbours_by_id_are_those_of_the_engine_bit_by_bit(reader: TestClient, served: Served) -> None:
    for row in (0, 7, 10, N - 1):
        found = reader.get("/v1/neighbours", params={"id": served.id(row), "k": 12}).json()
        assert found["release"] == served.release.id
        assert found["index"] == served.release.index.id
        (one,) = found["answers"]
        assert (one["query"], one["query_id"], one["status"], one["exactness"]) == (0, served.id(row), "ok", "exact")
        assert one["neighbours"] == engine_says(served.release, [served.id(row)], 12)
        last = one["neighbours"][-1]["distance"]
        assert one["unseen_distance"] is None or one["unseen_distance"] >= last


def test_neighbours_leave_out_what_is_near_on_the_sky_or_outside_a_cone(reader: TestClient, served: Served) -> None:
    asked = {"id": served.id(10), "k": N, "exclusion_radius_arcsec": 5}
    (one,) = reader.get("/v1/neighbours", params=asked).json()["answers"]
    assert one["neighbours"] == engine_says(served.release, [served.id(10)], N, 5)
    assert len(one["neighbours"]) == N - 3
    asked = {"id": served.id(10), "k": 5, "cone_ra": 0, "cone_dec": 10, "cone_radius_arcsec": 60, "include_self": True}
    (one,) = reader.get("/v1/neighbours", params=asked).json()["answers"]
    assert one["neighbours"] == engine_says(served.release, [served.id(10)], 5, 0, True, (0.0, 10.0, 60.0))
    assert {row["object_id"] for row in one["neighbours"]} == {served.id(row) for row in (10, 11, 12, 13)}


def test_some_of_the_neighbours_can_be_asked_for_by_their_ranks(reader: TestClient, served: Served) -> None:
    asked = {"id": served.id(5), "k": 9}
    every = reader.get("/v1/neighbours", params=asked).json()["answers"][0]["neighbours"]
    some = reader.get("/v1/neighbours", params={**asked, "rank": [2, 7, 100]}).json()["answers"][0]["neighbours"]
    assert some == [every[1], every[6]]
    assert reader.get("/v1/neighbours", params={**asked, "rank": 0}).status_code == 422


def test_a_position_stands_for_the_object_nearest_to_it(reader: TestClient, served: Served) -> None:
    asked = {"ra": 0.00008, "dec": 10.0, "k": 3}
    (one,) = reader.get("/v1/neighbours", params=asked).json()["answers"]
    places, apart = places_of_positions(served.release, np.array([0.00008]), np.array([10.0]), 20)
    assert one["query_id"] == served.id(11)
    assert one["match_arcsec"] == apart[0]
    assert one["neighbours"] == rows_of(answer(served.release, np.arange(1), places, None, Question(3)))


def test_many_queries_are_answered_in_their_order_and_those_without_an_answer_say_why(
    reader: TestClient, served: Served
) -> None:
    ids = [served.id(3), "7", served.id(4), "no number", served.id(3)]
    found = reader.post("/v1/neighbours", json={"ids": ids, "k": 2}).json()["answers"]
    assert [one["status"] for one in found] == ["ok", "unknown id", "ok", "unknown id", "ok"]
    assert [one["query"] for one in found] == [0, 1, 2, 3, 4]
    for number in (0, 2, 4):
        assert found[number]["neighbours"] == engine_says(served.release, [ids[number]], 2)
    assert (found[1]["neighbours"], found[1]["exactness"]) == ([], None)
    asked = {"positions_deg": [[0.0, 10.0], [200, -89.99]], "k": 1, "match_radius_arcsec": 1}
    found = reader.post("/v1/neighbours", json=asked).json()["answers"]
    assert [one["status"] for one in found] == ["ok", "no object within the match radius"]
    outside = {"ids": [served.id(0)], "cone": {"ra_deg": 90, "dec_deg": 89.9999, "radius_arcsec": 0.01}}
    (one,) = reader.post("/v1/neighbours", json=outside).json()["answers"]
    assert (one["status"], one["neighbours"]) == ("no object qualifies", [])


def test_vectors_are_answered_as_the_engine_answers_them(reader: TestClient, served: Served) -> None:
    vectors = served.vectors[:3] + np.float32(0.25)
    found = reader.post("/v1/neighbours", json={"vectors": vectors.tolist(), "k": 9}).json()["answers"]
    table = answer(served.release, np.arange(3), None, vectors, Question(9))
    assert [row for one in found for row in one["neighbours"]] == rows_of(table)
    assert {one["query_id"] for one in found} == {None}


@pytest.mark.parametrize("include_self", [False, True])
def test_positions_of_which_none_has_an_object_are_answered_with_why(reader: TestClient, include_self: bool) -> None:
    asked = {"positions_deg": [[90, 89.9999], [91, 89.9999]], "match_radius_arcsec": 0.1, "include_self": include_self}
    answers = reader.post("/v1/neighbours", json=asked).json()["answers"]
    assert [one["status"] for one in answers] == ["no object within the match radius"] * 2


@pytest.mark.parametrize("asked", [{"id": "1"}, {"id": "M31"}, {"ra": 90, "dec": 89.9999, "match_radius_arcsec": 0.1}])
def test_an_object_that_is_not_there_is_404_where_one_is_asked_for(reader: TestClient, asked: dict) -> None:
    found = reader.get("/v1/neighbours", params=asked)
    assert (found.status_code, found.json()["reason"]) == (404, "not-found")


@pytest.mark.parametrize(
    "asked",
    [
        {"vectors": [[1.0, 2.0, 3.0]]},
        {"vectors": [[1.0, 2.0, 3.0, 4.0, 5.0]]},
        {"vectors": [[1.0, 2.0, 3.0, 4.0], [1.0]]},
        {"vectors": [[]]},
        {"vectors": [["x", 2.0, 3.0, 4.0]]},
        {"vectors": [[1e31, 2.0, 3.0, 4.0]]},
        {"vectors": [[1.0, 2.0, 3.0, 4.0]], "exclusion_radius_arcsec": 1},
        {"ids": ["1"], "vectors": [[1.0, 2.0, 3.0, 4.0]]},
        {"ids": []},
        {},
        {"ids": ["1"], "k": 0},
        {"ids": ["1"], "k": 1001},
        {"ids": ["1"], "k": 1.5},
        {"ids": ["1"] * 101, "k": 100},
        {"ids": [5]},
        {"ids": [""]},
        {"ids": ["1" * 257]},
        {"positions_deg": [[360, 0]]},
        {"positions_deg": [[0, 90.1]]},
        {"positions_deg": [[0]]},
        {"ids": ["1"], "cone": {"ra_deg": 0, "dec_deg": 0, "radius_arcsec": 0}},
        {"ids": ["1"], "uri": "s3://bucket/key"},
        {"ids": ["1"], "rater": "bob"},
    ],
    ids=str,
)
def test_questions_that_cannot_be_are_refused(reader: TestClient, asked: dict) -> None:
    found = reader.post("/v1/neighbours", json=asked)
    assert (found.status_code, found.json()["reason"]) == (422, "invalid"), found.text


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e400", "null", "true", '"1"'])
def test_components_that_are_no_finite_numbers_are_refused(reader: TestClient, value: str) -> None:
    headers = {"Content-Type": "application/json"}
    found = reader.post("/v1/neighbours", content=f'{{"vectors": [[1, 2, 3, {value}]]}}', headers=headers)
    assert (found.status_code, found.json()["reason"]) == (422, "invalid"), found.text


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"id": "1", "ra": 1, "dec": 1},
        {"ra": 1},
        {"id": "1", "cone_ra": 1},
        {"id": "1", "k": "many"},
        {"ra": "nan", "dec": 0},
        {"ra": "inf", "dec": 0},
        {"id": "1", "format": "fits"},
        {"id": "1", "moc": "3/1"},
        {"id": "1", "where": ""},
        {"id": "1", "approximate": 0},
        {"id": "1", "release": "s3://bucket"},
    ],
    ids=str,
)
def test_urls_that_ask_nothing_clear_are_refused(reader: TestClient, asked: dict) -> None:
    found = reader.get("/v1/neighbours", params=asked)
    assert (found.status_code, found.json()["reason"]) == (422, "invalid"), found.text


def test_a_question_of_unknown_ids_alone_is_answered(reader: TestClient) -> None:
    found = reader.post("/v1/neighbours", json={"ids": ["1", "2"]}).json()["answers"]
    assert [one["status"] for one in found] == ["unknown id"] * 2


def test_an_object_has_its_position_components_and_columns_and_not_its_place(
    reader: TestClient, served: Served
) -> None:
    for row in (0, 9, 10, 11, N - 1):
        found = reader.get(f"/v1/objects/{served.id(row)}").json()
        assert found["object_id"] == served.id(row)
        assert (found["ra_deg"], found["dec_deg"]) == (served.ra_deg[row], served.dec_deg[row])
        assert found["components"] == [float(value) for value in served.vectors[row]]
        assert found["columns"] == {
            "mag_r": None if row == 9 else row / 10,
            "note": HOSTILE_TEXT if row == 9 else None,
            "seen": f"1970-01-01 00:{row // 60:02d}:{row % 60:02d}.000",
        }
    assert str(served.output.parent) not in str(found)


def test_a_cone_lists_what_is_in_it_by_separation_also_across_the_meridian(reader: TestClient, served: Served) -> None:
    for ra_deg, dec_deg, radius in [(0.0, 10.0, 5.0), (0.0, 10.0, 0.36), (123.0, -40.0, 10_800.0), (9.0, 90.0, 10_800)]:
        found = reader.get("/v1/cone", params={"ra": ra_deg, "dec": dec_deg, "radius_arcsec": radius}).json()
        apart = separation_arcsec(ra_deg, dec_deg, served.ra_deg, served.dec_deg)
        inside = np.flatnonzero(apart <= radius)
        order = inside[np.lexsort((served.ids[inside], apart[inside]))]
        assert [row["object_id"] for row in found["objects"]] == [served.id(row) for row in order]
        assert [row["separation_arcsec"] for row in found["objects"]] == apart[order].tolist()
        assert found["n_found"] == len(order)


def test_a_cone_that_is_too_large_is_refused_and_one_that_holds_too_much_is_cut(make_app, token_of) -> None:  # type: ignore[no-untyped-def]
    client = TestClient(make_app(most_objects=2, most_radius_arcsec=100), headers=bearer(token_of("read")))
    found = client.get("/v1/cone", params={"ra": 0, "dec": 10, "radius_arcsec": 100}).json()
    assert (found["n_found"], len(found["objects"])) == (4, 2)
    refused = client.get("/v1/cone", params={"ra": 0, "dec": 10, "radius_arcsec": 100.1})
    assert (refused.status_code, refused.json()["errors"][0]["where"]) == (422, "radius_arcsec")


def test_the_release_says_what_it_is(reader: TestClient, served: Served) -> None:
    found = reader.get("/v1/release").json()
    assert (found["n_objects"], found["dimension"], found["id_type"], found["n_shards"]) == (N, 4, "int64", 3)
    assert (found["release"], found["index"]) == (served.release.id, served.release.index.id)
    assert (found["components"], found["index_kind"]) == (served.release.components.id, "ivf-flat")


def test_questions_asked_at_once_are_answered_as_one_after_the_other(reader: TestClient, served: Served) -> None:
    def ask(row: int) -> list[dict[str, object]]:
        found = reader.get("/v1/neighbours", params={"id": served.id(row), "k": 5}).json()
        return found["answers"][0]["neighbours"]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(ask, range(24)))
    assert answers == [engine_says(served.release, [served.id(row)], 5) for row in range(24)]


def test_distances_survive_json(reader: TestClient, served: Served) -> None:
    (one,) = reader.get("/v1/neighbours", params={"id": served.id(0), "k": 5}).json()["answers"]
    vectors = served.vectors[[list(served.ids).index(int(row["object_id"])) for row in one["neighbours"]]]
    total = np.zeros(5, np.float32)
    for j in range(4):
        total += np.abs(vectors[:, j] - served.vectors[0, j])
    assert [row["distance"] for row in one["neighbours"]] == [float(value) for value in total]
    assert all(math.isfinite(row["separation_arcsec"]) for row in one["neighbours"])
