"""Campaigns: what people find interesting in a release, asked about a batch at a time; and rankings made from it."""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.config import RayConfig, Section
from schemas.manifest import FileRecord, Record
from schemas.space import SpaceName

KernelKind = Literal["rational-quadratic", "matern"]
AcquisitionKind = Literal["expected-improvement", "upper-confidence-bound", "thompson", "mean"]
BatchKind = Literal["top", "believer"]
FirstKind = Literal["random", "spread"]

LOWEST, HIGHEST = 0, 5
"""Ratings are whole numbers from dull to fascinating (Walmsley et al. 2022, Section 5)."""
PAPER_EPSILON = 0.5
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""Of campaigns, raters and requests."""
RatingValue = Annotated[int, Field(ge=LOWEST, le=HIGHEST, strict=True)]


class RankingConfig(Section):
    """How ratings become questions and a ranking. The defaults are the paper's, but for the batch."""

    space: SpaceName = Field("anomaly", description="which components the Gaussian process sees")
    kernel: KernelKind = Field("rational-quadratic", description="of the Gaussian process, beside white noise")
    acquisition: AcquisitionKind = Field(
        "expected-improvement", description="what orders the next questions; mean asks about what is liked already"
    )
    epsilon: float = Field(PAPER_EPSILON, ge=0, le=5, description="by how much the best rating is to be exceeded")
    kappa: float = Field(2.0, ge=0, le=10, description="standard deviations, of upper-confidence-bound")
    batch: int = Field(10, ge=1, le=1000, description="galaxies asked about at once")
    batch_kind: BatchKind = Field(
        "believer", description="top: the best by acquisition, as in the paper; believer: and unlike each other"
    )
    first: FirstKind = Field(
        "random", description="the first batch: random, as in the paper, or spread over the space (k-means++)"
    )
    examples: tuple[str, ...] = Field((), description="ids of known examples, taken as rated 5: more like these")
    seed: int = Field(0, ge=0, description="of everything random")


class CampaignConfig(RankingConfig):
    """A campaign: how its questions are chosen, and who may be asked what."""

    pooled: bool = Field(
        False, description="begin with what the other raters liked: the mean of one process is that of another"
    )
    raters_per_object: int = Field(1, ge=1, le=1000, description="people who may rate the same galaxy")
    lease_minutes: float = Field(30.0, gt=0, le=10_080, description="how long a batch is kept for its rater")


class Campaign(Record):
    """A campaign as it was created. Nothing of it changes but its events."""

    name: Name
    release: str
    """Output of a release."""
    release_id: str
    components: str
    """Id of the components that the Gaussian process sees."""
    id_type: Literal["int64", "string"]
    config: CampaignConfig
    created_utc: str


class RatingEvent(Record):
    """Something that a rater did. Events are appended and never changed; what holds now is derived from them."""

    request: Name
    """Unique; a request that is sent again changes nothing."""
    rater: Name
    object_id: str
    kind: Literal["rate", "undo"] = "rate"
    rating: RatingValue | None = None
    """Of `rate`."""
    undoes: Name | None = None
    """Of `undo`: the request of the rating that it takes back."""
    ranking: int | None = None
    """The ranking that asked, where one did."""
    at_utc: str

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        said = {name for name in ("rating", "undoes") if getattr(self, name) is not None}
        expected = "rating" if self.kind == "rate" else "undoes"
        if said != {expected}:
            raise ValueError(f"expected {expected} of {self.kind}, found {' and '.join(sorted(said)) or 'nothing'}")
        return self


class Recorded(Record):
    """An event in its place."""

    sequence: int
    """From 1, in order of arrival, without regard to campaigns."""
    event: RatingEvent


class Asked(Record):
    """A question: what was expected of a rating when it was asked for."""

    object_id: str
    mean: float | None = None
    """None in a first batch, where nothing was known."""
    sd: float | None = None
    acquisition: float | None = None


class RankingRecord(Record):
    """What a batch was chosen from, and by what: with the events up to `snapshot` it can be made again."""

    rater: Name
    snapshot: int
    """Sequence of the last event that was seen; 0 for none."""
    n_ratings: int
    components: str
    seed: int
    kernel: KernelKind
    length: float
    alpha: float
    noise: float
    log_likelihood: float | None = None
    """None where the hyper-parameters are not of this fit: there were too few ratings, or the fit failed."""
    stale: bool = False
    """Whether the fit failed, so that the hyper-parameters are those of the last one."""
    asked: tuple[Asked, ...]
    waiting: tuple[str, ...] = ()
    """What the rater was asked about already and had not rated: not asked about again here."""
    at_utc: str


