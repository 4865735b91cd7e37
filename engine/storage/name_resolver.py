"""Positions of objects by their names, asked of a Sesame service (CDS): little of it, for no longer than is said."""

import re
import threading
import urllib.parse
import urllib.request
from collections import OrderedDict
from http.client import HTTPException, HTTPResponse
from time import monotonic
from typing import NamedTuple

from schemas.errors import BusyError, StoreError

WITHIN_S = 10.0
"""An answer is waited for, all of it."""
SILENT_S = 5.0
"""For which the service may say nothing."""
LARGEST_BYTES = 64 * 1024
AT_ONCE = 4
_KEPT = 1_000
"""Names that are not asked about again."""
_BLOCK_BYTES = 8 * 1024
_POSITION = re.compile(rb"^%J(?:\.\S+)?[ \t]+([+-]?[0-9]+(?:\.[0-9]*)?)[ \t]+([+-]?[0-9]+(?:\.[0-9]*)?)", re.MULTILINE)
"""Of the answer's plain form (`-oI`): ICRS at J2000, degrees."""


class Position(NamedTuple):
    """Where an object is, ICRS."""

    ra_deg: float
    """In [0, 360)."""
    dec_deg: float


class NameResolver:
    """A Sesame service, for several threads at once.

    Parameters
    ----------
    url : str
        Of the service, http or https, to which `/-oI/SNV?NAME` is added. It is followed nowhere else.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._known: OrderedDict[str, Position] = OrderedDict()
        self._lock, self._room = threading.Lock(), threading.BoundedSemaphore(AT_ONCE)
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            self._opener.add_handler(handler)

    def resolve(self, name: str) -> Position | None:
        """Find the position of an object, in SIMBAD, NED or VizieR, whichever knows it first; None where none does.

        Raises
        ------
        StoreError
            The service does not answer, or not with what Sesame answers, or refers to elsewhere.
        BusyError
            Others are asking already.
        """
        with self._lock:
            if known := self._known.get(name):
                self._known.move_to_end(name)
                return known
        if not self._room.acquire(blocking=False):
            raise BusyError("too many names at once; try again")
        try:
            found = _position(self._asked(name))
        finally:
            self._room.release()
        if found:
            with self._lock:
                self._known[name] = found
                while len(self._known) > _KEPT:
                    self._known.popitem(last=False)
        return found

    def _asked(self, name: str) -> bytes:
        until, said = monotonic() + WITHIN_S, bytearray()
        try:
            url = f"{self._url}/-oI/SNV?{urllib.parse.quote(name, safe='')}"
            answer: HTTPResponse = self._opener.open(url, None, SILENT_S)
            with answer:
                while block := answer.read1(_BLOCK_BYTES):
                    said += block
                    if len(said) > LARGEST_BYTES:
                        raise StoreError(f"{self._url}: expected an answer of at most {LARGEST_BYTES:,} bytes")
                    if monotonic() > until:
                        raise StoreError(f"{self._url}: expected an answer within {WITHIN_S:g} s")
        except (OSError, HTTPException) as error:
            raise StoreError(f"{self._url}: the name resolver does not answer: {error}") from error
        return bytes(said)


def _position(said: bytes) -> Position | None:
    match = _POSITION.search(said)
    if match is None:
        return None
    ra_deg, dec_deg = (float(number) for number in match.groups())
    if not (0 <= ra_deg < 360 and -90 <= dec_deg <= 90):
        raise StoreError(f"expected a position in degrees from the name resolver, found {ra_deg} {dec_deg}")
    return Position(ra_deg, dec_deg)
