"""Job: campaign simulate. Campaigns in which known answers stand for the person, by several methods, side by side."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from rich.box import SIMPLE_HEAD
from rich.table import Table

from engine.cluster.ranking import components_of
from engine.cluster.session import connect
from engine.cluster.simulated_campaign import Known, Rules, run_trials, trial_path
from engine.compute.baseline import standardised
from engine.compute.oracle import CURVE_AT
from engine.compute.rank_metrics import ratings_of_fractions
from engine.storage.artefacts import decode, encode
from engine.storage.hats_catalogue import read_columns
from engine.storage.labels import LABEL, numbers_of, read_labels
from engine.storage.lease import lease
from engine.storage.parquet import as_matrix
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from jobs import ellipse
from jobs.figure import plotted
from jobs.report import console, note, progress, warn
from jobs.space import SpaceOf, space_of
from schemas import paths
from schemas.campaign import HIGHEST, LOWEST, METHODS, SimulatedCampaign, SimulatedCampaignJob, TrialRecord
from schemas.errors import DataError, OutputError
from schemas.manifest import content_id
from schemas.tables import ELLIPSE, OBJECT_ID

SIMULATION = "simulation.json"
TRIALS = "trials"
RESULTS, SUMMARY = "results.csv", "summary.csv"
_FRACTION, _RATING = 0.5, 4.5
"""Thresholds: what is larger is interesting."""
_COLOURS = dict(zip(METHODS, ("#4c78a8", "#72b7b2", "#9d9d9d", "#e45756", "#f58518", "#b279a2"), strict=True))
_SHOWN = ("average_precision", "accuracy_50", "accuracy_200", "rank_weighted_score_100")


def run(job: SimulatedCampaignJob) -> list[TrialRecord]:
    """Run every campaign that is not done yet, then write tables and figures; return all.

    Raises
    ------
    InputNotFoundError
        There is no finished release, or no table of answers.
    DataError
        No answer is of an object of the release; answers are no numbers, or out of range; nothing is interesting.
    OutputError
        The output holds other campaigns.
    """
    out = Store(job.output)
    space = space_of(job.release, job.space, job.ray)
    resources = connect(job.ray)
    known, digest = _known(job, space)
    rules = Rules(job.n_ratings, job.batch, job.epsilon, job.seed)
    sizes = {"ellipse_side_pixels": job.ellipse_side_pixels}
    identity = {"components": space.components.id, "objects": digest, **sizes, **rules._asdict()}
    wanted = [(method, repeat) for repeat in range(job.repeats) for method in job.methods]
    with lease(out):
        _claim(out, identity)
        folder = out.below(TRIALS)
        there = set(folder.list())
        done = [
            decode(TrialRecord, folder.read(trial_path(*trial)), folder.uri(trial_path(*trial)))
            for trial in wanted
            if trial_path(*trial) in there
        ]
        missing = [trial for trial in wanted if trial_path(*trial) not in there]
        cpus = max(1.0, resources.logical_cpus / resources.cores - 0.1)
        with progress("campaigns", len(wanted), "campaigns", done=len(done)) as advance:
            for record in run_trials(known, rules, missing, folder, cpus):
                done.append(record)
                advance(1)
        order = {trial: number for number, trial in enumerate(wanted)}
        done.sort(key=lambda record: order[record.method, record.repeat])
        _write(out, done, known, job)
    _show(done, known, out)
    return done


def _known(job: SimulatedCampaignJob, space: SpaceOf) -> tuple[Known, str]:
    column = job.fraction_column or job.rating_column
    table = read_labels(job.truth, job.id_column, column)
    values = numbers_of(table[LABEL])
    highest = 1.0 if job.fraction_column else float(HIGHEST)
    wrong = (values < LOWEST) | (values > highest)
    if wrong.any():
        raise DataError(f"{column}: expected values from {LOWEST} to {highest:g}, found {values[wrong][0]:g}")
    ids = as_ids(table[OBJECT_ID].combine_chunks(), space.id_type)
    with progress("components", space.n_objects, "objects") as advance:
        found, vectors = components_of(space.folder, space.partitions, ids.drop_null(), advance)
    if not len(found):
        raise DataError(f"{job.truth}: expected answers for objects of {job.release}, found none among {len(values):,}")
    if len(found) < len(values):
        warn(f"{len(values) - len(found):,} answers are for objects that the release does not have")
    values = values[pc.index_in(found, value_set=ids).to_numpy()]
    threshold = job.threshold if job.threshold is not None else _FRACTION if job.fraction_column else _RATING
    interesting = values > threshold
    if not 0 < interesting.sum() < len(values):
        raise DataError(
            f"{column}: expected some values above the threshold of {threshold:g} and some below, found "
            f"{interesting.sum():,} of {len(values):,} above; give --threshold"
        )
    answers = ratings_of_fractions(values).astype(float) if job.fraction_column else values
    shapes = _ellipse(job, found) if any("ellipse" in name or name == "baseline" for name in job.methods) else None
    known = Known(
        standardised(vectors).astype(np.float32),
        np.empty((len(values), 0), np.float32) if shapes is None else standardised(shapes).astype(np.float32),
        answers,
        interesting,
    )
    digest = content_id({"ids": found.to_pylist(), "answers": answers.tolist(), "interesting": interesting.tolist()})
    return known, digest


def _ellipse(job: SimulatedCampaignJob, ids: pa.Array) -> np.ndarray:
    """Ellipse features of objects, in their order; zeros, the mean once standardised, of those that have none."""
    manifest = ellipse.run(job.release, job.ray, job.ellipse_side_pixels)
    table = read_columns(Store(job.release).below(paths.artefact("ellipse", manifest.id)), [OBJECT_ID, ELLIPSE])
    features = as_matrix(table[ELLIPSE])
    places = pc.index_in(ids, value_set=table[OBJECT_ID].combine_chunks())
    missing = ~places.is_valid().to_numpy(zero_copy_only=False)
    if missing.any():
        warn(f"{int(missing.sum()):,} objects have no ellipse features: they count as average ones")
    taken = features[pc.fill_null(places, 0).to_numpy()]
    taken[missing] = features.mean(axis=0)
    return taken


def _claim(out: Store, identity: dict[str, Any]) -> None:
    if not out.create(SIMULATION, encode(SimulatedCampaign(identity=identity))):
        found = decode(SimulatedCampaign, out.read(SIMULATION), out.uri(SIMULATION)).identity
        differ = sorted(key for key in identity if found.get(key) != identity[key])
        if differ:
            raise OutputError(f"{out.uri()}: holds campaigns with other {', '.join(differ)}; give another output")


def summarise(records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Mean, standard deviation and standard error over repeats of every metric, by method."""
    rows = []
    for method in dict.fromkeys(record.method for record in records):
        group = [record for record in records if record.method == method]
        row: dict[str, Any] = {"method": method, "repeats": len(group)}
        for metric in group[0].metrics:
            values = np.array([record.metrics[metric] for record in group], float)
            sd = values.std(ddof=1) if len(values) > 1 else float("nan")
            row |= {f"{metric}_mean": values.mean(), f"{metric}_sd": sd, f"{metric}_se": sd / np.sqrt(len(values))}
        rows.append(row)
    return rows


