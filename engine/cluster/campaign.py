"""What happens in a campaign: batches are asked about, rated, and taken back, by as many raters as like to.

Starts no cluster: the space may be of this process or of many actors.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from uuid import uuid4

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from engine.cluster.asking import ask, learn_from, place, seed_of
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.space import OpenSpace, Space, open_space
from engine.compute.gp import Kernel, Posterior
from engine.storage.artefacts import partitions_of, read_manifest, utc_now
from engine.storage.campaigns import CampaignStore
from engine.storage.rating_files import read_ratings, write_ratings
from engine.storage.store import Store
from engine.storage.table_file import as_ids
from schemas import paths
from schemas.campaign import (
    HIGHEST,
    LOWEST,
    Asked,
    Campaign,
    CampaignConfig,
    RankingRecord,
    RatingEvent,
    Recorded,
)
from schemas.errors import BusyError, DataError
from schemas.manifest import content_id
from schemas.partition import PartitionFile
from schemas.rating_events import held, of_others, of_rater, raters_of
from schemas.tables import MEAN, OBJECT_ID, RATER, RATING, SD

_SHOWN = 5
_TRIES = 20
"""Of a batch: others may be asked about the same objects in the same moment."""


class Batch(NamedTuple):
    """What a rater is asked about."""

    ranking: int
    asked: tuple[Asked, ...]


def components_of_campaign(campaign: Campaign) -> tuple[Store, list[PartitionFile]]:
    """Find the components of a campaign: their folder, and what it holds.

    Raises
    ------
    InputNotFoundError
        The components that the campaign was created with are not there any more.
    """
    store = Store(campaign.release)
    components = read_manifest(store, "components", campaign.components)
    return store.below(paths.artefact("components", components.id)), partitions_of(components)


def open_campaign_space(
    campaign: Campaign, threads: int = 1, advance: Callable[[int], None] | None = None
) -> OpenSpace:
    """Read the components of a campaign into memory.

    Raises
    ------
    InputNotFoundError
        As of `components_of_campaign`.
    IntegrityError
        They were changed.
    """
    return open_space(*components_of_campaign(campaign), threads, advance=advance)


def next_batch(store: CampaignStore, campaign: Campaign, rater: str, space: Space, n: int | None = None) -> Batch:
    """Ask a rater about the next objects; what was asked and not rated is asked again while it is kept for the rater.

    Parameters
    ----------
    n : int or None
        At least so many, with those that wait: others are asked about beside them, so that a rater can go on without
        a pause. What waits, or else a batch, when None.

    Raises
    ------
    DataError
        There is nothing left to ask about.
    BusyError
        Others were faster, again and again.
    """
    for _ in range(_TRIES):
        now = datetime.now(UTC)
        waiting = _waiting(store, campaign, rater, now)
        if waiting and len(waiting.asked) >= (n or 1):
            return waiting
        kept = tuple(one.object_id for one in waiting.asked) if waiting else ()
        record = rank_now(store, campaign, rater, space, (n or campaign.config.batch) - len(kept), now, kept)
        if waiting and not record.asked:
            return waiting
        if not record.asked:
            raise DataError(f"{campaign.name}: every object is rated, or kept for another rater")
        until = now + timedelta(minutes=campaign.config.lease_minutes)
        granted = store.ask(campaign.name, record, _text(now), _text(until), campaign.config.raters_per_object, kept)
        if granted:
            chosen = {one.object_id for one in granted}
            new = tuple(one for one in record.asked if one.object_id in chosen)
            return Batch(granted[0].ranking, (*waiting.asked, *new) if waiting else new)
    raise BusyError(f"{campaign.name}: other raters were asked about the same objects {_TRIES} times; try again")


def rank_now(
    store: CampaignStore,
    campaign: Campaign,
    rater: str,
    space: Space,
    n: int,
    now: datetime,
    waiting: Sequence[str] = (),
) -> RankingRecord:
    """Choose a rater's next n objects from everything that was rated so far; those that wait are not among them."""
    events = store.events(campaign.name)
    taken = store.taken(campaign.name, rater, _text(now))
    full = [object_id for object_id, count in taken.items() if count >= campaign.config.raters_per_object]
    record = _rank(campaign, rater, events, [*full, *waiting], last_kernel(store, campaign, rater), space, n, now)
    return record.model_copy(update={"waiting": tuple(waiting)})


def reproduce(store: CampaignStore, campaign: Campaign, record: RankingRecord, space: Space) -> RankingRecord:
    """Make a ranking again from the events that it saw, its hyper-parameters and its seed.

    What was kept for other raters then is not recorded: objects that they rated later may be in its place.
    """
    events = store.events(campaign.name, record.snapshot)
    raters = raters_of(held(events))
    full = [
        object_id
        for object_id, names in raters.items()
        if len(names - {record.rater}) >= campaign.config.raters_per_object
    ]
    start = Kernel(record.kernel, record.length, record.alpha, record.noise)
    full += record.waiting
    now = datetime.fromisoformat(record.at_utc)
    return _rank(campaign, record.rater, events, full, start, space, len(record.asked), now, refit=False)


