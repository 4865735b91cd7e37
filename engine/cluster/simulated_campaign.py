"""Simulated campaigns over Ray: one task per campaign; the objects are put into the object store once."""

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import ray

from engine.cluster.stream import stream
from engine.compute import oracle
from engine.compute.one_thread import one_thread
from engine.compute.oracle import Trial
from engine.storage.artefacts import decode, encode
from engine.storage.store import Store
from schemas.campaign import BatchKind, Method, TrialRecord


class Known(NamedTuple):
    """Objects whose answers are known."""

    components: np.ndarray
    """(n, d) float32, standardised."""
    ellipse: np.ndarray
    """(n, 30) float32, standardised; without columns where no method looks at it."""
    answers: np.ndarray
    """(n,) float64, ratings."""
    interesting: np.ndarray
    """(n,) bool."""


class Rules(NamedTuple):
    """Of every campaign."""

    n_ratings: int
    batch: int
    epsilon: float
    seed: int


def run_trials(
    known: Known, rules: Rules, trials: Sequence[tuple[Method, int]], folder: Store, cpus: float
) -> Iterator[TrialRecord]:
    """Run campaigns, (method, repeat), and keep a record of each in a folder; yield them as they end."""
    shared = ray.put(known)

    def run(record: dict[str, Any]) -> dict[str, Any]:
        given = Known(*ray.get(shared))
        with one_thread():
            made = run_trial(given, rules, record["method"], record["repeat"])
        folder.create(trial_path(made.method, made.repeat), encode(made))
        return {"made": encode(made)}

    records = [{"method": method, "repeat": repeat} for method, repeat in trials]
    for record in stream(records, {"fn": run, "num_cpus": cpus}):
        yield decode(TrialRecord, record["made"], "trial record")


def run_trial(known: Known, rules: Rules, method: Method, repeat: int) -> TrialRecord:
    """Run one campaign. Those of one repeat begin with the same random batch, whatever the method."""
    started = perf_counter()
    trial = _trial(known, rules, method, rules.seed + repeat)
    metrics = oracle.metrics_of(trial, known.answers, known.interesting)
    ends = range(rules.batch, rules.n_ratings + rules.batch, rules.batch)
    return TrialRecord(
        method=method,
        repeat=repeat,
        metrics={name: None if np.isnan(value) else value for name, value in metrics.items()},
        found_by_batch=oracle.found_by_ratings(trial, known.interesting, ends),
        seconds=perf_counter() - started,
    )


def trial_path(method: Method, repeat: int) -> str:
    """Path of a trial's record."""
    return f"{method}-{repeat:03d}.json"


def _trial(known: Known, rules: Rules, method: Method, seed: int) -> Trial:
    if method == "random":
        return oracle.random_trial(known.components, known.answers, rules.n_ratings, seed)
    if method in ("baseline", "embedding+forest"):
        features = known.ellipse if method == "baseline" else known.components
        return oracle.baseline_trial(features, known.answers, rules.n_ratings, seed)
    vectors = known.ellipse if method == "ellipse+gp" else known.components
    kind: BatchKind = "believer" if method == "gp-believer" else "top"
    return oracle.gaussian_process_trial(
        vectors, known.answers, rules.n_ratings, rules.batch, kind, rules.epsilon, seed
    )
