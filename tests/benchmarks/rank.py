"""`make bench-rank`: how fast a step of a campaign is, how much each method finds, and whether ratings survive kills.

What is made is kept in build/bench-rank, so that a run that was stopped goes on; delete the folder to begin anew. The
simulated galaxies are embedded by the encoder of `make bench-train`, which is trained here where it is missing.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RationalQuadratic, WhiteKernel

from engine.cluster.asking import ask, learn_from, place
from engine.cluster.space import OpenSpace
from engine.compute.acquisition import expected_improvement
from engine.compute.gp import Kernel
from engine.storage.artefacts import decode, utc_now
from engine.storage.campaigns import open_campaigns
from engine.storage.store import Store
from jobs.simulated_campaign import TRIALS, summarise
from schemas.campaign import Campaign, CampaignConfig, RankingConfig, TrialRecord
from schemas.simulation import SHARES
from tests.benchmarks.galaxies import DATA, missing
from tests.benchmarks.process import CommandError
from tests.benchmarks.table import Bar, Table, finish, machine
from tests.benchmarks.train_real import REAL
from tests.benchmarks.train_simulated import LITE0, as_yaml, options_of, pretrained, voorwerp

ROOT = Path(__file__).parents[2]
WORK = ROOT / "build" / "bench-rank"
FIGURES = ROOT / "docs" / "figures"
DIMENSION, N_RATINGS, THREADS = 40, 200, 2
SIZES = (60_000, 250_000, 1_000_000, 4_000_000, 10_000_000)
RIVAL_SIZE = 1_000_000
ROUNDS = 3
N_SURVEY, SEED, REPEATS = 10_000, 21, 15
RARE = 0.015
YES, NO, VOLUNTEERS = 0.85, 0.05, 40
"""How the person judges a galaxy: as the mean of so many volunteers, who see what it is or is not so often."""
CLASSES = ("merger", "ring", "irregular", "odd")
SDSS_RATINGS = {"merger": 5, "dont_know_star_artifact": 3, "spiral_edge_on_or_unclear": 1}
N_RATERS, N_EVENTS = 20, 10_000


def main() -> int:
    """Run the benchmark; return the exit code."""
    if complaint := missing(["sdss_gz1"]):
        print(complaint)
        return 2
    started_on = machine()
    WORK.mkdir(parents=True, exist_ok=True)
    FIGURES.mkdir(exist_ok=True)
    try:
        parts = [_steps(), _ratings_survive(), _simulated(), _real()]
    except CommandError as error:
        print(error)
        return 1
    tables = [table for found, _ in parts for table in found]
    bars = [bar for _, found in parts for bar in found]
    return finish("rank", "make bench-rank", started_on, tables, bars)


def _steps() -> tuple[list[Table], list[Bar]]:
    """One ask-tell step at several sizes, and scikit-learn's way of it."""
    rows, seconds, batches = [], {}, {}
    for n in SIZES:
        vectors, ratings = _generated(n)
        space = OpenSpace(pa.array(np.arange(n)), vectors, THREADS)
        for kind in ("top", "believer"):
            times = []
            for _ in range(ROUNDS if n <= RIVAL_SIZE else 1):
                took, batches[n, kind] = _ours(space, ratings, kind)
                times.append(took)
            seconds[n, kind] = np.median(times, axis=0)
            fit_s, ask_s = seconds[n, kind]
            name = {"top": "the best 10, as in the paper", "believer": "10 unlike each other"}[kind]
            rows.append([f"{n:,}", name, f"{fit_s:.2f}", f"{ask_s:.2f}", f"{fit_s + ask_s:.2f}"])
        if n == RIVAL_SIZE:
            rival_s, rival_batch = _scikit_learn(vectors, ratings)
            rows.append([f"{n:,}", "scikit-learn + modAL's way, the best 10", "", "", f"{rival_s:.1f}"])
    same = len(set(rival_batch) & set(batches[RIVAL_SIZE, "top"].tolist()))
    slope = seconds[SIZES[-1], "top"][1] / SIZES[-1]
    note = (
        f"{N_RATINGS} ratings of {DIMENSION} generated components, {THREADS} threads, vectors in memory; median of "
        f"{ROUNDS} rounds up to 1,000,000. Seconds to fit (from the last and from typical hyper-parameters), and "
        f"to score all and choose. Scoring grows by {slope * 1e6:.2f} s per million here: 1e8 objects would take "
        f"{slope * 1e8:.0f} s on two such cores, or 1/n of it on n times as many, if 16 GB of vectors are in memory "
        "and the bound on the deviations lets as many objects be skipped as at 1e7."
    )
    table = Table(
        "One step of a campaign: fit, score, choose", ("objects", "batch", "fit s", "choose s", "step s"), rows, note
    )
    million, small = sum(seconds[RIVAL_SIZE, "top"]), sum(seconds[SIZES[0], "top"])
    return [table], [
        Bar("step at 1,000,000, seconds", million, "<=", 1.0),
        Bar("step at 60,000, seconds", small, "<=", 0.3),
        Bar("step at 1,000,000: scikit-learn's way / ours", rival_s / million, ">=", 10),
        Bar("step at 1,000,000: of 10, chosen by both", same, ">=", 10),
    ]


