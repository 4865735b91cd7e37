"""`make bench-serve`: how fast a service of a million objects answers, alone, under load, and beside others.

The load comes from a process of its own on the same cores (`tests.benchmarks.load`). What is made is kept in
build/bench-serve, so that the next run begins sooner.
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple
from urllib.parse import urlencode

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as pacsv
from PIL import Image

from engine.cluster import batching
from engine.cluster.opened import open_release
from engine.cluster.serving import ReleaseSearcher
from engine.service.answers import neighbours_answer
from engine.storage.store import Store
from jobs import plan
from schemas.config import CatalogueConfig, PlanConfig
from schemas.service import NeighboursQuestion
from tests.benchmarks.big_release import generate
from tests.benchmarks.commands import VOORWERP
from tests.benchmarks.load import Load, closed_loop, open_loop
from tests.benchmarks.table import Bar, Table, console, finish, machine
from tests.conftest import galaxy_pixels
from tests.generated import clustered, positions, write_release

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench-serve"
N, K, N_ASKED = 1_000_000, 50, 5_000
STEADY_PER_S, STEADY_S = 50, 30
OVERLOAD = 5
N_MEMORY = 100_000
N_PICTURES, SIDE = 400, 256
RIVAL_QUESTIONS = 5
LOOKED_AT_PER_S = 2
"""Galaxies that a person rates, who is quick."""
PUBLISHED = ("clip-retrieval, as published", "about 50", "-", "-", "about 20", "-")


class Service(NamedTuple):
    """A service that runs."""

    port: int
    process: psutil.Process

    def get(self, path: str, **parameters: Any) -> Any:
        """Ask for JSON."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{urlencode(parameters)}", timeout=120) as said:
            return json.load(said)

    def post(self, path: str, token: str, body: Any = None, **headers: str) -> Any:
        """Send JSON."""
        sent = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **headers}
        data = b"" if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, sent, method="POST")
        with urllib.request.urlopen(request, timeout=120) as said:
            return json.load(said)

    @property
    def rss_mib(self) -> float:
        """Resident memory of it and everything it started, mapped files among it."""
        members = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in members) / 2**20


def main() -> int:
    """Run the benchmark; return the exit code."""
    started_on = machine()
    WORK.mkdir(parents=True, exist_ok=True)
    output = WORK / "million"
    if not (output / "current.json").exists():
        generate(output, N, 1_000)
    pictured = WORK / "pictured"
    if not (pictured / "release" / "current.json").exists():
        _make_pictured(pictured)
    ids = _ids(output)
    with serving(output) as service:
        loads, memory = _loads(service, ids)
        campaign_s = _campaign(service, ids)
    with serving(output, "--groups", "2") as over_ray:
        warm = closed_loop(over_ray.port, _paths(ids), 1, 100)
        console.print(f"over Ray, warm: {warm.ms(50):.1f} ms")
        ray_loads = {
            "over Ray, 2 groups: 1 client": closed_loop(over_ray.port, _paths(ids), 1, 500),
            f"over Ray, 2 groups: {STEADY_PER_S} a second": open_loop(
                over_ray.port, _paths(ids), STEADY_PER_S, STEADY_S
            ),
            "over Ray, 2 groups: 20 clients": closed_loop(over_ray.port, _paths(ids), 20, 2_000),
        }
    with serving(pictured / "release") as service:
        pictures = _pictures(service)
        first_picture_s = _first_picture(service)
    tables = [
        _load_table(loads | ray_loads, _rival(output)),
        _where_time_goes(output, ids, loads["1 client"]),
        _together(output, ids),
        Table(
            "Memory, campaigns, pictures, page",
            ("what", "measured"),
            [
                [f"resident memory before {N_MEMORY:,} questions", f"{memory[0]:,.0f} MiB"],
                [f"resident memory after {N_MEMORY:,} questions", f"{memory[1]:,.0f} MiB"],
                [f"next batch after the tenth rating, of {LOOKED_AT_PER_S} a second", f"{campaign_s:.2f} s"],
                [f"cutout of {SIDE} px, 4 clients: median", f"{pictures.ms(50):.1f} ms"],
                [f"cutout of {SIDE} px, 4 clients: p95", f"{pictures.ms(95):.1f} ms"],
                ["page: from navigation to the first picture", f"{first_picture_s:.2f} s"],
            ],
        ),
    ]
    steady, overload, after = (loads[name] for name in (f"{STEADY_PER_S} a second", "overload", "after overload"))
    shed = overload.statuses.get("429", 0) + overload.statuses.get("503", 0)
    bars = [
        Bar(f"{STEADY_PER_S} questions a second: p99 in ms", steady.ms(99), "<=", 50),
        Bar("answers that failed, all loads together", float(sum(load.n_failed for load in loads.values())), "<=", 0),
        Bar("overload: share that was put off with 429 or 503", shed / sum(overload.statuses.values()), ">=", 0.2),
        Bar(f"after overload, {STEADY_PER_S} a second: p99 in ms", after.ms(99), "<=", 50),
        Bar(f"memory after {N_MEMORY:,} questions / before", memory[1] / memory[0], "<=", 1.05),
        Bar("next batch after the tenth rating, s", campaign_s, "<=", 1),
        Bar("page: first picture, s", first_picture_s, "<=", 1),
    ]
    return finish("serve", "make bench-serve", started_on, tables, bars)


