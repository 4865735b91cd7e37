import json
import logging
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from engine.storage import campaign_tables
from engine.storage.campaigns import CampaignStore, open_campaigns
from schemas.campaign import Asked, Campaign, CampaignConfig, RankingRecord, RatingEvent, Recorded
from schemas.errors import ConfigError, DataError, InputNotFoundError, IntegrityError, OutputError, StoreError
from tests.storage import postgres_server

NOW, SOON, LATER = "2026-01-01T12:00:00+00:00", "2026-01-01T12:30:00+00:00", "2026-01-01T13:00:00+00:00"
ODD = Campaign(
    name="odd",
    release="/release",
    release_id="r",
    components="c",
    id_type="string",
    config=CampaignConfig(),
    created_utc=NOW,
)
RATERS = """
import os, sys
from engine.storage.campaigns import open_campaigns
from schemas.campaign import Campaign, RatingEvent
from schemas.errors import VoorwerpError

def rate(url, rater, campaign, most):
    store = open_campaigns(url)
    store.create(Campaign.model_validate_json(campaign))
    for number in range(int(most)):
        event = RatingEvent(request=f"{rater}-{number}", rater=rater, object_id=f"{number}", rating=3, at_utc="2026")
        try:
            store.record("odd", [event])
        except VoorwerpError as error:
            os.write(1, f"failed: {error}\\n".encode())
            return
        os.write(1, f"{event.request}\\n".encode())

url, campaign, most, *raters = sys.argv[1:]
for rater in raters:
    if not (process := os.fork()):
        rate(url, rater, campaign, most)
        os._exit(0)
    os.write(1, f"{process}\\n".encode())
for _ in raters:
    os.wait()
"""
"""Raters who never tire, each a process, in a database that need not be there; requests are printed once acknowledged.

They are forks, for so they begin in the same moment.
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of the database of a private server."""
    found = postgres_server.programs()
    if found is None:
        pytest.skip("needs PostgreSQL")
    with postgres_server.running(found) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return str(tmp_path / "campaigns.sqlite")
    server = request.getfixturevalue("postgres")
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return server


@pytest.fixture
def store(url: str) -> Iterator[CampaignStore]:
    """A database with one campaign."""
    with closing(open_campaigns(url)) as opened:
        opened.create(ODD)
        yield opened


def rated(request: str, rater: str = "ann", object_id: str = "1", rating: int = 3) -> RatingEvent:
    return RatingEvent(request=request, rater=rater, object_id=object_id, rating=rating, at_utc=NOW)


def undone(request: str, undoes: str, rater: str = "ann", object_id: str = "1") -> RatingEvent:
    return RatingEvent(request=request, rater=rater, object_id=object_id, kind="undo", undoes=undoes, at_utc=NOW)


def ranking(rater: str, *ids: str, snapshot: int = 0) -> RankingRecord:
    return RankingRecord(
        rater=rater,
        snapshot=snapshot,
        n_ratings=0,
        components="c",
        seed=1,
        kernel="matern",
        length=1.0,
        alpha=1.0,
        noise=0.1,
        asked=tuple(Asked(object_id=object_id) for object_id in ids),
        at_utc=NOW,
    )


def ask(store: CampaignStore, rater: str, *ids: str, now: str = NOW, until: str = SOON, raters: int = 1) -> list[str]:
    return [one.object_id for one in store.ask("odd", ranking(rater, *ids), now, until, raters)]


def requests(events: list[Recorded]) -> list[str]:
    return [one.event.request for one in events]


def raters(url: str, *names: str, most: int = 5000, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RATERS, url, ODD.model_dump_json(), str(most), *names]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