def _generated(n: int) -> tuple[np.ndarray, dict[str, float]]:
    """Standardised vectors in a few clouds, and ratings of some by where they are; the rated ones are the first."""
    generator = np.random.default_rng(5)
    vectors = generator.standard_normal((n, DIMENSION), dtype=np.float32)
    liked = generator.standard_normal(DIMENSION).astype(np.float32)
    first = vectors[:N_RATINGS]
    score = 2 + 1.2 * first @ liked / np.linalg.norm(liked) + generator.normal(0, 0.5, N_RATINGS)
    ratings = np.clip(np.round(score), 0, 5)
    return vectors, {str(row): float(rating) for row, rating in enumerate(ratings)}


def _ours(space: OpenSpace, ratings: dict[str, float], kind: str) -> tuple[tuple[float, float], np.ndarray]:
    config = RankingConfig.model_validate({"batch_kind": kind})
    placed = place(space, ratings)
    learned = learn_from(space, placed, Kernel())
    assert learned
    started = time.perf_counter()
    learned = learn_from(space, placed, learned.posterior.kernel)
    assert learned
    fitted = time.perf_counter()
    question = ask(space, learned, config, placed.rows, 10, seed=0)
    ended = time.perf_counter()
    return (fitted - started, ended - fitted), question.rows


def _scikit_learn(vectors: np.ndarray, ratings: dict[str, float]) -> tuple[float, list[int]]:
    """Fit, predict and value all objects at once, as modAL's optimiser does with this regressor."""
    rows = np.array([int(row) for row in ratings])
    values = np.array(list(ratings.values()))
    pool = np.setdiff1d(np.arange(len(vectors)), rows)
    started = time.perf_counter()
    process = GaussianProcessRegressor(RationalQuadratic() + WhiteKernel()).fit(vectors[rows], values)
    mean, sd = process.predict(vectors[pool], return_std=True)
    best = np.argsort(-expected_improvement(mean, sd, float(values.max())), kind="stable")[:10]
    return time.perf_counter() - started, pool[best].tolist()


def _ratings_survive() -> tuple[list[Table], list[Bar]]:
    """Twenty raters write at once, and are killed at random times."""
    database = WORK / "ratings.sqlite"
    for path in WORK.glob("ratings.sqlite*"):
        path.unlink()
    store = open_campaigns(str(database))
    campaign = Campaign(
        name="kills",
        release="none",
        release_id="none",
        components="none",
        id_type="int64",
        config=CampaignConfig(),
        created_utc=utc_now(),
    )
    store.create(campaign)
    each, generator, n_kills = N_EVENTS // N_RATERS, random.Random(3), 0
    acknowledged = dict.fromkeys(range(N_RATERS), 0)
    started = time.perf_counter()

    def begin(rater: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.benchmarks.rater", database, rater, acknowledged[rater], each]
        return subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, cwd=ROOT)

    processes = {rater: begin(rater) for rater in acknowledged}
    kill_at = {rater: generator.randint(1, each) for rater in acknowledged}
    while processes:
        for rater, process in list(processes.items()):
            line = process.stdout.readline() if process.stdout else ""
            if line:
                acknowledged[rater] = int(line)
            if acknowledged[rater] >= kill_at[rater]:
                process.send_signal(signal.SIGKILL)
                n_kills += 1
                kill_at[rater] = each + 1
            if not line:
                process.wait()
                del processes[rater]
                if acknowledged[rater] < each:
                    processes[rater] = begin(rater)
    took = time.perf_counter() - started
    events = [one.event.request for one in store.events("kills")]
    store.close()
    expected = {f"{rater}-{number}" for rater in range(N_RATERS) for number in range(each)}
    lost, twice = len(expected - set(events)), len(events) - len(set(events))
    table = Table(
        "Ratings under SIGKILL",
        ("raters", "events", "kills", "lost", "recorded twice", "events/s"),
        [[str(N_RATERS), f"{len(events):,}", str(n_kills), str(lost), str(twice), f"{len(events) / took:,.0f}"]],
        "SQLite, WAL, synchronous=FULL; every rater a process of its own, killed once at random and begun again behind "
        "its last acknowledged rating, so that one may be sent twice. The rate includes the starts of processes.",
    )
    return [table], [
        Bar("ratings: acknowledged and lost", lost, "<=", 0),
        Bar("ratings: recorded twice", twice, "<=", 0),
        Bar("ratings: raters that were killed", n_kills, ">=", N_RATERS),
    ]


