from pathlib import Path

import pytest
from mocpy import MOC

from engine.storage.coverage import read_moc
from schemas.errors import DataError, InputNotFoundError


def test_a_map_comes_back_from_each_of_its_forms(tmp_path: Path) -> None:
    moc = MOC.from_string("3/1 3-5 4/500")
    moc.save(tmp_path / "m.fits", format="fits")
    moc.save(tmp_path / "m.json", format="json")
    (tmp_path / "m.txt").write_text("3/1,3-5\n4/500\n")
    assert all(read_moc(str(tmp_path / name)) == moc for name in ("m.fits", "m.json", "m.txt"))


@pytest.mark.parametrize("data", [b"", b"garbage", b'{"a"', b"SIMPLE", b"\xff\xfe"])
def test_what_is_no_map_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bad").write_bytes(data)
    with pytest.raises(DataError, match="expected a MOC as FITS, JSON or text"):
        read_moc(str(tmp_path / "bad"))


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError):
        read_moc(str(tmp_path / "nothing"))