def _rank(
    campaign: Campaign,
    rater: str,
    events: Sequence[Recorded],
    full: Sequence[str],
    start: Kernel,
    space: Space,
    n: int,
    now: datetime,
    refit: bool = True,
) -> RankingRecord:
    config, ratings = campaign.config, held(events)
    snapshot = events[-1].sequence if events else 0
    placed = place(space, of_rater(ratings, rater), config.examples)
    learned = learn_from(space, placed, start, prior_of(space, of_others(ratings, rater), config), refit)
    found = space.find(full)
    excluded = np.unique(np.concatenate([placed.rows, found[found >= 0]]))
    seed = seed_of(config.seed, rater, snapshot)
    question = ask(space, learned, config, excluded, n, seed)
    kernel = learned.posterior.kernel if learned else start
    return RankingRecord(
        rater=rater,
        snapshot=snapshot,
        n_ratings=len(placed.rows),
        components=campaign.components,
        seed=seed,
        kernel=kernel.kind,
        length=kernel.length,
        alpha=kernel.alpha,
        noise=kernel.noise,
        log_likelihood=learned.log_likelihood if learned else None,
        stale=bool(learned and learned.stale),
        asked=tuple(
            Asked(object_id=object_id, mean=_number(mean), sd=_number(sd), acquisition=_number(value))
            for object_id, mean, sd, value in zip(
                space.ids(question.rows), question.mean, question.sd, question.value, strict=True
            )
        ),
        at_utc=_text(now),
    )


def prior_of(space: Space, others: Mapping[str, float], config: CampaignConfig) -> Posterior | None:
    """What the other raters found interesting, where a campaign begins with that."""
    if not config.pooled or not others:
        return None
    learned = learn_from(space, place(space, others), Kernel(config.kernel))
    return learned.posterior if learned else None


def last_kernel(store: CampaignStore, campaign: Campaign, rater: str) -> Kernel:
    """Hyper-parameters of the rater's last ranking, to go on from; the default ones where there is none."""
    rankings = [one for _, one in store.rankings(campaign.name, rater) if one.n_ratings]
    if not rankings:
        return Kernel(campaign.config.kernel)
    last = rankings[-1]
    return Kernel(last.kernel, last.length, last.alpha, last.noise)


def rate(
    store: CampaignStore,
    campaign: Campaign,
    rater: str,
    ratings: Sequence[tuple[str, int]],
    request: str | None = None,
    release: OpenRelease | None = None,
) -> list[Recorded]:
    """Record ratings, all or none.

    Parameters
    ----------
    ratings : sequence of (object id, 0 to 5)
    request : str or None
        Names this request: the same again changes nothing. A new one when None.
    release : OpenRelease or None
        The campaign's, where it is open already.

    Raises
    ------
    DataError
        A rating is out of range, an object is not in the release or rated twice here; or the request was recorded
        before with another content.
    """
    twice = {object_id for object_id, _ in ratings if sum(one == object_id for one, _ in ratings) > 1}
    if twice:
        raise DataError(f"expected each object once, found {', '.join(sorted(twice)[:_SHOWN])} several times")
    check_ids(campaign, [object_id for object_id, _ in ratings], release)
    asked_by = {one.object_id: one.ranking for one in store.leased(campaign.name, utc_now(), rater)}
    stem, now = request or uuid4().hex, utc_now()
    events = [
        _event(
            request=stem if len(ratings) == 1 else f"{stem}.{number}",
            rater=rater,
            object_id=object_id,
            rating=rating,
            ranking=asked_by.get(object_id),
            at_utc=now,
        )
        for number, (object_id, rating) in enumerate(ratings)
    ]
    return store.record(campaign.name, events)


def rate_batch(store: CampaignStore, campaign: Campaign, rater: str, scores: str) -> list[Recorded]:
    """Record the ratings of a rater's batch in its order, a digit each; `-` leaves one out.

    Raises
    ------
    DataError
        The rater has no batch, or one of another length, or there is another character.
    """
    waiting = _waiting(store, campaign, rater, datetime.now(UTC))
    if waiting is None:
        raise DataError(f"{rater} has no batch to rate: voorwerp campaign next {campaign.name} --rater {rater}")
    scores = scores.replace(",", "").replace(" ", "")
    allowed = {str(value) for value in range(LOWEST, HIGHEST + 1)} | {"-"}
    if len(scores) != len(waiting.asked) or not set(scores) <= allowed:
        raise DataError(
            f"scores: expected {len(waiting.asked)} digits from {LOWEST} to {HIGHEST}, or - to leave one out, found "
            f"{scores!r}"
        )
    given = [(one.object_id, int(score)) for one, score in zip(waiting.asked, scores, strict=True) if score != "-"]
    return rate(store, campaign, rater, given)


