"""Campaigns as the service asks them, from several threads. Starts no cluster; a space may be spread over one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import pyarrow as pa

from engine.cluster import campaign as campaigning
from engine.cluster.asking import rehearse
from engine.cluster.metrics import record
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.space import Space
from engine.cluster.standings import Standings, stand
from engine.cluster.turns import Turns
from engine.storage.artefacts import components_in, utc_now
from engine.storage.campaigns import CampaignStore
from engine.storage.store import Store
from schemas.campaign import Campaign, CampaignConfig, Recorded
from schemas.errors import BusyError, DataError, InputNotFoundError, WorkersLostError
from schemas.metrics import RATINGS
from schemas.service import AskedObject, NextAnswer
from schemas.service_campaigns import RankedObject, RankingAnswer

QUESTIONS_AT_ONCE, QUESTIONS_WAITING = 1, 7
"""Of campaigns: each takes every core that there is."""
_LEAST_RANKED = 1_000
"""Objects of a ranking that are kept, so that another question seldom needs more."""


class ServedCampaigns:
    """Campaigns on one output as `engine.service.protocols.Campaigns`; those on others are not there.

    A space is read when it is first asked about, and stays; a question is rehearsed then, after the first answer.
    One rater is asked at a time.

    Parameters
    ----------
    store : CampaignStore
    release : str
        Output of the release, as campaigns name it.
    opened : OpenRelease or None
        The release that is served: campaigns are made on it, and ids of those on it are looked for there. The current
        one of the output when None, opened whenever it is needed.
    open_space : callable
        Of a campaign, its space, in this process or spread over others. One of which a part is lost is opened anew.
    """

    def __init__(
        self,
        store: CampaignStore,
        release: str,
        opened: OpenRelease | None = None,
        open_space: Callable[[Campaign], Space] = campaigning.open_campaign_space,
    ) -> None:
        self._store, self._release, self._opened, self._open_space = store, release, opened, open_space
        self._asking = Turns("questions", QUESTIONS_AT_ONCE, QUESTIONS_WAITING, "campaigns")
        self._spaces: dict[str, Space] = {}
        self._standings: dict[str, Standings] = {}

    def all(self) -> list[Campaign]:
        """Read them, in order of name."""
        found = (self._store.campaign(name) for name in self._store.names())
        return [one for one in found if one.release == self._release]

    def campaign(self, name: str) -> Campaign:
        """Read one; InputNotFoundError where there is none on this output."""
        found = self._store.campaign(name)
        if found.release != self._release:
            raise InputNotFoundError(f"{name}: expected a campaign on {self._release}, found one on {found.release}")
        return found

    def create(self, name: str, config: CampaignConfig) -> Campaign:
        """Make a campaign on the release that is served, or find the one made alike; errors as of the protocol."""
        release = self._opened or open_release(Store(self._release))
        components = components_in(release.store, release.components, config.space)
        if components is None:
            raise DataError(
                f"config.space: expected a space that the release has components of, found {config.space!r}; "
                f"`voorwerp campaign create` makes them"
            )
        campaign = Campaign(
            name=name,
            release=self._release,
            release_id=release.id,
            components=components.id,
            id_type="int64" if pa.types.is_integer(release.id_type) else "string",
            config=config,
            created_utc=utc_now(),
        )
        with self._placeless(campaign):
            campaigning.check_ids(campaign, config.examples, release)
        self._store.create(campaign)
        return self._store.campaign(name)

    def ranking(self, name: str, n: int) -> RankingAnswer:
        """Rank the whole release, as `engine.cluster.standings.stand`; once for each event, and from memory then."""
        campaign = self.campaign(name)
        found = self._known(name, n)
        if found is None:
            with self._asking.one(), self._space(campaign) as space:
                found = self._known(name, n) or stand(
                    campaign, self._store.events(name), space, max(n, _LEAST_RANKED), self._standings.get(name)
                )
                self._standings[name] = found
        ranked = tuple(
            RankedObject(rank=rank, object_id=object_id, mean=mean, sd=sd)
            for rank, (object_id, mean, sd) in enumerate(
                zip(found.ids[:n], found.mean[:n].tolist(), found.sd[:n].tolist(), strict=True), start=1
            )
        )
        return RankingAnswer(
            campaign=name, ranking=found.snapshot, n_ratings=found.n_ratings, stale=found.stale, ranked=ranked
        )

    def next(self, name: str, rater: str, n: int | None) -> NextAnswer:
        """Ask a rater, as `engine.cluster.campaign.next_batch`; BusyError also where others are asked for long."""
        campaign = self.campaign(name)
        with self._asking.one(), self._space(campaign) as space:
            batch = campaigning.next_batch(self._store, campaign, rater, space, n)
        asked = tuple(AskedObject(**one.model_dump()) for one in batch.asked)
        return NextAnswer(campaign=name, rater=rater, ranking=batch.ranking, asked=asked)

    def rate(self, name: str, rater: str, ratings: Sequence[tuple[str, int]], request: str) -> list[Recorded]:
        """Record ratings, as `engine.cluster.campaign.rate`."""
        campaign = self.campaign(name)
        opened = self._opened if self._opened and self._opened.id == campaign.release_id else None
        with self._placeless(campaign):
            recorded = campaigning.rate(self._store, campaign, rater, ratings, request, opened)
        record(RATINGS, len(recorded), kind="rate")
        return recorded

    def undo(self, name: str, rater: str, request: str) -> Recorded:
        """Take back the rater's last rating that holds, once for each request; errors as of the protocol."""
        recorded = campaigning.undo(self._store, self.campaign(name), rater, request)
        record(RATINGS, kind="undo")
        return recorded

    def ratings(self, name: str, rater: str | None) -> pa.Table:
        """Read the ratings that hold, as `engine.cluster.campaign.ratings_table`."""
        return campaigning.ratings_table(self._store, self.campaign(name), rater)

    @contextmanager
    def _space(self, campaign: Campaign) -> Iterator[Space]:
        """Open the components of a campaign, once, for whoever has the turn; BusyError where a part of them is lost."""
        try:
            if campaign.components not in self._spaces:
                self._spaces[campaign.components] = self._open_space(campaign)
                threading.Thread(target=self._rehearse, args=(campaign,)).start()  # Waited for at the end.
            yield self._spaces[campaign.components]
        except WorkersLostError as error:
            self._spaces.pop(campaign.components, None)
            raise BusyError(
                f"{campaign.name}: a part of its space is lost, and will be read anew; try again"
            ) from error

    def _rehearse(self, campaign: Campaign) -> None:
        """Rehearse a question once it is nobody's turn; not where many wait."""
        with suppress(BusyError), self._asking.one(), self._space(campaign) as space:
            rehearse(space, campaign.config)

    def _known(self, name: str, n: int) -> Standings | None:
        """Standings of n objects that have seen every event; None where there are none."""
        found = self._standings.get(name)
        return found if found and found.n_asked >= n and found.seen == self._store.snapshot(name) else None

    @contextmanager
    def _placeless(self, campaign: Campaign) -> Iterator[None]:
        """Leave out of what is said where the release lies: that is not for those who ask."""
        try:
            yield
        except DataError as error:
            raise DataError(str(error).replace(campaign.release, "the release")) from error
