"""Job: rank. What was rated becomes an order of the whole release, with lists and pictures of the best."""

from collections.abc import Mapping
from statistics import fmean
from time import perf_counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from engine.cluster.asking import acquisition_of
from engine.cluster.opened import open_release
from engine.cluster.pictures import pictures_of
from engine.cluster.ranking import Ranked, components_of, means_by_part, write_ranked
from engine.cluster.session import connect
from engine.compute.gp import Kernel, contributions, left_out
from engine.compute.learning import Learned, learn
from engine.storage.answers import write_answer_parts
from engine.storage.artefacts import decode, encode, library_versions, utc_now
from engine.storage.hats_catalogue import write_hats_metadata
from engine.storage.lease import lease
from engine.storage.rating_files import read_ratings
from engine.storage.store import Store, file_record
from engine.storage.table_file import as_ids
from jobs.campaign import open_store, place_of
from jobs.contact_sheet import contact_sheet
from jobs.rating_plots import calibration_plot
from jobs.report import note, progress, warn
from jobs.space import SpaceOf, space_of
from schemas import paths
from schemas.campaign import HIGHEST, Ranking, RankingConfig, RankJob
from schemas.errors import ConfigError, DataError, OutputError
from schemas.manifest import FileRecord, content_id
from schemas.rating_events import held, means, of_others, of_rater
from schemas.tables import DEC, MEAN, OBJECT_ID, RA, RANK, RATER, RATING, SD

RANKING = "ranking.json"
CANDIDATES = "candidates"
TOP = "top"
SHEET = "top.png"
CALIBRATION = "calibration.png"
BECAUSE = "because"
"""Rated objects that pulled a candidate up: id (rating) and by how much."""
_REASONS = 3
_SHOWN = 5


class _Rated(NamedTuple):
    """Ratings by object id, as text."""

    own: dict[str, float]
    others: dict[str, float]
    """What others liked, where a ranking begins with that."""
    components: str | None = None
    """That the campaign sees."""


class _Given(NamedTuple):
    """Ratings of objects of the space, in order of id."""

    ids: pa.Array
    vectors: np.ndarray
    ratings: np.ndarray
    n_unknown: int


def run(job: RankJob) -> Ranking:
    """Rank every object of a release by ratings, or confirm that this was done.

    Raises
    ------
    ConfigError
        There is neither a file of ratings nor a campaign, or both.
    DataError
        No rating is of an object of the release, or the ratings are of another release.
    InputNotFoundError
        There is no finished release, no file or no campaign.
    OutputError
        The output holds another ranking.
    """
    started = perf_counter()
    out = Store(job.output)
    if (job.ratings is None) == (job.campaign is None):
        raise ConfigError("expected either --ratings FILE or --campaign NAME")
    job, ratings = _of_campaign(job) if job.campaign is not None else (job, _of_file(job))
    space = space_of(job.release, job.space, job.ray)
    if ratings.components not in (None, space.components.id):
        raise DataError(
            f"campaign {job.campaign}: sees components {ratings.components}, and {job.release} has "
            f"{space.components.id} now: create a campaign on the new release, and import the ratings"
        )
    identity = _identity(job, ratings, space)
    with lease(out):
        if out.exists(RANKING):
            return _same(out, identity)
        connect(job.ray)
        start = Kernel(job.kernel)
        prior = None
        if ratings.others:
            others = _place(ratings.others, space)
            prior = learn(others.vectors, others.ratings, start).posterior
        given = _place(dict.fromkeys(job.examples, float(HIGHEST)) | ratings.own, space)
        learned = learn(given.vectors, given.ratings, start, prior)
        if learned.stale:
            warn("the hyper-parameters could not be fitted to these ratings; the default ones are used")
        files, n_rows = _write_candidates(job, space, given, learned, out)
        files += _write_lists(job, space, given, learned, out)
        kernel = learned.posterior.kernel
        ranking = Ranking(
            identity=identity,
            kernel=kernel.kind,
            length=kernel.length,
            alpha=kernel.alpha,
            noise=kernel.noise,
            log_likelihood=learned.log_likelihood,
            counts={"ratings": len(given.ratings), "unknown": given.n_unknown, "ranked": n_rows},
            files=files,
            versions=library_versions(),
            durations_s={"total": perf_counter() - started},
            created_utc=utc_now(),
        )
        out.create(RANKING, encode(ranking))
    note("rank", f"{n_rows:,} objects by {len(given.ratings):,} ratings; the best are in {out.uri(f'{TOP}.csv')}")
    return ranking


def _of_file(job: RankJob) -> _Rated:
    table = read_ratings(str(job.ratings), job.id_column, job.rating_column)
    if job.rater is not None:
        if RATER not in table.column_names:
            raise ConfigError(f"--rater: expected a column {RATER!r} in {job.ratings}, found none")
        table = table.filter(pc.equal(table[RATER], job.rater))
    found: dict[str, list[int]] = {}
    for object_id, value in zip(table[OBJECT_ID].to_pylist(), table[RATING].to_pylist(), strict=True):
        found.setdefault(object_id, []).append(value)
    return _Rated({object_id: fmean(values) for object_id, values in found.items()}, {})


def _of_campaign(job: RankJob) -> tuple[RankJob, _Rated]:
    """Ratings of a campaign, and the job with the campaign's settings where it has none of its own."""
    store = open_store(job.database)
    campaign = store.campaign(str(job.campaign))
    if place_of(job.release) != campaign.release:
        raise DataError(f"campaign {campaign.name}: rates {campaign.release}, and {job.release} is to be ranked")
    own = job.model_fields_set
    settings = {name: getattr(campaign.config, name) for name in RankingConfig.model_fields if name not in own}
    ratings = held(store.events(campaign.name))
    if job.rater is None:
        rated = _Rated(means(ratings), {}, campaign.components)
    else:
        others = of_others(ratings, job.rater) if campaign.config.pooled else {}
        rated = _Rated(of_rater(ratings, job.rater), others, campaign.components)
    store.close()
    return job.model_copy(update=settings), rated