@contextmanager
def serving(output: Path, *options: str) -> Iterator[Service]:
    """Run a service that everyone may ask, as fast as they like."""
    database = WORK / "campaigns.sqlite"
    database.unlink(missing_ok=True)
    settings = ["--anonymous-read", "--port", "0", "-s", "rate_per_minute=1000000", *options]
    environment = os.environ | {"VOORWERP_DATABASE": str(database)}
    with (
        (WORK / "log.jsonl").open("w") as log,
        subprocess.Popen(
            [VOORWERP, "serve", output, *settings], stdout=log, stderr=subprocess.PIPE, text=True, env=environment
        ) as process,
    ):
        assert process.stderr
        said = next(line for line in process.stderr if line.startswith("serving"))
        with ThreadPoolExecutor(1) as reader:
            reader.submit(process.stderr.read)
            try:
                yield Service(int(said.split("/v1")[0].rpartition(":")[2]), psutil.Process(process.pid))
            finally:
                process.terminate()
                process.wait(60)


def _loads(service: Service, ids: Sequence[str]) -> tuple[dict[str, Load], tuple[float, float]]:
    paths = _paths(ids)
    closed_loop(service.port, paths, 4, 1_000)
    loads = {
        "1 client": closed_loop(service.port, paths, 1, 1_000),
        f"{STEADY_PER_S} a second": open_loop(service.port, paths, STEADY_PER_S, STEADY_S),
        "20 clients": closed_loop(service.port, paths, 20, 5_000),
        "100 clients": closed_loop(service.port, paths, 100, 5_000),
    }
    before = service.rss_mib
    loads[f"20 clients, {N_MEMORY:,} questions"] = closed_loop(service.port, paths, 20, N_MEMORY)
    after = service.rss_mib
    loads["overload"] = open_loop(service.port, paths, OVERLOAD * loads["20 clients"].per_s, 10)
    loads["after overload"] = open_loop(service.port, paths, STEADY_PER_S, STEADY_S)
    return loads, (before, after)


