"""The campaigns' database: SQLite in a file, or PostgreSQL; its tables are brought up to date when it is opened."""

import random
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import Any, NamedTuple

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from schemas.errors import ConfigError, DataError, IntegrityError, StoreError

BUSY_TIMEOUT_S = 30.0
"""For which a writer waits for another one."""
CONNECT_TIMEOUT_S = 10
"""For which a server is waited for, unless its URL says otherwise."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_WRITING = 0x766F6F72
"""Key of PostgreSQL's advisory lock."""
_one_upgrade = threading.Lock()
"""Alembic keeps what it works on in its modules."""
_SECRETS = ("password", "sslpassword")
"""Of a URL's query, where SQLAlchemy does not hide them."""

tables = sa.MetaData()
campaigns = sa.Table("campaigns", tables, sa.Column("name", sa.String), sa.Column("content", sa.Text))
rankings = sa.Table(
    "rankings",
    tables,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("campaign", sa.String),
    sa.Column("content", sa.Text),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("sequence", sa.Integer, primary_key=True),
    sa.Column("campaign", sa.String),
    sa.Column("request", sa.String),
    sa.Column("content", sa.Text),
)
leases = sa.Table(
    "leases",
    tables,
    sa.Column("campaign", sa.String),
    sa.Column("object_id", sa.Text),
    sa.Column("rater", sa.String),
    sa.Column("ranking", sa.Integer),
    sa.Column("place", sa.Integer),
    sa.Column("until_utc", sa.String),
)
tokens = sa.Table(
    "tokens",
    tables,
    sa.Column("name", sa.String),
    sa.Column("digest", sa.String),
    sa.Column("scopes", sa.String),
    sa.Column("rater", sa.String),
    sa.Column("created_utc", sa.String),
    sa.Column("revoked_utc", sa.String),
)


class Database:
    """An open database."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self.where = _shown(engine.url)

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Read one state of the database; errors as of `writing`."""
        with _explained(self.where), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Write as one transaction, one writer at a time; what raises is rolled back.

        Raises
        ------
        StoreError
            The database failed, is locked for longer than `BUSY_TIMEOUT_S`, or its disk is full: nothing was written,
            unless a server was lost at the very end, which the message says.
        IntegrityError
            The database is damaged.
        """
        with _explained(self.where), self._engine.connect() as connection:
            connection = connection.execution_options(writes=True)
            with connection.begin():
                if self._engine.dialect.name == "postgresql":
                    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
                    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITING)))
                yield connection

    def close(self) -> None:
        """Let go of the connections."""
        self._engine.dispose()


def open_database(url: str) -> Database:
    """Open a database, made where there is none, and bring its tables up to date.

    Parameters
    ----------
    url : str
        A path or `sqlite:///path` of a file, or `postgresql://user@host/name`.

    Raises
    ------
    ConfigError
        It is neither; or the program for it is not installed.
    StoreError
        The database cannot be reached or written.
    DataError
        The file is no database, or a newer voorwerp made it.
    IntegrityError
        The database is damaged.
    """
    engine = _engine(url)
    database = Database(engine)
    try:
        with database.writing() as connection:
            _upgrade(connection, database.where)
    except BaseException:
        database.close()
        raise
    return database


class Seen(NamedTuple):
    """A database that was looked at."""

    where: str
    is_current: bool
    """Whether its tables are those of this version."""


def look_at(url: str) -> Seen:
    """Look at a database that is there, and leave it as it is; arguments and errors as of `open_database`."""
    engine = _engine(url)
    where = _shown(engine.url)
    try:
        with _explained(where), engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
        return Seen(where, found == ScriptDirectory(str(_MIGRATIONS)).get_current_head())
    finally:
        engine.dispose()


def _engine(url: str) -> sa.Engine:
    try:
        target = _target(url)
        is_patient = target.get_backend_name() == "postgresql" and "connect_timeout" not in target.query
        settings = {"connect_timeout": CONNECT_TIMEOUT_S} if is_patient else {}
        engine = sa.create_engine(target, pool_pre_ping=True, connect_args=settings)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ValueError) as error:
        raise ConfigError("database: expected a path, sqlite:///path or postgresql://user@host/name") from error
    except ImportError as error:
        raise ConfigError("database: PostgreSQL needs one more package: pip install 'voorwerp[postgres]'") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif engine.dialect.name != "postgresql":
        raise ConfigError(f"database: expected SQLite or PostgreSQL, found {engine.dialect.name}")
    return engine


def _target(url: str) -> sa.URL:
    if "://" not in url:
        path = Path(url).absolute()
        with _explained(url):
            path.parent.mkdir(parents=True, exist_ok=True)
        return sa.URL.create("sqlite", database=str(path))
    target = sa.make_url(url)
    if target.get_backend_name() == "sqlite" and target.database in (None, "", ":memory:"):
        raise ConfigError("database: expected the path of a file, found a database in memory")
    return target.set(drivername="postgresql+psycopg") if target.drivername == "postgresql" else target


def _shown(url: sa.URL) -> str:
    return url.difference_update_query(_SECRETS).render_as_string(hide_password=True)


def _set_up_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # Transactions begin where SQLAlchemy says so, not where the driver guesses.
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    _write_ahead(cursor)
    for pragma in ("synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _write_ahead(cursor: sqlite3.Cursor) -> None:
    """Log writes beside the file. Where somebody writes without that yet, SQLite fails at once: wait for it as well."""
    until_s = monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not is_busy or monotonic() > until_s:
                raise
            sleep(random.uniform(0.005, 0.02))


def _begin_sqlite(connection: sa.Connection) -> None:
    """A writer takes its lock at once: one that read first could not write after another did."""
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _upgrade(connection: sa.Connection, where: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    newest = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() == newest:
        return
    try:
        with _one_upgrade:
            command.upgrade(config, "head")
    except CommandError as error:
        raise DataError(f"database {where}: a newer version of voorwerp made it; use that version") from error


@contextmanager
def _explained(where: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        reason = next(iter(str(error.orig).strip().splitlines()), "it failed")
        if "not a database" in reason:
            raise DataError(f"database {where}: expected a database, found another kind of file") from error
        if "malformed" in reason:
            raise IntegrityError(f"database {where}: {reason}; restore it from a copy") from error
        if error.connection_invalidated:
            outcome = "whether it was recorded is not known; the same request again is recorded once"
        else:
            outcome = "nothing was recorded, try again"
        raise StoreError(f"database {where}: {reason}; {outcome}") from error
    except sa.exc.TimeoutError as error:
        raise StoreError(f"database {where}: no connection was free; nothing was recorded, try again") from error
    except OSError as error:
        raise StoreError(f"database {where}: {error}; nothing was recorded, try again") from error
