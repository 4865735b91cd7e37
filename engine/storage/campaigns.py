"""Campaigns, and everything that raters did in them. Events are appended; nothing is ever changed."""

from collections.abc import Sequence
from typing import NamedTuple

import sqlalchemy as sa

from engine.storage.campaign_tables import Database, campaigns, events, leases, open_database, rankings
from schemas.campaign import Campaign, RankingRecord, RatingEvent, Recorded
from schemas.errors import DataError, InputNotFoundError, OutputError
from schemas.rating_events import held, raters_of
from schemas.validation import did_you_mean


class Lease(NamedTuple):
    """An object that is kept for a rater."""

    object_id: str
    rater: str
    ranking: int


class CampaignStore:
    """Campaigns in a database; opened by `open_campaigns`. Every method raises StoreError where the database fails."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.where = database.where

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def create(self, campaign: Campaign) -> None:
        """Create a campaign; the same again changes nothing.

        Raises
        ------
        OutputError
            There is another one of this name.
        """
        with self._database.writing() as connection:
            there = _campaign(connection, campaign.name)
            if there is None:
                values = {"name": campaign.name, "content": campaign.model_dump_json()}
                connection.execute(campaigns.insert().values(values))
            elif there.model_copy(update={"created_utc": campaign.created_utc}) != campaign:
                raise OutputError(f"{self.where} holds another campaign {campaign.name!r}: choose another name")

    def campaign(self, name: str) -> Campaign:
        """Read a campaign.

        Raises
        ------
        InputNotFoundError
            There is none of this name.
        """
        with self._database.reading() as connection:
            return self._known(connection, name)

    def _known(self, connection: sa.Connection, name: str) -> Campaign:
        found = _campaign(connection, name)
        if found is None:
            names = _names(connection)
            raise InputNotFoundError(
                f"{self.where}: expected one of its campaigns ({', '.join(names) or 'none yet'}), found {name!r}"
                f"{did_you_mean(name, names)}"
            )
        return found

    def names(self) -> list[str]:
        """Names of all campaigns, in order."""
        with self._database.reading() as connection:
            return _names(connection)

    def record(self, campaign: str, new: Sequence[RatingEvent]) -> list[Recorded]:
        """Append events, all or none; one whose request was recorded before is left as it is.

        Raises
        ------
        DataError
            A request was recorded before with another content; or what is to be undone does not hold.
        InputNotFoundError
            There is no such campaign.
        """
        with self._database.writing() as connection:
            self._known(connection, campaign)
            return [self._append(connection, campaign, event) for event in new]

    def _append(self, connection: sa.Connection, campaign: str, event: RatingEvent) -> Recorded:
        mine = sa.and_(events.c.campaign == campaign, events.c.request == event.request)
        if there := connection.execute(sa.select(events.c.sequence, events.c.content).where(mine)).first():
            before = RatingEvent.model_validate_json(there.content)
            # When it was sent, and by what it was asked for, are of the first time.
            if before.model_copy(update={"at_utc": event.at_utc, "ranking": event.ranking}) != event:
                raise DataError(f"request {event.request!r} was recorded before, with another content")
            return Recorded(sequence=there.sequence, event=before)
        if event.kind == "undo":
            holding = held(_events(connection, campaign)).get((event.rater, event.object_id))
            if holding is None or holding.event.request != event.undoes:
                raise DataError(f"{event.rater} has no rating {event.undoes!r} that holds, so it cannot be taken back")
        content = event.model_dump_json()
        inserted = events.insert().values(campaign=campaign, request=event.request, content=content)
        sequence = connection.execute(inserted.returning(events.c.sequence)).scalar_one()
        done = sa.and_(
            leases.c.campaign == campaign, leases.c.object_id == event.object_id, leases.c.rater == event.rater
        )
        if event.kind == "rate":
            connection.execute(leases.delete().where(done))
        return Recorded(sequence=sequence, event=event)

    def events(self, campaign: str, up_to: int | None = None) -> list[Recorded]:
        """Read events in their order; up to a sequence, as a ranking saw them."""
        with self._database.reading() as connection:
            return _events(connection, campaign, up_to)

    def snapshot(self, campaign: str) -> int:
        """Read the sequence of a campaign's last event; 0 where there is none."""
        query = sa.select(sa.func.max(events.c.sequence)).where(events.c.campaign == campaign)
        with self._database.reading() as connection:
            return connection.execute(query).scalar() or 0

    def ask(
        self,
        campaign: str,
        ranking: RankingRecord,
        now_utc: str,
        until_utc: str,
        raters_per_object: int,
        kept: Sequence[str] = (),
    ) -> list[Lease]:
        """Keep the objects that a ranking asks about for its rater, and the ranking itself.

        An object is not granted where as many others as may rate it have rated it or are asked about it; who asks then
        has to rank again. The ranking is kept where anything is granted.

        Parameters
        ----------
        now_utc, until_utc : str
            ISO 8601, both with the same offset.
        raters_per_object : int
        kept : sequence of str
            What is kept for the rater already and stays so; other objects of an earlier batch do not.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        """
        with self._database.writing() as connection:
            self._known(connection, campaign)
            taken = _taken(connection, campaign, ranking.rater, now_utc)
            granted = [one for one in ranking.asked if taken.get(one.object_id, 0) < raters_per_object]
            if not granted:
                return []
            content = ranking.model_dump_json()
            inserted = rankings.insert().values(campaign=campaign, content=content).returning(rankings.c.id)
            number = connection.execute(inserted).scalar_one()
            mine = sa.and_(
                leases.c.campaign == campaign, leases.c.rater == ranking.rater, leases.c.object_id.not_in(kept)
            )
            expired = sa.and_(leases.c.campaign == campaign, leases.c.until_utc <= now_utc)
            connection.execute(leases.delete().where(sa.or_(mine, expired)))
            rows = [
                {
                    "campaign": campaign,
                    "object_id": one.object_id,
                    "rater": ranking.rater,
                    "ranking": number,
                    "place": place,
                    "until_utc": until_utc,
                }
                for place, one in enumerate(granted)
            ]
            connection.execute(leases.insert(), rows)
        return [Lease(one.object_id, ranking.rater, number) for one in granted]

    def leased(self, campaign: str, now_utc: str, rater: str | None = None) -> list[Lease]:
        """Read what is kept for raters now, or for one of them, in the order in which it was asked about."""
        wanted = sa.and_(leases.c.campaign == campaign, leases.c.until_utc > now_utc)
        if rater is not None:
            wanted = sa.and_(wanted, leases.c.rater == rater)
        query = sa.select(leases.c.object_id, leases.c.rater, leases.c.ranking).where(wanted)
        with self._database.reading() as connection:
            return [Lease(*row) for row in connection.execute(query.order_by(leases.c.ranking, leases.c.place))]

    def taken(self, campaign: str, rater: str, now_utc: str) -> dict[str, int]:
        """Count by object how many others have rated it or are asked about it now."""
        with self._database.reading() as connection:
            return _taken(connection, campaign, rater, now_utc)

    def rankings(self, campaign: str, rater: str | None = None) -> list[tuple[int, RankingRecord]]:
        """Read the rankings that asked, in their order, of one rater or all."""
        query = sa.select(rankings.c.id, rankings.c.content).where(rankings.c.campaign == campaign)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(rankings.c.id)).all()
        found = [(row.id, RankingRecord.model_validate_json(row.content)) for row in rows]
        return [(number, one) for number, one in found if rater in (None, one.rater)]