def _load_table(loads: dict[str, Load], rival: Sequence[str]) -> Table:
    rows = []
    for name, load in loads.items():
        others = ", ".join(f"{n:,} x {status}" for status, n in load.statuses.items() if status != "200") or "none"
        times = [f"{load.ms(percentile):,.1f}" for percentile in (50, 95, 99)]
        rows.append([name, *times, f"{load.per_s:,.0f}", others])
    note = (
        "Answers of status 200; the rest is counted in the last column. At a rate, latency is from when a question was "
        "due. The load generator runs on the same cores."
    )
    columns = ("load", "p50, ms", "p95, ms", "p99, ms", "answers/s", "other answers")
    return Table(f"{K} nearest of {N:,} objects, exact", columns, [*rows, list(rival), list(PUBLISHED)], note)


def _rival(output: Path) -> Sequence[str]:
    """The way of the paper's app: a ball tree is fitted for every search."""
    from sklearn.neighbors import BallTree

    release = open_release(Store(str(output)))
    vectors = np.concatenate([shard.vectors(np.arange(shard.n_rows)) for shard in release.shards]).astype(float)
    times = []
    for row in range(RIVAL_QUESTIONS):
        started = perf_counter()
        BallTree(vectors, metric="manhattan").query(vectors[row : row + 1], K)
        times.append(perf_counter() - started)
    ms = 1000 * float(np.median(times))
    return ["a ball tree fitted for every search (scikit-learn)", f"{ms:,.0f}", "-", "-", f"{1000 / ms:.2f}", "-"]


def _where_time_goes(output: Path, ids: Sequence[str], load: Load) -> Table:
    """Time of the parts of one answer, one after the other in one thread; the rest of what a client sees is HTTP."""
    searcher = ReleaseSearcher(open_release(Store(str(output))), os.cpu_count() or 1)
    searcher.open(lambda n_rows: None)
    about, spent = searcher.about(), np.zeros((4, 400))
    for number, object_id in enumerate(ids[:400]):
        question = NeighboursQuestion(ids=(object_id,), k=K)
        marks = [perf_counter()]
        resolved = searcher._resolved(_queries_of(question), question.match_radius_arcsec)
        marks.append(perf_counter())
        found = searcher.neighbours(question)
        marks.append(perf_counter())
        answer = neighbours_answer(about, found)
        marks.append(perf_counter())
        answer.model_dump_json()
        marks.append(perf_counter())
        spent[:, number] = np.diff(marks)
        assert len(resolved.asked.numbers) == 1
    find, all_, answer_s, json_s = 1000 * np.median(spent, axis=1)
    rest = load.ms(50) - all_ - answer_s - json_s
    parts = {
        "find the object by its id": find,
        "search, and read the columns of the answer": all_ - find,
        "make the answer": answer_s,
        "write it as JSON": json_s,
        "the rest: HTTP, the gate, threads, the client": rest,
    }
    rows = [[name, f"{ms:.2f}", f"{100 * ms / load.ms(50):.0f} %"] for name, ms in parts.items()]
    return Table("Where the time goes: one client", ("part", "median, ms", "share"), rows)


def _queries_of(question: NeighboursQuestion) -> Any:
    from engine.cluster.serving import _queries

    return _queries(question)


def _together(output: Path, ids: Sequence[str]) -> Table:
    """Questions of 20 threads, searched together when they wait, and each alone."""
    rows = []
    for name, most in (("each alone", 1), ("together", batching.MOST_TOGETHER)):
        searcher = ReleaseSearcher(open_release(Store(str(output))), os.cpu_count() or 1)
        searcher.open(lambda n_rows: None)
        questions = [NeighboursQuestion(ids=(object_id,), k=K) for object_id in ids[:2_000]]
        kept, batching.MOST_TOGETHER = batching.MOST_TOGETHER, most
        try:
            with ThreadPoolExecutor(20) as threads:
                list(threads.map(searcher.neighbours, questions[:200]))
                started = perf_counter()
                list(threads.map(searcher.neighbours, questions))
                rows.append([name, f"{len(questions) / (perf_counter() - started):,.0f}"])
        finally:
            batching.MOST_TOGETHER = kept
    note = "Without HTTP and JSON."
    return Table("Questions that wait, of 20 threads", ("they are searched", "questions/s"), rows, note)


