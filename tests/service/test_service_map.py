"""The map over HTTP: its points are those of the file, whoever may read them, and nothing else is told."""

import io
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse_single_table
from fastapi import FastAPI
from starlette.testclient import TestClient

from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.serving_map import ServedMap, find_map
from engine.storage.store import Store
from schemas import paths
from schemas.errors import DataError, IntegrityError
from tests.generated import clustered, positions, write_map, write_release
from tests.service.conftest import bearer

N = 90
Make = Callable[..., FastAPI]
FIRST_ID = 587729386071654577


@pytest.fixture(scope="module")
def points() -> pa.Table:
    """Points of a map, in the order in which they are answered."""
    random = np.random.default_rng(1)
    ra_deg, dec_deg = positions(N, 2)
    return pa.table(
        {
            "object_id": random.permutation(N) + FIRST_ID,
            "ra_deg": ra_deg,
            "dec_deg": dec_deg,
            "mag_r": np.where(np.arange(N) == 5, np.inf, np.arange(N) / 7),
            "n_votes": pa.array([None if row == 3 else row for row in range(N)], pa.int64()),
            "is_star": np.arange(N) % 2 == 0,
            "map_x": random.normal(0, 3, N).astype(np.float32),
            "map_y": random.normal(0, 3, N).astype(np.float32),
        }
    )


