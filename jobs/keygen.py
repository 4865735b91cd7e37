"""Job: keygen. A pair of keys that sign report cards and check them."""

from pathlib import Path

from engine.storage.signing import make_key
from jobs.report import note
from jobs.report_card import check_installed


def run(key: Path) -> str:
    """Make the keys; return the id of the public one.

    Raises
    ------
    ConfigError
        What signs is not installed.
    OutputError
        One of the files is there already.
    """
    check_installed()
    public, key_id = make_key(key)
    note("keygen", f"key {key_id}: keep {key} to yourself, give {public} to everybody")
    return key_id