class RankJob(RankingConfig):
    """A ranking of a whole release from ratings."""

    release: str = Field(description="output folder of a release")
    output: str = Field(description="folder or s3:// URI for the ranking")
    ratings: str | None = Field(None, description="CSV or Parquet of ids and ratings 0 to 5, or Astronomaly's CSV")
    campaign: str | None = Field(None, description="a campaign's ratings instead of a file's")
    rater: str | None = Field(None, description="whose ratings; of all raters, their mean, when null")
    database: str | None = Field(None, description="where campaigns are kept; as of voorwerp campaign when null")
    id_column: str = Field("object_id", description="column of the ratings file")
    rating_column: str | None = Field(None, description="rating, human_label or score, whichever is there, when null")
    top: int = Field(200, ge=1, le=100_000, description="candidates in the lists")
    sheet: int = Field(50, ge=0, le=500, description="candidates on the contact sheet; 0 for none")
    include_rated: bool = Field(False, description="list rated objects as well")
    ray: RayConfig = RayConfig()


class Ranking(Record):
    """The record of a finished ranking: `ranking.json`, written last."""

    format: Literal[1] = 1
    identity: dict[str, object]
    """Release, components, settings and the ratings' hash: what decides the content."""
    kernel: KernelKind
    length: float
    alpha: float
    noise: float
    log_likelihood: float | None
    counts: dict[str, int]
    files: list[FileRecord]
    versions: dict[str, str]
    durations_s: dict[str, float]
    created_utc: str


Method = Literal["gp", "gp-believer", "random", "baseline", "ellipse+gp", "embedding+forest"]
METHODS: dict[Method, str] = {
    "gp": "Gaussian process on components, the best 10 at a time, as in the paper",
    "gp-believer": "the same, with batches unlike each other",
    "random": "Gaussian process on components, asked at random",
    "baseline": "isolation forest and random forest on ellipse features (Astronomaly)",
    "ellipse+gp": "Gaussian process on ellipse features",
    "embedding+forest": "isolation forest and random forest on components",
}
"""What each method of a simulated campaign is."""


class SimulatedCampaignJob(Section):
    """Campaigns in which a column of known answers stands for the person: how much is found, by any method."""

    release: str = Field(description="output folder of a release")
    truth: str = Field(description="CSV or Parquet of ids and answers")
    output: str = Field(description="folder or s3:// URI for trials, tables and figures")
    id_column: str = Field("object_id", description="column of the truth table")
    fraction_column: str | None = Field(
        None, description="a vote fraction; rated as 5 times it, halves to the even number"
    )
    rating_column: str | None = Field(None, description="ratings 0 to 5 themselves")
    threshold: float | None = Field(
        None, description="what is larger is interesting; a fraction of 0.5, or a rating of 4.5, when null"
    )
    methods: tuple[Method, ...] = Field(tuple(METHODS), min_length=1, description="what is compared")
    space: SpaceName = Field("anomaly", description="which components the methods see")
    ellipse_side_pixels: int = Field(
        128, ge=16, le=1024, description="side of the images that ellipse features are measured on"
    )
    n_ratings: int = Field(200, ge=1, le=5000, description="ratings of one campaign")
    batch: int = Field(10, ge=1, le=1000, description="galaxies asked about at once")
    epsilon: float = Field(PAPER_EPSILON, ge=0, le=5, description="of the expected improvement")
    repeats: int = Field(15, ge=1, le=1000, description="campaigns of each method, with other seeds")
    seed: int = Field(0, ge=0, description="of the first campaign")
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _one_column(self) -> Self:
        if (self.fraction_column is None) == (self.rating_column is None):
            raise ValueError("expected either fraction_column or rating_column")
        return self


class TrialRecord(Record):
    """One simulated campaign."""

    format: Literal[1] = 1
    method: Method
    repeat: int
    metrics: dict[str, float | None]
    """None where a metric is not defined."""
    found_by_batch: list[int]
    """Interesting ones that were asked about, after each batch."""
    seconds: float


class SimulatedCampaign(Record):
    """What a folder of trials was made of."""

    format: Literal[1] = 1
    identity: dict[str, object]