@pytest.fixture(scope="module")
def release(points: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> OpenRelease:
    """A release with two maps."""
    output = tmp_path_factory.mktemp("mapped")
    objects = {name: points[name] for name in ("object_id", "ra_deg", "dec_deg")}
    write_release(output, objects, clustered(N, 4, 5))
    write_map(output, points, 2, "2026-02-01T00:00:00+00:00")
    write_map(output, points.slice(0, 5), 1, "2026-01-01T00:00:00+00:00")
    return open_release(Store(str(output)))


@pytest.fixture
def served_map(release: OpenRelease) -> ServedMap:
    found = find_map(release)
    assert found is not None
    return found


@pytest.fixture
def reads(make_app: Make, token_of: Callable[..., str], served_map: ServedMap) -> Iterator[TestClient]:
    with closing(TestClient(make_app(release_map=served_map), headers=bearer(token_of("read")))) as client:
        yield client


def numbers(client: TestClient, **asked: object) -> np.ndarray:
    answer = client.get("/v1/map/points", params=asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    return np.frombuffer(answer.content, "<f4")


def test_the_newest_map_is_described(reads: TestClient, release: OpenRelease, points: pa.Table) -> None:
    found = reads.get("/v1/map").json()
    assert (found["n_points"], found["n_objects"], found["n_fitted"]) == (N, N, N)
    assert (found["release"], found["created_utc"][:7]) == (release.id, "2026-02")
    assert (found["x_min"], found["y_max"]) == (min(points["map_x"].to_pylist()), max(points["map_y"].to_pylist()))
    assert [column["name"] for column in found["columns"]] == ["ra_deg", "dec_deg", "mag_r", "n_votes", "is_star"]
    assert str(release.store.uri()) not in str(found)


def test_positions_are_those_of_the_file_in_its_order(reads: TestClient, points: pa.Table) -> None:
    expected = np.column_stack([points["map_x"], points["map_y"]]).ravel()
    assert np.array_equal(numbers(reads), expected)
    assert np.array_equal(numbers(reads, start=7, n=3), expected[14:20])
    assert np.array_equal(numbers(reads, start=N - 1, n=50), expected[-2:])
    assert len(numbers(reads, start=N)) == 0


def test_values_are_numbers_and_nan_where_there_is_none(reads: TestClient) -> None:
    magnitude = numbers(reads, column="mag_r")
    assert np.isnan(magnitude[5])
    assert np.allclose(np.delete(magnitude, 5), np.delete(np.arange(N) / 7, 5))
    assert np.isnan(numbers(reads, column="n_votes")[3])
    assert numbers(reads, column="is_star", start=2, n=2).tolist() == [1, 0]


def test_what_is_known_is_not_sent_again(reads: TestClient) -> None:
    map_id = reads.get("/v1/map").json()["map"]
    first = reads.get("/v1/map/points", params={"map": map_id})
    assert first.headers["cache-control"] == "private, max-age=86400, immutable"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = reads.get("/v1/map/points", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["cache-control"]) == (304, b"", "private, no-cache")
    others = ({"n": 5}, {"start": 1}, {"column": "mag_r"})
    assert len({tag, *(reads.get("/v1/map/points", params=one).headers["etag"] for one in others)}) == 4
    other = reads.get("/v1/map/points", params={"map": "another"})
    assert (other.status_code, other.json()["reason"]) == (404, "no-map")


def test_a_few_points_are_named_in_the_order_asked(reads: TestClient, points: pa.Table) -> None:
    found = reads.get("/v1/map/ids", params={"row": [8, 3, 8]}).json()["objects"]
    ids = points["object_id"].to_pylist()
    assert [(one["row"], one["object_id"]) for one in found] == [(8, str(ids[8])), (3, str(ids[3])), (8, str(ids[8]))]
    assert found[1]["ra_deg"] == points["ra_deg"][3].as_py()


def test_many_points_are_named_in_every_format(reads: TestClient, points: pa.Table) -> None:
    rows = [4, 80, 0]
    ids = [str(points["object_id"][row]) for row in rows]

    def asked(kind: str) -> bytes:
        answer = reads.post("/v1/map/objects", json={"rows": rows}, params={"format": kind})
        assert answer.status_code == 200
        return answer.content

    assert [one["object_id"] for one in reads.post("/v1/map/objects", json={"rows": rows}).json()["objects"]] == ids
    kept = pacsv.ConvertOptions(column_types={"object_id": pa.string()})
    assert pacsv.read_csv(io.BytesIO(asked("csv")), convert_options=kept)["object_id"].to_pylist() == ids
    assert pq.read_table(io.BytesIO(asked("parquet")))["object_id"].to_pylist() == ids
    table = parse_single_table(io.BytesIO(asked("votable"))).to_table()
    assert [str(one) for one in table["object_id"]] == ids
    assert table["ra_deg"].unit == "deg"


@pytest.mark.parametrize(
    "asked",
    [
        "points?column=nothing",
        "points?column=object_id",
        "points?column=",
        "points?start=-1",
        "points?n=0",
        "points?n=2000000",
        "points?where=1",
        "ids",
        "ids?row=-1",
        f"ids?row={N}",
        "ids?row=x",
        "ids?" + "&".join(["row=1"] * 201),
    ],
)
def test_questions_that_cannot_be_are_refused(reads: TestClient, asked: str) -> None:
    answer = reads.get(f"/v1/map/{asked}")
    assert (answer.status_code, answer.json()["reason"]) == (422, "invalid"), answer.text


@pytest.mark.parametrize("rows", [[], [-1], [N], [1.5], ["1"], [True], [2**40]])
def test_rows_that_cannot_be_are_refused(reads: TestClient, rows: list) -> None:
    answer = reads.post("/v1/map/objects", json={"rows": rows})
    assert answer.status_code == 422, answer.text


def test_no_more_objects_than_the_service_lists_are_named_at_once(
    make_app: Make, token_of: Callable[..., str], served_map: ServedMap
) -> None:
    client = TestClient(make_app(release_map=served_map, most_objects=3), headers=bearer(token_of("read")))
    assert client.get("/v1/map").json()["most_rows"] == 3
    assert client.post("/v1/map/objects", json={"rows": [1, 2, 3]}).status_code == 200
    assert client.post("/v1/map/objects", json={"rows": [1, 2, 3, 4]}).status_code == 422


def test_a_release_without_a_map_says_so(reader: TestClient) -> None:
    for path in ("", "/points", "/ids?row=1"):
        answer = reader.get(f"/v1/map{path}")
        assert (answer.status_code, answer.json()["reason"]) == (404, "no-map")
    assert reader.post("/v1/map/objects", json={"rows": [1]}).status_code == 404


def test_the_map_is_for_those_who_may_read(make_app: Make, token_of: Callable[..., str], served_map: ServedMap) -> None:
    app = make_app(release_map=served_map)
    assert TestClient(app).get("/v1/map").status_code == 401
    assert TestClient(app, headers=bearer(token_of("rate", rater="ann"))).get("/v1/map/points").status_code == 403
    everyone = TestClient(make_app(release_map=served_map, anonymous_read=True))
    assert everyone.get("/v1/map/points").headers["cache-control"] == "public, no-cache"


def test_a_release_has_no_map_of_other_embeddings(tmp_path: Path, points: pa.Table) -> None:
    objects = {name: points[name] for name in ("object_id", "ra_deg", "dec_deg")}
    write_release(tmp_path, objects, clustered(N, 4, 5))
    assert find_map(open_release(Store(str(tmp_path)))) is None


@pytest.mark.fault(34, "a file of a map that was changed")
def test_points_that_were_changed_are_not_served(tmp_path: Path, points: pa.Table) -> None:
    objects = {name: points[name] for name in ("object_id", "ra_deg", "dec_deg")}
    write_release(tmp_path, objects, clustered(N, 4, 5))
    made = write_map(tmp_path, points, 0, "2026-01-01T00:00:00+00:00")
    file = tmp_path / paths.artefact("map", made.id) / paths.POINTS
    file.write_bytes(file.read_bytes()[:-1] + b"X")
    found = find_map(open_release(Store(str(tmp_path))))
    assert found is not None
    with pytest.raises(IntegrityError, match="expected SHA-256"):
        found.open()


def test_the_engine_refuses_columns_that_are_no_numbers(served_map: ServedMap) -> None:
    with pytest.raises(DataError, match="found 'object_id'"):
        served_map.values("object_id", 0, 5)
