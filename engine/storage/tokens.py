"""Tokens of the service, beside campaigns: who may ask what. A token is shown once; what is kept is its hash."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from pydantic import ValidationError

from engine.storage.artefacts import utc_now
from engine.storage.campaign_tables import Database, open_database, tokens
from schemas.campaign import NAME_PATTERN
from schemas.errors import ConfigError, InputNotFoundError, OutputError
from schemas.service import SCOPES, Token, TokenScope
from schemas.validation import did_you_mean

SECRET_BYTES = 32
_NO_DIGEST = "0" * 64
"""Compared where no token has the name, so that this takes as long."""


class TokenStore:
    """Tokens in a database; opened by `open_tokens`. Every method raises StoreError where the database fails.

    A token is its name, a dot and 32 random bytes: the name finds the row, and only hashes are compared. Its bytes
    cannot be guessed, so that one round of SHA-256 keeps them.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.where = database.where

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def create(self, name: str, scopes: Sequence[TokenScope], rater: str | None = None) -> str:
        """Create a token and return it: the only time that it can be seen.

        Raises
        ------
        ConfigError
            The name or the rater is none; there is no scope, or an unknown one; or it is to rate without a rater.
        OutputError
            There is, or was, a token of this name.
        """
        try:
            record = Token(name=name, scopes=tuple(dict.fromkeys(scopes)), rater=rater, created_utc=utc_now())
        except ValidationError as error:
            expected = f"letters, digits, dots, dashes and underscores in names, and scopes of {', '.join(SCOPES)}"
            raise ConfigError(f"token: expected {expected}, found {error.errors()[0]['input']!r}") from error
        if not record.scopes:
            raise ConfigError(f"token: expected at least one scope of {', '.join(SCOPES)}, found none")
        if "rate" in record.scopes and record.rater is None:
            raise ConfigError("token: expected the name of a rater with scope rate, found none")
        token = f"{name}.{secrets.token_urlsafe(SECRET_BYTES)}"
        values = {**record.model_dump(), "scopes": " ".join(record.scopes), "digest": _digest(token)}
        with self._database.writing() as connection:
            if connection.execute(sa.select(tokens.c.name).where(tokens.c.name == name)).first():
                raise OutputError(f"{self.where}: there is, or was, a token {name!r}; choose another name")
            connection.execute(tokens.insert().values(values))
        return token

    def verify(self, token: str) -> Token | None:
        """Find out whose a token is; None where it is nobody's, or was revoked."""
        name, _, _ = token.rpartition(".")
        found = None
        if re.fullmatch(NAME_PATTERN, name):
            with self._database.reading() as connection:
                found = connection.execute(sa.select(tokens).where(tokens.c.name == name)).first()
        same = hmac.compare_digest(_digest(token), found.digest if found else _NO_DIGEST)
        return _token(found) if found and same and found.revoked_utc is None else None

    def all(self) -> list[Token]:
        """Read what is known of all tokens, revoked ones too, in order of name."""
        with self._database.reading() as connection:
            return [_token(row) for row in connection.execute(sa.select(tokens).order_by(tokens.c.name))]

    def revoke(self, name: str) -> None:
        """End a token, at once and for good; again changes nothing.

        Raises
        ------
        InputNotFoundError
            There is none of this name.
        """
        mine = tokens.c.name == name
        with self._database.writing() as connection:
            names = list(connection.execute(sa.select(tokens.c.name).order_by(tokens.c.name)).scalars())
            if name not in names:
                raise InputNotFoundError(
                    f"{self.where}: expected one of its tokens ({', '.join(names) or 'none yet'}), found {name!r}"
                    f"{did_you_mean(name, names)}"
                )
            ended = tokens.update().where(mine, tokens.c.revoked_utc.is_(None)).values(revoked_utc=utc_now())
            connection.execute(ended)


def open_tokens(url: str) -> TokenStore:
    """Open the tokens of a database; arguments and errors as of `engine.storage.campaign_tables.open_database`."""
    return TokenStore(open_database(url))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _token(row: Any) -> Token:
    return Token.model_validate(
        {
            "name": row.name,
            "scopes": row.scopes.split(),
            "rater": row.rater,
            "created_utc": row.created_utc,
            "revoked_utc": row.revoked_utc,
        }
    )