def _simulated() -> tuple[list[Table], list[Bar]]:
    """Rare kinds in a simulated survey, embedded by an encoder that was trained on votes for other galaxies."""
    survey, release = WORK / "survey", WORK / "release"
    common = {kind: share for kind, share in SHARES.items() if kind not in CLASSES}
    rest = (1 - RARE * 3) / sum(common.values())
    shares = {kind: round(share * rest, 6) for kind, share in common.items()} | dict.fromkeys(CLASSES[:3], RARE)
    listed = ", ".join(f"{kind}: {share}" for kind, share in shares.items())
    settings = {"shares": f"{{{listed}}}", "odd_share": RARE, "first_id": 5_000_000}
    voorwerp("simulate", survey, "-n", N_SURVEY, "--seed", SEED, "--tar", *options_of(settings))
    encoder = pretrained("all")
    voorwerp("release", "--catalogue", survey / "catalogue.parquet", "--weights", encoder, "-o", release)
    truth = pq.read_table(survey / "truth.parquet", columns=["object_id", "kind", "oddity"])
    tables, bars = [], []
    for number, name in enumerate(CLASSES):
        yes = pc.not_equal(truth["oddity"], "none") if name == "odd" else pc.equal(truth["kind"], name)
        given = yes.to_numpy()
        fraction = np.random.default_rng(number).binomial(VOLUNTEERS, np.where(given, YES, NO)) / VOLUNTEERS
        path = WORK / f"{name}.parquet"
        pq.write_table(pa.table({"object_id": truth["object_id"], name: fraction}), path)
        records = _campaigns(release, path, f"simulated-{name}", "--fraction", name, "--threshold", 0.5)
        tables.append(_table(f"Simulated: {name}, {int(given.sum())} of {N_SURVEY:,}", records))
        bars.append(_beats(f"simulated {name}", records))
    return tables, bars


def _real() -> tuple[list[Table], list[Bar]]:
    """Mergers in SDSS, with an encoder that never saw a galaxy."""
    release, path = WORK / "sdss", WORK / "sdss-ratings.parquet"
    preset = WORK / "real.yaml"
    preset.write_text(as_yaml(REAL))
    given = ["--architecture", LITE0, "--weights", "package:lite0", "--preset", preset]
    voorwerp("release", "--catalogue", DATA / "sdss_gz1" / "catalogue.csv", *given, "-o", release)
    catalogue = pacsv.read_csv(DATA / "sdss_gz1" / "catalogue.csv")
    ratings = [SDSS_RATINGS.get(name, 0) for name in catalogue["gz1_class"].to_pylist()]
    pq.write_table(pa.table({"object_id": catalogue["object_id"], "rating": ratings}), path)
    records = _campaigns(release, path, "sdss", "--rating", "rating")
    return [_table(f"SDSS: mergers, {ratings.count(5)} of {len(ratings):,}", records)], []


def _campaigns(release: Path, truth: Path, name: str, *options: Any) -> list[TrialRecord]:
    output = WORK / name
    voorwerp("campaign", "simulate", release, truth, "-o", output, *options, "--repeats", REPEATS)
    for figure in ("accuracy", "found"):
        shutil.copy(output / f"{figure}.png", FIGURES / f"rank-{name}-{figure}.png")
    folder = Store(str(output)).below(TRIALS)
    return [decode(TrialRecord, folder.read(path), folder.uri(path)) for path in folder.list()]


def _table(title: str, records: Sequence[TrialRecord]) -> Table:
    def shown(row: dict[str, Any], metric: str) -> str:
        return f"{row[f'{metric}_mean']:.3f} ± {row[f'{metric}_se']:.3f} ({3 * row[f'{metric}_sd']:.2f})"

    metrics = {
        "published_average_precision": "average precision",
        "published_accuracy_50": "top 50",
        "published_accuracy_200": "top 200",
        "unrated_average_precision": "unrated: average precision",
        "unrated_accuracy_50": "unrated: top 50",
        "unrated_recall_200": "unrated: recall at 200",
    }
    rows = [
        [row["method"], *(shown(row, metric) for metric in metrics), f"{row['found_mean']:.1f}"]
        for row in summarise(records)
    ]
    note = (
        f"{REPEATS} campaigns of {N_RATINGS} ratings each: mean ± standard error (3 x standard deviation). The first "
        "columns rank rated objects by their rating, as published; unrated: only what was never shown. found: "
        "interesting ones among those asked about."
    )
    return Table(title, ("method", *metrics.values(), "found"), rows, note)


def _beats(name: str, records: Sequence[TrialRecord]) -> Bar:
    """By how many standard errors the Gaussian process, as campaigns have it, has a better average precision."""
    rows = {row["method"]: row for row in summarise(records)}
    gp, baseline = rows["gp-believer"], rows["baseline"]
    metric = "published_average_precision"
    error = np.hypot(gp[f"{metric}_se"], baseline[f"{metric}_se"])
    difference = gp[f"{metric}_mean"] - baseline[f"{metric}_mean"]
    return Bar(
        f"{name}: average precision, (gp-believer - baseline) / standard error", float(difference / error), ">=", 3
    )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
    sys.exit(main())
