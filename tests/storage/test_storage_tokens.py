"""Tokens: shown once, kept as hashes, ended at once."""

import hmac
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from engine.storage import tokens as storage_tokens
from engine.storage.campaigns import open_campaigns
from engine.storage.tokens import TokenStore, open_tokens
from schemas.errors import ConfigError, InputNotFoundError, OutputError, StoreError
from tests.storage import postgres_server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "campaigns.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[TokenStore]:
    """A database without tokens."""
    with closing(open_tokens(str(path))) as opened:
        yield opened


def test_a_token_is_known_by_its_holder_with_its_scopes_and_rater(store: TokenStore) -> None:
    token = store.create("ann.laptop", ["read", "rate", "read"], "ann")
    found = store.verify(token)
    assert found
    assert (found.name, found.scopes, found.rater, found.revoked_utc) == ("ann.laptop", ("read", "rate"), "ann", None)
    assert store.all() == [found]


def test_every_token_has_its_own_32_random_bytes(store: TokenStore) -> None:
    made = [store.create(f"t{number}", ["read"]) for number in range(5)]
    assert len({token.rpartition(".")[2] for token in made}) == 5
    assert all(len(token.rpartition(".")[2]) == 43 for token in made)


def test_nothing_that_is_kept_gives_the_token_away(store: TokenStore, path: Path) -> None:
    secret = store.create("ann", ["read"]).rpartition(".")[2]
    with closing(sqlite3.connect(path)) as database:
        kept = "\n".join(database.iterdump())
    assert secret not in kept
    assert all(secret.encode() not in file.read_bytes() for file in path.parent.iterdir())


@pytest.mark.parametrize(
    "wrong",
    ["", ".", "ann", "ann.", "{}x", "x{}", "bob.{secret}", "{secret}", "ann.\x00", "\ud800.a", "' OR 1=1 --.{secret}"],
)
def test_anything_but_the_token_is_nobodys(store: TokenStore, wrong: str) -> None:
    token = store.create("ann", ["read"])
    store.create("bob", ["read"])
    assert store.verify(wrong.format(token, secret=token.rpartition(".")[2])) is None


def test_a_token_is_compared_in_constant_time_whether_or_not_its_name_is_known(
    store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, compared, truly = store.create("ann", ["read"]), [], hmac.compare_digest

    def compare(a: Any, b: Any) -> bool:
        compared.append((len(a), len(b)))
        return truly(a, b)

    monkeypatch.setattr(storage_tokens.hmac, "compare_digest", compare)
    for given in (token, "ann.wrong", "bob.wrong", "nonsense"):
        store.verify(given)
    assert compared == [(64, 64)] * 4


def test_a_revoked_token_ends_at_once_and_its_name_is_not_given_again(store: TokenStore) -> None:
    token, other = store.create("ann", ["read"]), store.create("bob", ["admin"])
    store.revoke("ann")
    ended = store.all()[0].revoked_utc
    store.revoke("ann")
    assert store.verify(token) is None
    assert store.verify(other)
    assert ended
    assert store.all()[0].revoked_utc == ended
    with pytest.raises(OutputError, match="there is, or was, a token 'ann'"):
        store.create("ann", ["read"])


def test_a_token_that_is_not_there_is_told_with_the_one_most_like_it(store: TokenStore) -> None:
    store.create("ann-laptop", ["read"])
    with pytest.raises(InputNotFoundError, match=r"did you mean 'ann-laptop'\?"):
        store.revoke("ann-labtop")


@pytest.mark.parametrize(
    ("name", "scopes", "rater"),
    [
        ("no/slash", ["read"], None),
        ("", ["read"], None),
        ("ann\n", ["read"], None),
        ("ann", [], None),
        ("ann", ["write"], None),
        ("ann", ["rate"], None),
        ("ann", ["rate"], "../ann"),
    ],
)
def test_tokens_that_cannot_be_are_refused(store: TokenStore, name: str, scopes: list[Any], rater: str | None) -> None:
    with pytest.raises(ConfigError, match="token: expected"):
        store.create(name, scopes, rater)
    assert store.all() == []


@pytest.mark.fault(39, "a database of an earlier revision")
def test_a_database_of_campaigns_alone_gets_its_table_of_tokens_and_keeps_its_campaigns(path: Path) -> None:
    open_campaigns(str(path)).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE tokens")
        database.execute("UPDATE alembic_version SET version_num = '0001'")
        database.execute("INSERT INTO campaigns (name, content) VALUES ('odd', '{}')")
        database.commit()
    with closing(open_tokens(str(path))) as store:
        assert store.verify(store.create("ann", ["read"]))
    with closing(open_campaigns(str(path))) as campaigns:
        assert campaigns.names() == ["odd"]


def test_a_database_that_fails_is_an_error_and_no_verdict(store: TokenStore, path: Path) -> None:
    token = store.create("ann", ["read"])
    with closing(sqlite3.connect(path)) as database:
        database.execute("ALTER TABLE tokens RENAME TO hidden")
    with pytest.raises(StoreError, match="no such table"):
        store.verify(token)


def test_tokens_in_postgresql_are_those_in_a_file() -> None:
    found = postgres_server.programs()
    if found is None:
        pytest.skip("needs PostgreSQL")
    with postgres_server.running(found) as url, closing(open_tokens(url)) as store:
        token = store.create("ann", ["read", "rate"], "ann")
        record = store.verify(token)
        assert record
        assert (record.scopes, record.rater) == (("read", "rate"), "ann")
        assert [store.verify(wrong) for wrong in ("ann.x", "bob.x", "ann\x00.x")] == [None] * 3
        store.revoke("ann")
        assert store.verify(token) is None
        assert [one.name for one in store.all()] == ["ann"]
