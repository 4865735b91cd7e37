"""Messages of the service about whole campaigns: made, ranked, exported. Those of raters are in `schemas.service`."""

from typing import Literal

from pydantic import Field, field_validator

from schemas.campaign import CampaignConfig, Name
from schemas.config import Section
from schemas.manifest import Record
from schemas.service import MOST_RATINGS, TableParameters

MOST_RANKED = 10_000
"""Objects of a ranking that are listed."""

ExportFormat = Literal["csv", "parquet", "votable"]


class CreateRequest(Section):
    """A campaign to be made on the release that is served."""

    name: Name
    config: CampaignConfig = CampaignConfig()

    @field_validator("config")
    @classmethod
    def _has_few_examples(cls, value: CampaignConfig) -> CampaignConfig:
        if len(value.examples) > MOST_RATINGS:
            raise ValueError(f"examples: expected at most {MOST_RATINGS:,}")
        return value


class RankingParameters(TableParameters):
    """How much of a ranking."""

    n: int = Field(100, ge=1, le=MOST_RANKED, description="objects, the best first")


class RankedObject(Record):
    """What is expected of the rating of an object."""

    rank: int
    """1 is best."""
    object_id: str
    mean: float
    sd: float


class RankingAnswer(Record):
    """The best objects of the whole release by what everyone rated, rated ones too; none before there are ratings."""

    campaign: str
    ranking: int
    """Sequence of the last event that was learned from: as long as this stays, the ranking does."""
    n_ratings: int
    """That were learned from."""
    stale: bool
    """Whether the last ratings could not be fitted, so that an older fit ranks."""
    ranked: tuple[RankedObject, ...]


class ExportParameters(Section):
    """Which ratings that hold, and how they are to be written."""

    format: ExportFormat = "csv"
    everyone: bool = Field(False, description="those of every rater, for tokens of scope admin")