@contextmanager
def locked(url: str) -> Iterator[None]:
    """Have another writer in the middle of a transaction."""
    if not url.startswith("postgresql"):
        with closing(sqlite3.connect(url, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
        return
    with closing(open_campaigns(url)) as other_store, suppress(ZeroDivisionError), other_store._database.writing():
        yield
        raise ZeroDivisionError


# Campaigns


def test_a_campaign_is_created_once_and_another_of_its_name_is_refused(store: CampaignStore) -> None:
    store.create(ODD.model_copy(update={"created_utc": LATER}))
    assert store.campaign("odd") == ODD
    with pytest.raises(OutputError, match="another campaign 'odd'"):
        store.create(ODD.model_copy(update={"release_id": "other"}))
    store.create(ODD.model_copy(update={"name": "bars"}))
    assert store.names() == ["bars", "odd"]


def test_a_campaign_that_is_not_there_is_told_with_the_one_most_like_it(store: CampaignStore) -> None:
    for act in (
        lambda: store.campaign("old"),
        lambda: store.record("old", [rated("a")]),
        lambda: store.ask("old", ranking("ann", "1"), NOW, SOON, 1),
    ):
        with pytest.raises(InputNotFoundError, match="found 'old'; did you mean 'odd'"):
            act()


# Events


def test_a_request_that_is_sent_again_is_answered_as_before_and_recorded_once(store: CampaignStore) -> None:
    first = store.record("odd", [rated("a"), rated("b", object_id="2")])
    later = rated("a").model_copy(update={"at_utc": LATER})
    assert store.record("odd", [later]) == first[:1]
    assert store.events("odd") == first
    with pytest.raises(DataError, match="'a' was recorded before, with another content"):
        store.record("odd", [rated("a", rating=4)])
    store.create(ODD.model_copy(update={"name": "bars"}))
    assert store.record("bars", [rated("a", rating=4)])[0].sequence > first[-1].sequence


def test_events_are_recorded_all_or_none(store: CampaignStore) -> None:
    with pytest.raises(DataError):
        store.record("odd", [rated("a"), undone("b", "never")])
    assert store.events("odd") == []


def test_events_can_be_read_as_a_ranking_saw_them(store: CampaignStore) -> None:
    recorded = store.record("odd", [rated(name, object_id=name) for name in "abc"])
    assert [one.sequence for one in recorded] == sorted({one.sequence for one in recorded})
    assert requests(store.events("odd", up_to=recorded[1].sequence)) == ["a", "b"]
    assert store.events("odd", up_to=0) == []


def test_a_rating_is_taken_back_once_by_its_rater_and_the_one_before_it_after_it(store: CampaignStore) -> None:
    store.record("odd", [rated("a", rating=1), rated("b", rating=5), rated("of-bob", rater="bob")])
    for wrong in (
        undone("u", "of-bob"),
        undone("u", "of-bob", rater="bob", object_id="2"),
        undone("u", "never"),
        undone("u", "a"),
    ):
        with pytest.raises(DataError, match=r"no rating .* that holds"):
            store.record("odd", [wrong])
    store.record("odd", [undone("u1", "b")])
    with pytest.raises(DataError, match="no rating 'b' that holds"):
        store.record("odd", [undone("u2", "b")])
    store.record("odd", [undone("u3", "a")])
    with pytest.raises(DataError, match="no rating 'u1' that holds"):
        store.record("odd", [undone("u4", "u1")])
    assert requests(store.record("odd", [undone("u1", "b")])) == ["u1"]


# Batches


def test_what_is_kept_for_one_rater_is_not_granted_to_another_until_it_expires(store: CampaignStore) -> None:
    assert ask(store, "ann", "3", "1", "2") == ["3", "1", "2"]
    assert ask(store, "bob", "2", "4") == ["4"]
    assert ask(store, "eve", "1", "2") == []
    assert ask(store, "eve", "1", "2", now=SOON, until=LATER) == ["1", "2"]
    assert [(one.object_id, one.rater) for one in store.leased("odd", SOON)] == [("1", "eve"), ("2", "eve")]


def test_a_batch_is_kept_in_its_order_without_what_was_rated(store: CampaignStore) -> None:
    ask(store, "ann", "3", "1", "2")
    store.record("odd", [rated("a", object_id="1")])
    ask(store, "bob", "4")
    assert [one.object_id for one in store.leased("odd", NOW, "ann")] == ["3", "2"]
    assert len(store.leased("odd", NOW)) == 3
    assert store.leased("odd", SOON) == []


def test_a_rating_that_was_taken_back_makes_its_object_free_again(store: CampaignStore) -> None:
    store.record("odd", [rated("a")])
    assert store.taken("odd", "bob", NOW) == {"1": 1}
    assert store.taken("odd", "ann", NOW) == {}
    assert ask(store, "bob", "1") == []
    store.record("odd", [undone("u", "a")])
    assert ask(store, "bob", "1") == ["1"]


def test_as_many_raters_as_may_rate_an_object_get_it_whether_it_is_rated_or_kept(store: CampaignStore) -> None:
    store.record("odd", [rated("a")])
    assert ask(store, "bob", "1", raters=2) == ["1"]
    assert ask(store, "eve", "1", raters=2) == []
    assert ask(store, "eve", "1", raters=3) == ["1"]
    store.record("odd", [rated("b", rater="bob")])
    assert store.taken("odd", "dan", NOW) == {"1": 3}


def test_raters_who_ask_in_the_same_moment_never_get_the_same_object(url: str) -> None:
    ids = [str(number) for number in range(12)]
    together = threading.Barrier(4, timeout=60)

    def rate(rater: str) -> list[str]:
        granted, order = [], random.Random(rater)
        with closing(open_campaigns(url)) as mine:
            mine.create(ODD)
            together.wait()
            for turn in range(6):
                got = ask(mine, rater, *order.sample(ids, 4))
                mine.record("odd", [rated(f"{rater}-{turn}-{one}", rater, one) for one in got])
                granted += got
        return granted

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(rate, ["ann", "bob", "eve", "dan"]))
    with closing(open_campaigns(url)) as store:
        raters = Counter(
            object_id for object_id, _ in {(e.event.object_id, e.event.rater) for e in store.events("odd")}
        )
    assert raters
    assert set(raters.values()) == {1}
    assert set(raters) == {object_id for granted in found for object_id in granted}


def test_rankings_are_kept_whole_and_read_by_rater(store: CampaignStore) -> None:
    mine, others = ranking("ann", "1", "2"), ranking("bob", "2", "3", snapshot=7)
    number = store.ask("odd", mine, NOW, SOON, 1)[0].ranking
    other = store.ask("odd", others, NOW, SOON, 1)[0].ranking
    assert store.rankings("odd") == [(number, mine), (other, others)]
    assert store.rankings("odd", "bob") == [(other, others)]
    assert {one.ranking for one in store.leased("odd", NOW, "bob")} == {other}


# The database


def test_a_new_database_waits_for_who_writes_it_already(tmp_path: Path) -> None:
    # Two campaigns that begin in one moment: SQLite refuses to change the journal at once, whatever its busy_timeout.
    with closing(sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor(1) as pool:
            opening = pool.submit(open_campaigns, str(tmp_path / "new.sqlite"))
            time.sleep(0.5)
            assert not opening.done()
            other.execute("COMMIT")
            with closing(opening.result(30)) as store:
                assert store.names() == []


def test_a_new_database_that_stays_locked_is_a_store_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign_tables, "BUSY_TIMEOUT_S", 0.2)
    with closing(sqlite3.connect(tmp_path / "new.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="nothing was recorded, try again"):
            open_campaigns(str(tmp_path / "new.sqlite"))


def test_a_database_that_is_there_is_opened_as_it_is_without_a_word(url: str, capfd: pytest.CaptureFixture) -> None:
    handlers, level = list(logging.root.handlers), logging.root.level
    for name in ("odd", "bars"):
        with closing(open_campaigns(url)) as store:
            store.create(ODD.model_copy(update={"name": name}))
    with closing(open_campaigns(url)) as store:
        assert store.names() == ["bars", "odd"]
    assert (list(logging.root.handlers), logging.root.level) == (handlers, level)
    assert "".join(capfd.readouterr()) == ""


def test_processes_that_open_a_new_database_at_once_make_it_once(url: str) -> None:
    names = ["ann", "bob", "dan", "eve"]
    _, complaints = raters(url, *names, most=1).communicate(timeout=60)
    assert complaints == ""
    with closing(open_campaigns(url)) as store:
        assert store.names() == ["odd"]
        assert sorted(requests(store.events("odd"))) == [f"{name}-0" for name in names]


def test_threads_may_open_different_new_databases_at_once(tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.sqlite") for number in range(6)]
    with ThreadPoolExecutor(len(paths)) as pool:
        for store in pool.map(open_campaigns, paths):
            with closing(store):
                assert store.names() == []


def test_what_is_acknowledged_in_a_file_is_on_the_disk(tmp_path: Path) -> None:
    with closing(open_campaigns(str(tmp_path / "campaigns.sqlite"))) as store, store._database.reading() as connection:
        pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        found = [connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() for pragma in pragmas]
    full = 2
    assert found == ["wal", full, 1, 30_000]


@pytest.mark.fault(38, "a PostgreSQL server that is ended and begun again")
@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_a_server_that_is_lost_in_the_middle_is_told_and_found_again(store: CampaignStore, postgres: str) -> None:
    def write() -> None:
        with store._database.writing() as connection:
            process = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar()
            with psycopg.connect(postgres, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(%s, 5000)", (process,))

    with pytest.raises(StoreError, match="whether it was recorded is not known"):
        write()
    assert store.names() == ["odd"]


def test_the_tables_are_those_that_the_migrations_make(store: CampaignStore) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._database.reading() as connection:
        found = compare_metadata(MigrationContext.configure(connection), campaign_tables.tables)
    kinds = {change[0] for change in found if not isinstance(change, list)}
    assert not kinds & {"add_table", "remove_table", "add_column", "remove_column"}


@pytest.mark.fault(39, "a database of a later revision")
def test_a_database_of_a_newer_version_is_refused(url: str) -> None:
    open_campaigns(url).close()
    database = campaign_tables.open_database(url)
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database.close()
    with pytest.raises(DataError, match="a newer version of voorwerp made it"):
        open_campaigns(url)


@pytest.mark.fault(35, "a database that is locked")
def test_a_writer_that_waits_too_long_records_nothing_and_can_try_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign_tables, "BUSY_TIMEOUT_S", 0.2)
    with closing(open_campaigns(url)) as store:
        store.create(ODD)
        with locked(url), pytest.raises(StoreError, match="nothing was recorded, try again"):
            store.record("odd", [rated("a")])
        assert store.events("odd") == []
        store.record("odd", [rated("a")])
        assert requests(store.events("odd")) == ["a"]


def test_what_is_read_does_not_wait_for_a_writer(store: CampaignStore, url: str) -> None:
    store.record("odd", [rated("a")])
    with locked(url):
        assert requests(store.events("odd")) == ["a"]


@pytest.mark.fault(38, "a database with damaged pages")
def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "campaigns.sqlite"
    with closing(open_campaigns(str(path))) as store:
        store.create(ODD)
        for number in range(40):
            store.record("odd", [rated(f"a{number}")])
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="restore it from a copy"):
        open_campaigns(str(path)).events("odd")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"These are my notes. " * 500)
    with pytest.raises(DataError, match="expected a database, found another kind of file"):
        open_campaigns(str(path))
    assert path.read_bytes() == b"These are my notes. " * 500


@pytest.mark.parametrize("name", ["what?.sqlite", "50%25.sqlite", "a#b.sqlite", "new/folder/of campaigns.sqlite"])
def test_a_database_is_made_at_its_path_whatever_its_name(tmp_path: Path, name: str) -> None:
    open_campaigns(str(tmp_path / name)).close()
    assert (tmp_path / name).is_file()


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="nothing was recorded"):
        open_campaigns(str(tmp_path / "file" / "campaigns.sqlite"))
    with pytest.raises(StoreError, match="nothing was recorded"):
        open_campaigns(f"sqlite:///{tmp_path}/no-such-folder/campaigns.sqlite")


@pytest.mark.parametrize(
    "target",
    [
        "postgresql://ann:sesame@127.0.0.1:1/odd",
        "postgresql+psycopg://127.0.0.1:1/odd?user=ann&password=sesame",
    ],
)
def test_a_server_that_cannot_be_reached_is_told_without_the_password(target: str) -> None:
    with pytest.raises(StoreError, match=r"127\.0\.0\.1.*nothing was recorded") as raised:
        open_campaigns(target)
    assert "sesame" not in str(raised.value)


@pytest.mark.parametrize(
    "target",
    ["mysql://ann:sesame@host/odd", "postgresql://ann:sesame@host:port/odd", "x://ann:sesame@host/odd", "sqlite://"],
)
def test_other_databases_are_refused_without_the_password(target: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_campaigns(target)
    assert "sesame" not in str(raised.value)


# Faults


@pytest.mark.fault(35, "a full disk")
def test_on_a_full_disk_what_was_acknowledged_is_kept_and_no_more_is_taken(tmp_path: Path) -> None:
    path = str(tmp_path / "campaigns.sqlite")
    largest = 400_000  # Of any file, as if the disk had no room for more.
    rating = raters(path, "ann", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest)))
    printed, complaints = rating.communicate(timeout=60)
    _, *acknowledged, last = printed.splitlines()
    assert len(acknowledged) > 10
    assert last.startswith("failed: database")
    assert "nothing was recorded, try again" in last
    assert complaints == ""
    with closing(open_campaigns(path)) as store:
        assert requests(store.events("odd")) == acknowledged
        store.record("odd", [rated(f"ann-{len(acknowledged)}")])