def _campaign(service: Service, ids: Sequence[str]) -> float:
    """Seconds until the next batch is there, after the tenth rating; the space is in memory by then.

    The person likes objects the more, the larger their first component is.
    """
    command = [VOORWERP, "token", "create", "rater", "--scope", "read", "--scope", "rate", "--scope", "admin"]
    environment = os.environ | {"VOORWERP_DATABASE": str(WORK / "campaigns.sqlite")}
    token = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()
    service.post("/v1/campaigns", token, {"name": "bench", "config": {"space": "search", "batch": 10}})
    asked = service.post("/v1/campaigns/bench/next", token)["asked"]
    times = []
    for round_ in range(4):
        time.sleep(len(asked) / LOOKED_AT_PER_S)
        ratings = [_rating(service, one["object_id"]) for one in asked]
        service.post("/v1/campaigns/bench/rate", token, {"ratings": ratings}, **{"Idempotency-Key": f"round{round_}"})
        started = perf_counter()
        asked = service.post("/v1/campaigns/bench/next", token)["asked"]
        times.append(perf_counter() - started)
    console.print("next batches: " + ", ".join(f"{seconds:.2f} s" for seconds in times))
    return times[0]


def _rating(service: Service, object_id: str) -> dict[str, Any]:
    first = service.get(f"/v1/objects/{object_id}")["components"][0]
    return {"object_id": object_id, "rating": int(np.clip(2.5 + first, 0, 5))}


def _make_pictured(folder: Path) -> None:
    """Write a small release with cutouts."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "images").mkdir(parents=True)
    for number in range(N_PICTURES):
        Image.fromarray(galaxy_pixels(number, SIDE)).save(folder / "images" / f"{number}.jpg", quality=92)
    ra_deg, dec_deg = positions(N_PICTURES)
    objects: dict[str, Any] = {
        "object_id": pa.array(np.arange(N_PICTURES) + 1),
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "cutout": [str(folder / "images" / f"{number}.jpg") for number in range(N_PICTURES)],
    }
    pacsv.write_csv(pa.table(objects), folder / "catalogue.csv")
    store = Store(str(folder / "release"))
    planned = plan.run(CatalogueConfig(path=str(folder / "catalogue.csv")), PlanConfig(), store)
    write_release(folder / "release", objects, clustered(N_PICTURES, 10), plan=planned)


def _pictures(service: Service) -> Load:
    paths = [f"/v1/objects/{number}/cutout.jpg?side=160" for number in range(1, N_PICTURES + 1)]
    return closed_loop(service.port, paths, 4, N_PICTURES)


def _first_picture(service: Service) -> float:
    """Seconds from navigation to the first picture of a gallery in a browser: the median of five, all caches empty."""
    from playwright.sync_api import sync_playwright

    found = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    times = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for number in range(6):
            page = browser.new_context().new_page()
            started = perf_counter()
            page.goto(f"http://127.0.0.1:{service.port}/#/search?q={number + 1}")
            page.wait_for_function("[...document.images].some(image => image.complete && image.naturalWidth > 16)")
            times.append(perf_counter() - started)
            page.context.close()
        browser.close()
    return float(np.median(times[1:]))  # The first one starts the browser's own processes.


def _ids(output: Path) -> list[str]:
    """Ids from every shard, in an order that is always the same."""
    release = open_release(Store(str(output)))
    random = np.random.default_rng(5)
    found: list[str] = []
    for shard in release.shards:
        rows = random.choice(shard.n_rows, N_ASKED // len(release.shards), replace=False)
        found += [str(object_id) for object_id in shard.ids(rows)]
    random.shuffle(found)
    return found


def _paths(ids: Sequence[str]) -> list[str]:
    return [f"/v1/neighbours?id={object_id}&k={K}" for object_id in ids]


if __name__ == "__main__":
    sys.exit(main())