def _write(out: Store, records: Sequence[TrialRecord], known: Known, job: SimulatedCampaignJob) -> None:
    results = [{**record.model_dump(include={"method", "repeat", "seconds"}), **record.metrics} for record in records]
    for path, rows in ((RESULTS, results), (SUMMARY, summarise(records))):
        sink = io.BytesIO()
        pacsv.write_csv(pa.Table.from_pylist(rows), sink)
        out.write(path, sink.getvalue())
    for name, data in figures(records, int(known.interesting.sum()), job.batch).items():
        out.write(name, data)


def figures(records: Sequence[TrialRecord], n_interesting: int, batch: int) -> dict[str, bytes]:
    """Draw what is found by length of the ranking, and by number of ratings, as in Figures 3 and 5 of the paper.

    Returns
    -------
    dict of file name to PNG
        `accuracy.png`, `rank_weighted_score.png`, `found.png`.
    """
    rows = {row["method"]: row for row in summarise(records)}

    def by_length(metric: str, title: str) -> Any:
        def draw(axes: Any) -> None:
            for method, row in rows.items():
                for kind, style in (("published", "-"), ("unrated", ":")):
                    mean = np.array([row[f"{kind}_{metric}_{n}_mean"] for n in CURVE_AT])
                    error = np.array([row[f"{kind}_{metric}_{n}_se"] for n in CURVE_AT])
                    label = method if kind == "published" else None
                    axes.plot(CURVE_AT, mean, style, color=_COLOURS[method], label=label)
                    axes.fill_between(CURVE_AT, mean - error, mean + error, color=_COLOURS[method], alpha=0.15, lw=0)
            axes.set(title=title, xlabel="first N of the ranking (dotted: unrated objects only)", ylabel=metric)
            axes.set_xscale("log")
            axes.set_ylim(0, 1.02)
            axes.legend(frameon=False, fontsize=8)

        return draw

    def found(axes: Any) -> None:
        for method in rows:
            counts = np.array([record.found_by_batch for record in records if record.method == method], float)
            ratings = batch * np.arange(1, counts.shape[1] + 1)
            axes.plot(ratings, counts.mean(axis=0), color=_COLOURS[method], label=method)
            axes.fill_between(
                ratings, *np.percentile(counts, [16, 84], axis=0), color=_COLOURS[method], alpha=0.15, lw=0
            )
        axes.axhline(n_interesting, color="grey", lw=0.8, ls=":")
        axes.set(
            title="Interesting ones that were asked about", xlabel="ratings", ylabel=f"found, of {n_interesting:,}"
        )
        axes.legend(frameon=False, fontsize=8)

    return {
        "accuracy.png": plotted(by_length("accuracy", "Share of the first N that is interesting"), 6.5, 4.5),
        "rank_weighted_score.png": plotted(by_length("rank_weighted_score", "Rank weighted score"), 6.5, 4.5),
        "found.png": plotted(found, 6.5, 4.5),
    }


def _show(records: Sequence[TrialRecord], known: Known, out: Store) -> None:
    n, n_interesting = len(known.answers), int(known.interesting.sum())
    for kind, title in (
        ("published", "all objects, rated ones by their rating, as published"),
        ("unrated", "unrated objects only"),
    ):
        table = Table("method", *(name.replace("_", " ") for name in _SHOWN), "found", box=SIMPLE_HEAD, title=title)
        for row in summarise(records):
            cells = [f"{row[f'{kind}_{name}_mean']:.3f} ± {row[f'{kind}_{name}_se']:.3f}" for name in _SHOWN]
            table.add_row(row["method"], *cells, f"{row['found_mean']:.1f}")
        console.print(table)
    note(
        "campaigns",
        f"{len(records):,} of {n:,} objects with {n_interesting:,} interesting ones ({n_interesting / n:.1%}); mean ± "
        f"standard error; tables and figures are in {out.uri()}",
    )
