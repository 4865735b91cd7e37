"""Log lines say what happened in fields, and hold no secret."""

import json
import logging
import sys
from collections.abc import Iterator

import pytest

from schemas import log
from schemas.log import HIDDEN, LOG_VARIABLE, RUN, LogFormatter, log_line, secrets_in, without_secrets

PLANTED = "pl4nted/Secret+Value="


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A secret in the environment, and one in the URL of a database."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PLANTED)
    monkeypatch.setenv("VOORWERP_DATABASE", "postgresql://ann:hunter2hunter2@db.example/campaigns")
    log._own_secrets.cache_clear()
    yield
    log._own_secrets.cache_clear()


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"refused: {PLANTED}", f"refused: {HIDDEN}"),
        ("psycopg: no password hunter2hunter2 here", f"psycopg: no password {HIDDEN} here"),
        ("s3://key:verysecret@bucket/a and http://u:p@h/", f"s3://key:{HIDDEN}@bucket/a and http://u:{HIDDEN}@h/"),
        ("postgresql://ann@db/x?password=abc&sslmode=on", f"postgresql://ann@db/x?password={HIDDEN}&sslmode=on"),
        ("https://s3/a?X-Amz-Signature=00ff&X-Amz-Date=1", f"https://s3/a?X-Amz-Signature={HIDDEN}&X-Amz-Date=1"),
        ("Authorization: Bearer ann.abcdefgh_ij-k", f"Authorization: Bearer {HIDDEN}"),
    ],
)
def test_secrets_are_hidden_wherever_they_stand(planted: None, said: str, shown: str) -> None:
    assert without_secrets(said) == shown
    assert json.loads(log_line("info", "note", message=said))["message"] == shown


@pytest.mark.parametrize(
    "said",
    [
        "s3://bucket/key:with:colons/a@b",
        "http://127.0.0.1:8000/v1/release",
        "embed.max_reject_fraction=0.25",
        "host, port: expected an address, found ann@example.org",
        "access key AKIA123 was refused",
    ],
)
def test_what_is_no_secret_stays_as_it_is(said: str) -> None:
    assert without_secrets(said) == said


def test_secrets_of_an_environment_are_found_by_name_the_longest_first() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "longer-than-eight",
        "HF_TOKEN": "hf_0123456789",
        "PGPASSWORD": "short",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token",
        "AWS_ACCESS_KEY_ID": "AKIA0123456789",
        "DATABASE": "postgresql://ann:from-a-url@db/x",
        "PATH": "/usr/local/bin:/usr/bin",
    }
    assert secrets_in(environment) == ("longer-than-eight", "hf_0123456789", "from-a-url")


def test_a_line_is_one_object_with_time_level_event_and_run() -> None:
    token = RUN.set("a-run")
    try:
        found = json.loads(log_line("warning", "unit", unit="u", attempt=2, message="two\nlines"))
    finally:
        RUN.reset(token)
    assert list(found) == ["at_utc", "level", "event", "run", "unit", "attempt", "message"]
    assert (found["run"], found["attempt"], found["message"]) == ("a-run", 2, "two\nlines")
    assert "run" not in json.loads(log_line("info", "note")) or RUN.get()
    assert "\n" not in log_line("info", "note", message="two\nlines")


def test_what_libraries_log_has_no_secret_either_in_both_formats(
    planted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        raise ValueError(f"at https://ann:{PLANTED}@host/")
    except ValueError:
        record = logging.LogRecord("lib", logging.ERROR, "f", 1, "failed with %s", (PLANTED,), sys.exc_info())
    formatter = LogFormatter("%(levelname)s %(name)s: %(message)s")
    monkeypatch.setenv(LOG_VARIABLE, "text")
    assert formatter.format(record).startswith(f"ERROR lib: failed with {HIDDEN}\nTraceback")
    monkeypatch.setenv(LOG_VARIABLE, "json")
    record.exc_text = None
    line = formatter.format(record)
    found = json.loads(line)
    assert (found["level"], found["logger"], found["message"]) == ("error", "lib", f"failed with {HIDDEN}")
    assert "ValueError" in found["traceback"]
    assert PLANTED not in line