def open_campaigns(url: str) -> CampaignStore:
    """Open the campaigns of a database; arguments and errors as of `engine.storage.campaign_tables.open_database`."""
    return CampaignStore(open_database(url))


def _campaign(connection: sa.Connection, name: str) -> Campaign | None:
    found = connection.execute(sa.select(campaigns.c.content).where(campaigns.c.name == name)).scalar()
    return None if found is None else Campaign.model_validate_json(found)


def _names(connection: sa.Connection) -> list[str]:
    return list(connection.execute(sa.select(campaigns.c.name).order_by(campaigns.c.name)).scalars())


def _events(connection: sa.Connection, campaign: str, up_to: int | None = None) -> list[Recorded]:
    wanted = events.c.campaign == campaign
    if up_to is not None:
        wanted = sa.and_(wanted, events.c.sequence <= up_to)
    query = sa.select(events.c.sequence, events.c.content).where(wanted).order_by(events.c.sequence)
    rows = connection.execute(query).all()
    return [Recorded(sequence=row.sequence, event=RatingEvent.model_validate_json(row.content)) for row in rows]


def _taken(connection: sa.Connection, campaign: str, rater: str, now_utc: str) -> dict[str, int]:
    ratings = held(_events(connection, campaign))
    others = {object_id: raters - {rater} for object_id, raters in raters_of(ratings).items()}
    live = sa.and_(leases.c.campaign == campaign, leases.c.until_utc > now_utc, leases.c.rater != rater)
    for row in connection.execute(sa.select(leases.c.object_id, leases.c.rater).where(live)):
        others.setdefault(row.object_id, set()).add(row.rater)
    return {object_id: len(raters) for object_id, raters in others.items() if raters}
