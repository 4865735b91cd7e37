"""Bulk queries over HTTP: a table is sent, answered as a direct question is, once, whatever happens meanwhile."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from astropy.io.votable import parse_single_table
from astropy.table import Table
from starlette.testclient import TestClient

from engine.cluster import query_jobs, query_worker
from engine.cluster.answer import Question
from engine.cluster.bulk import answer_asked, in_order
from engine.cluster.parts import run_units_here
from engine.cluster.query_jobs import JobLimits, open_jobs
from engine.cluster.query_worker import Serving
from engine.cluster.resolve import resolve
from engine.cluster.serving import ReleaseSearcher
from engine.service.app import create_app
from engine.storage.parquet import as_vectors
from engine.storage.queries import Queries
from engine.storage.query_jobs import JobStore
from engine.storage.store import Store
from engine.storage.tokens import TokenStore
from schemas import paths
from schemas.service import ServeConfig
from schemas.tables import CUTOUT, QUERY, STATUS
from tests.service.conftest import Served, bearer

Create = Callable[..., str]
Start = Callable[..., Any]


@pytest.fixture
def start(served: Served, tokens: TokenStore, tmp_path: Path) -> Iterator[Start]:
    """Start a service that works on jobs in this process, with settings of its own; all end with the test."""
    with ExitStack() as stack:

        def begin(run_units: Any = None, works: bool = True, **settings: Any) -> Any:
            config = ServeConfig.model_validate({"release": str(served.output), **settings})
            serving = Serving(served.release, str(served.output), config.jobs_kept_days)
            limits = JobLimits(config.most_job_queries, config.most_job_rows)
            store = Store(str(tmp_path / "jobs"))
            if works:
                given = {"run_units": run_units} if run_units else {}
                jobs = stack.enter_context(open_jobs(store, serving, limits, **given))
            else:
                jobs = query_jobs.QueryJobs(JobStore(store), serving, limits, lambda: None)
            return create_app(ReleaseSearcher(served.release), None, tokens, config, jobs=jobs)  # type: ignore[arg-type]

        yield begin


@pytest.fixture
def as_(start: Start, token_of: Create) -> Callable[..., TestClient]:
    """A client of a service, by the name of a token."""
    app: list[Any] = []

    def client(name: str, *scopes: str, **settings: Any) -> TestClient:
        if not app or settings:
            app[:] = [start(**settings)]
        return TestClient(app[0], headers=bearer(token_of(*(scopes or ("read",)), name=name)))

    return client


def parquet(**columns: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def ended(client: Any, job: dict[str, Any], patience_s: float = 120) -> dict[str, Any]:
    until = time.monotonic() + patience_s
    while job["ended_utc"] is None:
        assert time.monotonic() < until, job
        job = client.get(f"/v1/jobs/{job['id']}", params={"wait": 5}).json()
    return job


def done(client: Any, job: dict[str, Any]) -> pa.Table:
    """Wait for a job, check its numbers, and fetch its result."""
    job = ended(client, job)
    assert (job["phase"], job["error"], job["progress"]) == ("COMPLETED", None, 1.0)
    assert job["n_queries"] == job["n_done"] == job["answered"] + sum(job["unanswered"].values())
    answer = client.get(job["result"]["links"]["parquet"])
    assert answer.status_code == 200
    table = pq.read_table(io.BytesIO(answer.content))
    assert (len(answer.content), len(table)) == (job["result"]["size_bytes"], job["result"]["n_rows"])
    statuses = table[STATUS].to_pylist()
    assert len(set(table[QUERY].to_pylist())) == job["n_queries"]
    assert sum(statuses.count(reason) for reason in job["unanswered"]) == sum(job["unanswered"].values())
    return table


def direct(served: Served, queries: Queries, question: Question, match_radius_arcsec: float = 20.0) -> pa.Table:
    """The same answers without any of this."""
    resolved = resolve(served.release, queries, match_radius_arcsec)
    made = answer_asked(served.release, resolved.asked, question)
    return in_order([made.table, resolved.rest]).drop_columns([CUTOUT])


def written(kind: str, columns: dict[str, Any]) -> bytes:
    if kind == "parquet":
        return parquet(**columns)
    sink = io.BytesIO()
    if kind == "csv":
        pacsv.write_csv(pa.table(columns), sink)
    else:
        Table(columns).write(sink, format=kind)
    return sink.getvalue()


TYPES = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "fits": "application/fits",
    "votable": "application/x-votable+xml",
}


@pytest.mark.parametrize("kind", TYPES)
def test_a_table_of_positions_in_any_format_is_answered_as_a_direct_question_is(
    kind: str, as_: Callable[..., TestClient], served: Served
) -> None:
    client = as_("ann")
    ra_deg, dec_deg = served.ra_deg.copy(), served.dec_deg.copy()
    ra_deg[3], dec_deg[5] = np.nan, 12.3456
    data = written(kind, {"ra": ra_deg, "dec": dec_deg})
    asked = {"k": 7, "match_radius_arcsec": 5, "exclusion_radius_arcsec": 100}
    made = client.post("/v1/jobs", params=asked, content=data, headers={"Content-Type": TYPES[kind]})
    assert made.status_code == 201
    job = made.json()
    assert made.headers["location"] == f"/v1/jobs/{job['id']}"
    assert (job["phase"], job["n_queries"], job["by"], job["owner"]) == ("QUEUED", len(ra_deg), "position", "ann")
    assert job["parameters"]["k"] == 7
    found = done(client, job)
    bad = {3: "no valid position"}
    queries = Queries("position", len(ra_deg), ra_deg=ra_deg, dec_deg=dec_deg, bad=bad)
    assert found.equals(direct(served, queries, Question(7, 100.0), 5.0))
    counted = ended(client, job)["unanswered"]
    assert counted == {"no object within the match radius": 1, "no valid position": 1}


def test_ids_and_vectors_are_answered_alike_and_in_every_format_of_results(
    as_: Callable[..., TestClient], served: Served
) -> None:
    client = as_("ann")
    ids = pa.array([*served.ids[:50].tolist(), 12345])
    job = client.post("/v1/jobs?k=3&include_self=true", content=parquet(object_id=ids)).json()
    found = done(client, job)
    assert found.equals(direct(served, Queries("id", 51, ids=ids), Question(3, include_self=True)))
    csv = client.get(f"/v1/jobs/{job['id']}/result?format=csv")
    types = {field.name: field.type for field in found.schema}
    options = pacsv.ConvertOptions(
        column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
    )
    assert pacsv.read_csv(io.BytesIO(csv.content), convert_options=options).cast(found.schema).equals(found)
    answer = client.get(f"/v1/jobs/{job['id']}/result?format=votable")
    assert answer.headers["content-type"] == "application/x-votable+xml"
    votable = parse_single_table(io.BytesIO(answer.content)).to_table()
    for name in ("query", "object_id", "distance", "separation_arcsec", "rank", "query_id"):
        expected = found[name].to_numpy()[:-1]
        np.testing.assert_array_equal(np.asarray(votable[name])[:-1], expected, err_msg=name)
    assert [str(one) for one in votable["status"]] == found["status"].to_pylist()
    assert bool(votable["object_id"].mask[-1])
    vectors = np.vstack([served.vectors[:20] + 0.01, np.full((1, 4), np.nan)]).astype(np.float32)
    job = client.post("/v1/jobs?k=4", content=parquet(components=as_vectors(vectors))).json()
    queries = Queries("vector", 21, vectors=vectors, bad={20: "no finite vector"})
    assert done(client, job).equals(direct(served, queries, Question(4)))


def test_conditions_cones_and_approximate_answers_are_asked_for_as_anywhere(
    as_: Callable[..., TestClient], served: Served
) -> None:
    client, table = as_("ann"), parquet(object_id=served.ids[:20])
    job = client.post("/v1/jobs?k=5&where=mag_r < 3", content=table).json()
    near = set(done(client, job)["object_id"].to_pylist())
    assert near <= set(served.ids[:30].tolist())
    cone = {"cone_ra": served.ra_deg[0], "cone_dec": served.dec_deg[0], "cone_radius_arcsec": 1}
    job = client.post("/v1/jobs", params={"k": 5, **cone}, content=table).json()
    assert {one for one in done(client, job)["object_id"].to_pylist() if one} == {served.ids[0]}
    assert ended(client, job)["unanswered"] == {"no object qualifies": 1}
    job = client.post("/v1/jobs?k=5&approximate=0.5", content=table).json()
    assert set(done(client, job)["exactness"].to_pylist()) == {"approximate"}


@pytest.mark.parametrize(
    ("asked", "content", "status", "words"),
    [
        ("k=0", b"", 422, "k"),
        ("k=1001", b"", 422, "at most 1,000"),
        ("kk=3", b"", 422, "kk"),
        ("where=mag_q < 3", b"", 422, "expected a column 'mag_q'"),
        ("where=cutout < 's'", b"", 422, "expected a column 'cutout'"),
        ("where=__import__('os')", b"", 422, "where"),
        ("approximate=2", b"", 422, "approximate"),
        ("ra_column=a", b"", 422, "both of ra_column"),
        ("cone_ra=3", b"", 422, "cone_ra"),
        ("", b"", 422, "the table"),
        ("", b"a,b\n1,2\n", 422, "expected queries of one kind"),
        ("id_column=nr", b"a,b\n1,2\n", 422, "expected a column 'nr'"),
        ("", parquet(object_id=[1, 2])[:-9], 422, "not readable as parquet"),
        ("exclusion_radius_arcsec=3", parquet(components=as_vectors(np.zeros((2, 4), np.float32))), 422, "no place"),
        ("k=100", parquet(object_id=np.arange(11)), 422, "at most 1,000 neighbours of all queries together"),
        ("", parquet(object_id=np.arange(31)), 422, "at most 30 queries, found 31"),
        ("", b"1" * 5001, 413, "at most 5,000 bytes"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_words_and_leaves_nothing(
    as_: Callable[..., TestClient], tmp_path: Path, asked: str, content: bytes, status: int, words: str
) -> None:
    client = as_("ann", works=False, most_job_queries=30, most_job_rows=1000, most_upload_bytes=5000)
    answer = client.post(f"/v1/jobs?{asked}", content=content)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert words in answer.json()["detail"]
    assert str(tmp_path) not in answer.text
    assert client.get("/v1/jobs").json() == {"n_jobs": 0, "jobs": []}
    folder = tmp_path / "jobs" / "queries"
    assert not folder.exists() or not list(folder.iterdir())


def test_a_table_of_an_unknown_type_is_refused_unread(as_: Callable[..., TestClient]) -> None:
    answer = as_("ann", works=False).post("/v1/jobs", json={"ids": ["1"]})
    assert (answer.status_code, answer.json()["reason"]) == (415, "unknown-format")


def test_a_job_is_its_owners_and_an_admins_and_there_for_nobody_else(
    as_: Callable[..., TestClient], served: Served
) -> None:
    ann, bob, admin = as_("ann"), as_("bob"), as_("root", "read", "admin")
    job = ann.post("/v1/jobs?k=2", content=parquet(object_id=served.ids[:3])).json()
    done(ann, job)
    where = f"/v1/jobs/{job['id']}"
    for method, path in (("GET", where), ("GET", f"{where}/result"), ("POST", f"{where}/abort"), ("DELETE", where)):
        assert bob.request(method, path).status_code == 404
    assert bob.get("/v1/jobs").json()["n_jobs"] == 0
    assert [one["id"] for one in ann.get("/v1/jobs").json()["jobs"]] == [job["id"]]
    assert [one["owner"] for one in admin.get("/v1/jobs").json()["jobs"]] == ["ann"]
    assert admin.get(f"{where}/result").status_code == 200
    assert ann.get("/v1/jobs/" + "0" * 32).status_code == 404
    assert ann.get("/v1/jobs/..%2f..").status_code in (404, 422)
    assert admin.delete(where).status_code == 204
    assert ann.get(where).status_code == 404


def test_every_route_about_jobs_asks_for_a_token_that_may_read(start: Start, token_of: Create) -> None:
    app = start(works=False, anonymous_read=True)
    rater, nobody, wrong = (
        TestClient(app, headers=headers) for headers in (bearer(token_of("rate")), {}, bearer("x.y"))
    )
    routes = [(method, path) for path, item in app.openapi()["paths"].items() for method in item if "/jobs" in path]
    assert len(routes) == 6
    for method, path in routes:
        url = path.replace("{job}", "0" * 32)
        assert [one.request(method, url).status_code for one in (rater, nobody, wrong)] == [403, 403, 401], url


def test_the_same_key_and_content_is_the_same_job_and_other_content_is_refused(
    as_: Callable[..., TestClient], served: Served
) -> None:
    ann, bob, table = as_("ann", works=False), as_("bob"), parquet(object_id=served.ids[:3])
    key = {"Idempotency-Key": "once"}
    first = ann.post("/v1/jobs?k=2", content=table, headers=key).json()
    again = ann.post("/v1/jobs?k=2", content=table, headers=key)
    assert (again.status_code, again.json()) == (201, first)
    for asked, content in (("k=3", table), ("k=2", parquet(object_id=served.ids[1:4]))):
        answer = ann.post(f"/v1/jobs?{asked}", content=content, headers=key)
        assert (answer.status_code, answer.json()["reason"]) == (422, "invalid")
        assert "sent before" in answer.json()["detail"]
    assert bob.post("/v1/jobs?k=3", content=table, headers=key).json()["id"] != first["id"]
    assert ann.post("/v1/jobs?k=2", content=table).json()["id"] != first["id"]
    assert ann.get("/v1/jobs").json()["n_jobs"] == 2


def test_queues_and_space_are_bounded_for_each_token_and_for_all(
    as_: Callable[..., TestClient], served: Served
) -> None:
    limits = {"most_jobs_of_token": 2, "most_jobs_waiting": 3, "most_job_bytes_of_token": 1024}
    ann, bob, table = as_("ann", works=False, **limits), as_("bob"), parquet(object_id=served.ids[:3])
    assert ann.post("/v1/jobs", content=table).status_code == 201
    full = ann.post("/v1/jobs", content=table)
    assert (full.status_code, full.headers["retry-after"]) == (429, "3600")
    limits = {"most_jobs_of_token": 2, "most_jobs_waiting": 4}
    ann, bob = as_("ann2", works=False, **limits), as_("bob2")
    assert [ann.post("/v1/jobs", content=table).status_code for _ in range(3)] == [201, 201, 429]
    assert ann.post("/v1/jobs", content=table).headers["retry-after"] == "30"
    assert "of yours" in ann.post("/v1/jobs", content=table).json()["detail"]
    assert bob.post("/v1/jobs", content=table).status_code == 201
    refused = bob.post("/v1/jobs", content=table)
    assert (refused.status_code, refused.json()["detail"][:6]) == (429, "4 jobs")
    newest = ann.get("/v1/jobs?n=1").json()["jobs"][0]["id"]
    assert ann.post(f"/v1/jobs/{newest}/abort").json()["phase"] == "ABORTED"
    assert bob.post("/v1/jobs", content=table).status_code == 201


def test_a_job_that_is_aborted_ends_where_it_is_and_stays_so(as_: Callable[..., TestClient], served: Served) -> None:
    first_is_done, go_on, niceness = threading.Event(), threading.Event(), []

    def slowly(*given: Any) -> Iterator[Any]:
        niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        for commit in run_units_here(*given):
            first_is_done.set()
            go_on.wait(20)
            yield commit

    client = as_("ann", run_units=slowly)
    job = client.post("/v1/jobs?k=2", content=parquet(object_id=np.resize(served.ids, 1000))).json()
    assert first_is_done.wait(60)
    running = client.get(f"/v1/jobs/{job['id']}").json()
    assert (running["phase"], running["n_done"], running["progress"]) == ("EXECUTING", 128, 0.128)
    assert client.get(f"/v1/jobs/{job['id']}/result").json()["reason"] == "no-result"
    aborted = client.post(f"/v1/jobs/{job['id']}/abort").json()
    assert (aborted["phase"], aborted["n_done"], aborted["result"]) == ("ABORTED", 128, None)
    assert client.post(f"/v1/jobs/{job['id']}/abort").json() == aborted
    assert niceness == [max(query_worker.NICENESS, os.getpriority(os.PRIO_PROCESS, 0))]
    go_on.set()
    other = client.post("/v1/jobs?k=2", content=parquet(object_id=served.ids[:2])).json()
    done(client, other)
    assert client.get(f"/v1/jobs/{job['id']}").json() == aborted
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert client.delete(f"/v1/jobs/{job['id']}").status_code == 404


def test_a_job_of_another_token_does_not_wait_for_the_whole_of_a_long_one(
    as_: Callable[..., TestClient], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_worker, "SLICE_S", 0.0)
    ann, bob = as_("ann", works=False), as_("bob")
    table = parquet(object_id=np.resize(served.ids, 1000))
    long = ann.post("/v1/jobs?k=2", content=table).json()
    short = bob.post("/v1/jobs?k=2", content=parquet(object_id=served.ids[:5])).json()
    ann, bob = as_("ann-again", "read", "admin", run_units=None), as_("bob-again", "read", "admin")
    assert ended(bob, short)["ended_utc"] <= ended(ann, long)["ended_utc"]
    done(ann, long)


def test_results_can_be_kept_by_etag_and_fetched_in_parts(as_: Callable[..., TestClient], served: Served) -> None:
    client = as_("ann")
    job = ended(client, client.post("/v1/jobs?k=9", content=parquet(object_id=served.ids)).json())
    path = f"/v1/jobs/{job['id']}/result"
    whole = client.get(path)
    tag = whole.headers["etag"]
    assert client.get(path, headers={"If-None-Match": tag}).status_code == 304
    assert client.get(f"{path}?format=csv", headers={"If-None-Match": tag}).status_code == 200
    size = len(whole.content)
    for asked, start, stop in (("bytes=100-199", 100, 200), ("bytes=100-", 100, size), ("bytes=-50", size - 50, size)):
        part = client.get(path, headers={"Range": asked})
        assert (part.status_code, part.content) == (206, whole.content[start:stop])
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
    assert client.get(path, headers={"Range": f"bytes={size}-"}).status_code == 416
    assert client.get(path, headers={"Range": "bytes=1-2", "If-Range": '"other"'}).content == whole.content
    for odd in ("bytes=", "bytes=-", "bytes=2-1,3-4", "rows=1-2"):
        assert client.get(path, headers={"Range": odd}).content == whole.content


def test_results_end_with_their_days_and_files_with_their_jobs(
    as_: Callable[..., TestClient], served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_worker, "LOOK_AGAIN_S", 0.1)
    client = as_("ann", jobs_kept_days=3 / 86_400)
    job = ended(client, client.post("/v1/jobs?k=2", content=parquet(object_id=served.ids[:3])).json())
    assert job["destruction_utc"] > job["ended_utc"]
    folder = tmp_path / "jobs" / paths.query_job(job["id"])
    until = time.monotonic() + 60
    while client.get(f"/v1/jobs/{job['id']}").status_code != 404 or folder.exists():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_job_whose_release_is_gone_or_whose_files_were_changed_ends_in_words(
    as_: Callable[..., TestClient], served: Served, tmp_path: Path
) -> None:
    client, table = as_("ann", works=False), parquet(object_id=served.ids[:3])
    lost, broken = (client.post("/v1/jobs?k=2", content=table).json() for _ in range(2))
    path = tmp_path / "jobs" / paths.query_job(lost["id"]) / paths.JOB
    path.write_text(path.read_text().replace(served.release.id, "0" * 16))
    for asked in (tmp_path / "jobs" / paths.query_job(broken["id"])).glob("asked-*"):
        asked.write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    client = as_("ann2", "read", "admin", run_units=None)
    assert "not there any more" in ended(client, lost)["error"]
    failed = ended(client, broken)
    assert failed["phase"] == "ERROR"
    assert failed["error"] == "the service failed; its log says how, under the name of this job"


def test_a_client_that_leaves_while_it_sends_leaves_nothing(start: Start, token_of: Create, tmp_path: Path) -> None:
    import asyncio

    app, sent = start(works=False), []
    scope = {"type": "http", "method": "POST", "path": "/v1/jobs", "raw_path": b"/v1/jobs", "query_string": b""}
    headers = [(b"authorization", bearer(token_of("read"))["Authorization"].encode())]
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "server": ("t", 80), "client": None}
    messages: list[Any] = [
        {"type": "http.request", "body": b"object_id\n", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 400
    assert not list((tmp_path / "jobs" / "queries").iterdir())


@contextmanager
def process(served: Served, database: str, *settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A real service, and its address."""
    options = [part for one in ("rate_per_minute=100000", *settings) for part in ("-s", one)]
    command = ["serve", str(served.output), "--port", "0", "--database", database, *options]
    with subprocess.Popen(
        [sys.executable, "-c", "from jobs.cli import main; main()", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stderr
            said = next(line for line in running.stderr if "serving" in line)
            yield running, said.split()[1].partition("/v1")[0]
        finally:
            running.kill()


@pytest.mark.fault(33, "SIGKILL to a service at work on a job")
def test_a_service_that_is_killed_goes_on_with_its_jobs_each_unit_once(
    served: Served, database: str, token_of: Create, tmp_path: Path
) -> None:
    ids, headers = np.resize(served.ids, 40_000), bearer(token_of("read"))
    folder = tmp_path / "jobs"
    with (
        process(served, database, f"jobs_folder={folder}") as (running, address),
        httpx.Client(base_url=address, headers=headers, timeout=120) as client,
    ):
        job = client.post("/v1/jobs?k=20", content=parquet(object_id=ids)).json()
        while job["n_done"] < 1000:
            job = client.get(f"/v1/jobs/{job['id']}").json()
        running.send_signal(signal.SIGKILL)
        running.wait(30)
    assert job["phase"] == "EXECUTING"
    commits = folder / paths.query_job(job["id"]) / paths.commits(job["id"])
    before = {path.name: path.read_bytes() for path in commits.glob("*.json")}
    assert 0 < len(before) < 64, "the service was not killed in the middle"
    seen: dict[str, bytes] = {}
    with (
        process(served, database, f"jobs_folder={folder}") as (running, address),
        httpx.Client(base_url=address, headers=headers, timeout=120) as client,
    ):
        while not (job := client.get(f"/v1/jobs/{job['id']}").json())["ended_utc"]:
            for name in before:
                with suppress(FileNotFoundError):
                    seen[name] = (commits / name).read_bytes()
        found = done(client, job)
    assert found.equals(direct(served, Queries("id", len(ids), ids=pa.array(ids)), Question(20)))
    assert seen.items() <= before.items()
    assert len(seen) > 0
    left = {path.name for path in (folder / paths.query_job(job["id"])).iterdir()}
    assert left == {paths.JOB, paths.JOB_STARTED, paths.JOB_UNITS, paths.JOB_ENDED, paths.RESULT}
    assert json.loads((folder / paths.query_job(job["id"]) / paths.JOB_ENDED).read_text())["answered"] == 40_000


def voorwerp(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from jobs.cli import main; main()", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=240, check=False
    )


def test_the_command_asks_a_service_and_goes_on_where_it_was_interrupted(
    served: Served, database: str, token_of: Create, tmp_path: Path
) -> None:
    table, output = tmp_path / "ids.parquet", tmp_path / "near.parquet"
    token, ids = token_of("read"), np.resize(served.ids, 50_000)
    table.write_bytes(parquet(object_id=ids))
    (tmp_path / "token").write_text(token + "\n")
    with process(served, database) as (running, address):
        asking = ["ask", address, str(table), "-k", "20", "-o", str(output), "--token-file", str(tmp_path / "token")]
        command = [sys.executable, "-c", "from jobs.cli import main; main()", *asking]
        remembered = tmp_path / "near.parquet.job"
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as first:
            until = time.monotonic() + 120
            while not remembered.exists() or json.loads(remembered.read_text() or "{}").get("job") is None:
                assert time.monotonic() < until
                time.sleep(0.002)
            running.send_signal(signal.SIGSTOP)  # The job does not end before the command does.
            first.send_signal(signal.SIGINT)
            said = first.communicate(timeout=60)[1]
            running.send_signal(signal.SIGCONT)
        job = json.loads(remembered.read_text())["job"]
        assert (first.returncode, f"job {job} goes on" in said) == (130, True), said
        again = voorwerp(*asking)
        assert again.returncode == 0, again.stderr
        assert f"going on with job {job}" in again.stderr
        assert "50,000 planned = 50,000 answered" in again.stderr
        assert not remembered.exists()
        found = pq.read_table(output)
        assert found.equals(direct(served, Queries("id", len(ids), ids=pa.array(ids)), Question(20)))
        with httpx.Client(base_url=address, headers=bearer(token), timeout=60) as client:
            assert client.get("/v1/jobs").json()["n_jobs"] == 0
        positions = tmp_path / "positions.csv"
        pacsv.write_csv(pa.table({"ra": [served.ra_deg[0], 1.0], "dec": [served.dec_deg[0], 2.0]}), positions)
        kept = voorwerp("ask", address, positions, "-o", tmp_path / "near.vot", "--keep", VOORWERP_TOKEN=token)
        assert "2 planned = 1 answered + 1 no object within the match radius" in kept.stderr
        assert len(parse_single_table(str(tmp_path / "near.vot")).to_table()) == 17
        (tmp_path / "wrong.csv").write_text("a,b\n1,2\n")
        for arguments, environment, code, words in (
            (["wrong.csv", "-o", "x.csv"], {"VOORWERP_TOKEN": token}, 65, "expected queries of one kind"),
            (["positions.csv", "-o", "x.csv"], {"VOORWERP_TOKEN": "no.body"}, 2, "token"),
            (["positions.csv", "-o", "x.csv"], {"VOORWERP_TOKEN": ""}, 2, "VOORWERP_TOKEN"),
            (["positions.csv", "-o", "x.txt"], {"VOORWERP_TOKEN": token}, 2, "ending in"),
            (["none.csv", "-o", "x.csv"], {"VOORWERP_TOKEN": token}, 66, "nothing at"),
        ):
            name, *options = arguments
            refused = voorwerp("ask", address, tmp_path / name, *options[:-1], tmp_path / options[-1], **environment)
            assert (refused.returncode, words in refused.stderr) == (code, True), refused.stderr
            assert "Traceback" not in refused.stderr
        running.kill()
    gone = voorwerp("ask", address, positions, "-o", tmp_path / "x.csv", VOORWERP_TOKEN=token)
    assert (gone.returncode, "cannot be asked" in gone.stderr) == (74, True), gone.stderr