@pytest.mark.fault(35, "SIGKILL to writers")
def test_every_acknowledged_rating_survives_the_death_of_its_writer_exactly_once(url: str) -> None:
    names, order = ["ann", "bob", "eve", "dan"], random.Random(1)
    writing = raters(url, *names)
    assert writing.stdout
    seen: list[str] = []
    while {line.split("-")[0] for line in seen if "-" in line} != set(names):
        line = writing.stdout.readline()
        assert line, writing.communicate()
        seen.append(line.strip())
    for process in [int(line) for line in seen if line.isdigit()]:
        time.sleep(order.uniform(0, 0.1))
        os.kill(process, signal.SIGKILL)
    printed = writing.stdout.read()  # `communicate` would lose what was read ahead of a line.
    _, complaints = writing.communicate(timeout=60)
    assert complaints == ""
    acknowledged = [line for line in [*seen, *printed.split()] if not line.isdigit()]
    with closing(open_campaigns(url)) as store:
        found = requests(store.events("odd"))
        assert len(found) == len(set(found))
        for name in names:
            mine, told = ([one for one in all_of if one.startswith(name)] for all_of in (found, acknowledged))
            assert mine[: len(told)] == told
            assert len(mine) <= len(told) + 1
            unanswered = f"{name}-{len(told)}"
            again = RatingEvent(request=unanswered, rater=name, object_id=str(len(told)), rating=3, at_utc="2026")
            store.record("odd", [again])
            assert requests(store.events("odd")).count(unanswered) == 1


def test_records_are_read_back_as_json_that_other_programs_understand(store: CampaignStore) -> None:
    store.record("odd", [rated("a", object_id="ø-1")])
    with store._database.reading() as connection:
        content = connection.exec_driver_sql("SELECT content FROM events").scalar()
    assert json.loads(content)["object_id"] == "ø-1"