def _identity(job: RankJob, ratings: _Rated, space: SpaceOf) -> dict[str, object]:
    return {
        "release": space.release.id,
        "components": space.components.id,
        "ratings": content_id(ratings._asdict()),
        **job.model_dump(mode="json", include={*RankingConfig.model_fields, "top", "sheet", "include_rated"}),
    }


def _same(out: Store, identity: Mapping[str, object]) -> Ranking:
    ranking = decode(Ranking, out.read(RANKING), out.uri(RANKING))
    different = [key for key, value in identity.items() if ranking.identity.get(key) != value]
    if different:
        raise OutputError(
            f"{out.uri()} holds another ranking, of other {', '.join(different)}: choose another output, or delete it"
        )
    note("rank", f"{out.uri(RANKING)} is there already")
    return ranking


def _place(given: Mapping[str, float], space: SpaceOf) -> _Given:
    if not given:
        raise DataError("expected at least one rating, found none")
    id_type = space.id_type
    wanted = as_ids(pa.array(list(given), pa.string()), id_type)
    with progress("ratings", space.n_objects, "objects") as advance:
        ids, vectors = components_of(space.folder, space.partitions, wanted.drop_null(), advance)
    texts = ids.cast(pa.string()).to_pylist()
    unknown = sorted(given.keys() - set(texts))
    if not texts:
        raise DataError(
            f"expected ratings of objects of {space.uri}, found none among {len(given):,}: {unknown[:_SHOWN]}"
        )
    if unknown:
        warn(f"{len(unknown):,} rated objects are not in the release: {', '.join(unknown[:_SHOWN])}")
    return _Given(ids, vectors, np.array([given[text] for text in texts]), len(unknown))


def _write_candidates(
    job: RankJob, space: SpaceOf, given: _Given, learned: Learned, out: Store
) -> tuple[list[FileRecord], int]:
    with progress("score", space.n_objects, "objects") as advance:
        means = means_by_part(space.folder, space.partitions, learned.posterior, advance)
    ranks = np.empty(len(means), np.int64)
    ranks[np.argsort(-means, kind="stable")] = np.arange(1, len(means) + 1)
    place = out.below(CANDIDATES)
    ranked = Ranked(learned.posterior, acquisition_of(job, job.seed), learned.best, given.ids, given.ratings)
    with progress("write", space.n_objects, "objects") as advance:
        written = write_ranked(space.folder, place, space.partitions, ranked, ranks, advance)
    metadata = write_hats_metadata(place, CANDIDATES, [part.partition for part in written], len(means))
    files = [*(part.file for part in written), *metadata]
    return [file.model_copy(update={"path": f"{CANDIDATES}/{file.path}"}) for file in files], len(means)


def _write_lists(job: RankJob, space: SpaceOf, given: _Given, learned: Learned, out: Store) -> list[FileRecord]:
    top = _top(job, given, out)
    with progress("explain", space.n_objects, "objects") as advance:
        ids, vectors = components_of(space.folder, space.partitions, top[OBJECT_ID].combine_chunks(), advance)
    order = pc.index_in(top[OBJECT_ID].combine_chunks(), value_set=ids).to_numpy()
    top = top.append_column(BECAUSE, pa.array(_reasons(learned, given, vectors[order])))
    files = []
    for suffix in ("parquet", "csv", "vot"):
        name = f"{TOP}.{suffix}"
        write_answer_parts(out.uri(name), top.schema, [top])
        files.append(file_record(name, out.read(name)))
    files.append(out.write(CALIBRATION, calibration_plot(given.ratings, *left_out(learned.posterior, given.ratings))))
    if job.sheet:
        shown = top.slice(0, job.sheet).to_pylist()
        pictures = pictures_of(open_release(Store(job.release)), [str(row[OBJECT_ID]) for row in shown])
        captions = [
            f"{row[RANK]}  {row[OBJECT_ID]}\n{row[MEAN]:.2f} ± {row[SD]:.2f}"
            + ("" if row[RATING] is None else f"  rated {row[RATING]:g}")
            for row in shown
        ]
        files.append(out.write(SHEET, contact_sheet(pictures, captions)))
    return files


def _top(job: RankJob, given: _Given, out: Store) -> pa.Table:
    """The best candidates, best first."""
    place = out.below(CANDIDATES)
    dataset = pads.dataset(place.full_path(paths.DATASET), filesystem=place.filesystem, format="parquet")
    most = job.top + (0 if job.include_rated else len(given.ratings))
    table = dataset.to_table(filter=pads.field(RANK) <= most).sort_by(RANK)
    if not job.include_rated:
        table = table.filter(pc.is_null(table[RATING]))
    names = [name for name in table.column_names if name not in (OBJECT_ID, RA, DEC, RANK)]
    return table.slice(0, job.top).select([RANK, OBJECT_ID, RA, DEC, *(name for name in names if name[0] != "_")])


def _reasons(learned: Learned, given: _Given, vectors: np.ndarray) -> list[str]:
    """Say which rated objects pulled each candidate up the most."""
    added = contributions(learned.posterior, vectors)
    ids = given.ids.to_pylist()
    said = []
    for row in added:
        order = [at for at in np.argsort(-row, kind="stable")[:_REASONS] if row[at] > 0]
        said.append(", ".join(f"{ids[at]} ({given.ratings[at]:g}) +{row[at]:.2f}" for at in order))
    return said
