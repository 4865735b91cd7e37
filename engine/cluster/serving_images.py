"""Images that somebody sends, into the component space of a release: one at a time. Starts no cluster."""

import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.cluster.loading import StuckError
from engine.cluster.opened import OpenRelease
from engine.cluster.turns import Turns
from engine.compute.rejects import Reject
from engine.storage.pins import locate_cutouts
from engine.storage.store import Store
from schemas.reject import RejectReason
from schemas.tables import CUTOUT, OBJECT_ID

if TYPE_CHECKING:  # It brings PyTorch.
    from engine.cluster.similar import Placement

IMAGES_AT_ONCE, IMAGES_WAITING = 1, 7
"""Each takes every core, and in full many times the memory of its bytes."""
IMAGE_WITHIN_S = 30.0
"""Reading and decoding one may take, whatever a release allows its own cutouts."""
_NAME = "image"


class SentImages:
    """The encoder of a release, loaded when the first image comes; it brings PyTorch.

    Parameters
    ----------
    release : OpenRelease
    threads : int
        That decode and encode.
    """

    def __init__(self, release: OpenRelease, threads: int) -> None:
        self._release, self._threads = release, threads
        self._turns = Turns("images", IMAGES_AT_ONCE, IMAGES_WAITING)
        self._placement: Placement | None = None

    def place(self, image: bytes) -> np.ndarray | Reject:
        """Encode and project an image, as `engine.cluster.similar.Placement.place`: its vector, (d,) float32.

        Random views, where the release averages such, are seeded by the image's bytes.

        Raises
        ------
        NoEncoderError
            The encoder or the components' fit is not there, or not the one that the release was made with.
        BusyError
            Too many images are waiting already.
        """
        with self._turns.one(), TemporaryDirectory() as folder:
            path = Path(folder) / _NAME
            path.write_bytes(image)
            uri = Store(str(path)).uri()
            objects = pa.table({OBJECT_ID: [hashlib.sha256(image).hexdigest()], CUTOUT: [uri]})
            try:
                placed = self._loaded().place(locate_cutouts(objects))
            except StuckError as error:
                return Reject(RejectReason.TIMEOUT, str(error))
            if found := placed.rejects.get(0):
                return found._replace(detail=found.detail.replace(uri, "the image").replace(str(path), "the image"))
            return placed.vectors[0]

    def _loaded(self) -> "Placement":
        """Load the encoder, once; for whoever has the turn."""
        if self._placement is None:
            from engine.cluster.similar import Placement

            self._placement = Placement(self._release, "cpu", self._threads, IMAGE_WITHIN_S)
        return self._placement
