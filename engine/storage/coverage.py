"""Coverage maps of the sky in: MOC files as FITS, JSON or text."""

from pathlib import Path
from tempfile import TemporaryDirectory

from mocpy import MOC

from engine.storage.store import Store
from schemas.errors import DataError


def read_moc(uri: str) -> MOC:
    """Read a multi-order coverage map (IVOA MOC 2.0): FITS, JSON, or text such as `3/1,3-5 4/20`.

    Raises
    ------
    InputNotFoundError
        Nothing is there.
    DataError
        The file is no coverage map of the sky.
    """
    store = Store(uri)
    data = store.read("")
    try:
        if data.startswith(b"SIMPLE"):
            with TemporaryDirectory() as folder:
                path = Path(folder) / "moc.fits"
                path.write_bytes(data)
                return MOC.load(path, format="fits")
        text = data.decode().strip()
        if text.startswith("{"):
            return MOC.from_string(text, format="json")
        return MOC.from_string(" ".join(text.replace(",", " ").split()), format="ascii")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{store.uri()}: expected a MOC as FITS, JSON or text: {error}") from error
