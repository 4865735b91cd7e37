"""What the service needs of a release and of campaigns, whoever gives it: this process, or many.

Methods block, may be called from several threads at once, and raise errors of `schemas.errors`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from engine.compute.rejects import Reject
from schemas.campaign import Campaign, Recorded
from schemas.service import Cone, NeighboursQuestion, NextAnswer, ReleaseAnswer


class Searcher(Protocol):
    """A release that can be asked."""

    def about(self) -> ReleaseAnswer:
        """Say what is served."""

    def neighbours(self, question: NeighboursQuestion) -> pa.Table:
        """Answer queries: rows of `schemas.tables.neighbours_schema`, by query, then by rank.

        Raises
        ------
        DataError
            Vectors have another dimension than the release's components.
        """

    def cone(self, cone: Cone, everything: bool = False) -> pa.Table:
        """Find the objects of a cone: `object_id`, position and `separation_arcsec`, the nearest first, ties by id.

        With everything, the other columns of the catalogue too.
        """

    def object(self, object_id: str) -> pa.Table:
        """Read one row of the catalogue with its `components`; no row where there is no such object."""

    def picture(self, object_id: str, side: int) -> np.ndarray | Reject:
        """Draw an object's cutout, (height, width, 3) uint8, or say why there is none.

        Raises
        ------
        BusyError
            Too many are drawn already.
        """


class Campaigns(Protocol):
    """Campaigns on a release."""

    def all(self) -> list[Campaign]:
        """Read them, in order of name."""

    def campaign(self, name: str) -> Campaign:
        """Read one.

        Raises
        ------
        InputNotFoundError
            There is none of this name.
        """

    def next(self, name: str, rater: str, n: int | None) -> NextAnswer:
        """Ask a rater about the next objects; what was asked and not rated is asked again.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        DataError
            There is nothing left to ask about.
        BusyError
            Too many ask at once.
        """

    def rate(self, name: str, rater: str, ratings: Sequence[tuple[str, int]], request: str) -> list[Recorded]:
        """Record ratings of (object id, rating), all or none; the same request again changes nothing.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        DataError
            An object is not in the release or rated twice here; or the request was recorded with another content.
        """

    def undo(self, name: str, rater: str, request: str) -> Recorded:
        """Take back the rater's last rating that holds; the same request again changes nothing.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        DataError
            The rater has no rating; or the request was recorded with another content.
        """

    def ratings(self, name: str, rater: str | None) -> pa.Table:
        """Read the ratings that hold of a rater, or of all, as `engine.cluster.campaign.ratings_table`.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        """
