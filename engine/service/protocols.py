"""What the service needs of a release and of campaigns, whoever gives it: this process, or many.

Methods block, may be called from several threads at once, and raise errors of `schemas.errors`.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from engine.compute.rejects import Reject
from engine.storage.reports import ReportFiles
from schemas.campaign import Campaign, CampaignConfig, Recorded
from schemas.found import Found
from schemas.manifest import Kind, Manifest, Release
from schemas.service import Cone, ImageQuestion, NeighboursQuestion, NextAnswer, ReleaseAnswer
from schemas.service_campaigns import RankingAnswer
from schemas.service_releases import RejectsAnswer


class Searcher(Protocol):
    """A release that can be asked."""

    def about(self) -> ReleaseAnswer:
        """Say what is served."""

    def neighbours(self, question: NeighboursQuestion) -> Found:
        """Answer queries.

        Raises
        ------
        DataError
            Vectors have another dimension than the release's components, or the MOC is none.
        ConfigError
            The condition is none, or asks about what the catalogue does not have; or the recall cannot be reached.
        BusyError
            Too many ask with a cone, a MOC or a condition already.
        """

    def similar(self, image: bytes, question: ImageQuestion) -> Found | Reject:
        """Find the neighbours of an image (JPEG, PNG or FITS), or say why it cannot be used.

        Raises
        ------
        ConfigError
            As of `neighbours`.
        NoEncoderError
            The encoder that the release was made with is not there.
        BusyError
            Too many images, or questions with a cone or a condition, are waiting already.
        """

    def cone(self, cone: Cone, everything: bool = False) -> pa.Table:
        """Find the objects of a cone: `object_id`, position and `separation_arcsec`, the nearest first, ties by id.

        With everything, the other columns of the catalogue too.
        """

    def object(self, object_id: str) -> pa.Table:
        """Read one row of the catalogue with its `components`; no row where there is no such object."""

    def releases(self) -> list[Release]:
        """Read the records of all finished releases of the output, the newest first."""

    def manifests(self) -> dict[Kind, Manifest]:
        """Give the manifests of the release's artefacts, each after those that it was made from."""

    def report(self, release: str) -> ReportFiles | None:
        """Read the newest report card of a release of the output; None where there is none."""

    def rejects(self) -> RejectsAnswer:
        """Count what was rejected, by reason."""

    def footprint(self) -> bytes:
        """Draw where the release has objects, as a MOC in FITS."""

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

    def create(self, name: str, config: CampaignConfig) -> Campaign:
        """Make a campaign; the same again changes nothing.

        Raises
        ------
        OutputError
            There is another one of this name.
        DataError
            The release has no components of the space yet, or an example is not in the release.
        """

    def ranking(self, name: str, n: int) -> RankingAnswer:
        """Rank the whole release by what everyone rated, and name the best n.

        Raises
        ------
        InputNotFoundError
            There is no such campaign.
        DataError
            Nothing can be learned from its ratings.
        BusyError
            Too many ask at once.
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