def undo(store: CampaignStore, campaign: Campaign, rater: str, request: str | None = None) -> Recorded:
    """Take back the rater's last rating that holds; the event says which.

    Parameters
    ----------
    request : str or None
        As of `rate`.

    Raises
    ------
    DataError
        The rater has none; or the request was recorded before with another content.
    """
    events = store.events(campaign.name)
    before = next((one.event for one in events if request is not None and one.event.request == request), None)
    if before is not None and (before.kind, before.rater) == ("undo", rater):
        return store.record(campaign.name, [before])[0]
    mine = [one for (name, _), one in held(events).items() if name == rater]
    if not mine:
        raise DataError(f"{rater} has no rating in {campaign.name} that could be taken back")
    last = max(mine, key=lambda one: one.sequence).event
    event = RatingEvent(
        request=request or uuid4().hex,
        rater=rater,
        object_id=last.object_id,
        kind="undo",
        undoes=last.request,
        at_utc=utc_now(),
    )
    return store.record(campaign.name, [event])[0]


def import_file(
    store: CampaignStore, campaign: Campaign, rater: str, uri: str, id_column: str, rating_column: str | None
) -> int:
    """Record the ratings of a file; the file's own raters count where it has them. The same file again changes nothing.

    Raises
    ------
    DataError, InputNotFoundError
        As of `engine.storage.rating_files.read_ratings`; or an object is not in the release.
    """
    rows = read_ratings(uri, id_column, rating_column).to_pylist()
    check_ids(campaign, [row[OBJECT_ID] for row in rows])
    events = []
    for row in rows:
        values = {"rater": row.get(RATER) or rater, "object_id": row[OBJECT_ID], "rating": row[RATING]}
        events.append(_event(request=f"import-{content_id(values)}", at_utc=utc_now(), **values))
    store.record(campaign.name, events)
    return len(events)


def export_file(
    store: CampaignStore, campaign: Campaign, uri: str, rater: str | None = None, astronomaly: bool = False
) -> int:
    """Write the ratings that hold, with what was expected of each when it was asked for; return how many."""
    table = ratings_table(store, campaign, rater)
    write_ratings(uri, table, astronomaly)
    return len(table)


def ratings_table(store: CampaignStore, campaign: Campaign, rater: str | None = None) -> pa.Table:
    """Ratings that hold, in the order in which they were given."""
    expected = {
        (number, one.object_id): one for number, record in store.rankings(campaign.name, rater) for one in record.asked
    }
    rows = []
    for (name, object_id), recorded in held(store.events(campaign.name)).items():
        if rater in (None, name):
            event = recorded.event
            asked = expected.get((event.ranking, object_id)) if event.ranking is not None else None
            rows.append(
                {
                    OBJECT_ID: object_id,
                    RATER: name,
                    RATING: event.rating,
                    MEAN: asked.mean if asked else None,
                    SD: asked.sd if asked else None,
                    "request": event.request,
                    "at_utc": event.at_utc,
                }
            )
    id_type = pa.int64() if campaign.id_type == "int64" else pa.string()
    schema = pa.schema(
        {
            OBJECT_ID: pa.string(),
            RATER: pa.string(),
            RATING: pa.int64(),
            MEAN: pa.float64(),
            SD: pa.float64(),
            "request": pa.string(),
            "at_utc": pa.string(),
        }
    )
    table = pa.Table.from_pylist(rows, schema)
    return table.set_column(0, OBJECT_ID, table[OBJECT_ID].cast(id_type))


def release_of(campaign: Campaign) -> OpenRelease:
    """Open the release that a campaign was created on."""
    return open_release(Store(campaign.release), campaign.release_id)


def _waiting(store: CampaignStore, campaign: Campaign, rater: str, now: datetime) -> Batch | None:
    """What was asked of a rater, is kept for them, and is not rated yet."""
    leases = store.leased(campaign.name, _text(now), rater)
    if not leases:
        return None
    numbers = {lease.ranking for lease in leases}
    asked = {
        one.object_id: one
        for number, record in store.rankings(campaign.name, rater)
        if number in numbers
        for one in record.asked
    }
    return Batch(leases[-1].ranking, tuple(asked[lease.object_id] for lease in leases))


def check_ids(campaign: Campaign, ids: Sequence[str], release: OpenRelease | None = None) -> None:
    """Check that a campaign's release has these objects; DataError names those that it has not."""
    if not ids:
        return
    release = release or release_of(campaign)
    found = release.find(as_ids(pa.array(ids, pa.string()), release.id_type)).rows >= 0
    unknown = [object_id for object_id, known in zip(ids, found, strict=True) if not known]
    if unknown:
        raise DataError(
            f"expected ids of objects of {campaign.release}, found {len(unknown):,} that it does not have: "
            f"{', '.join(unknown[:_SHOWN])}"
        )


def _event(**values: object) -> RatingEvent:
    try:
        return RatingEvent.model_validate(values)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"]))
        expected = f"a whole number from {LOWEST} to {HIGHEST}" if place == RATING else "letters, digits and .-_"
        raise DataError(f"{place}: expected {expected}, found {wrong['input']!r}") from error


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds")
