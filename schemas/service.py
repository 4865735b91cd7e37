"""The service: its settings, what may be asked of it and what it answers.

Ids are text, because many readers of JSON round large integers. Angles are degrees (ICRS) unless a name says otherwise.
"""

import re
from typing import Annotated, Literal, Self, get_args

from pydantic import Field, StringConstraints, field_validator, model_validator

from schemas.campaign import CampaignConfig, Name, RatingValue
from schemas.config import RayConfig, Section
from schemas.manifest import Record

TokenScope = Literal["read", "rate", "admin", "metrics"]
"""read: ask about the release; rate: be asked by campaigns and rate; admin: see what every rater did; metrics: collect
what the service counts."""
SCOPES: tuple[TokenScope, ...] = get_args(TokenScope)
TableFormat = Literal["json", "votable", "csv", "parquet"]

MOST_RATINGS = 1_000
"""In one request; a batch has no more."""
LARGEST_COMPONENT = 1e30
"""Sums of thousands of such differences still fit into float32."""
LONGEST_CONDITION = 1000
"""Characters of a condition: what it costs to parse, and for each object, grows with them."""
LONGEST_MOC = 500_000
"""Characters of a MOC as text."""

ObjectId = Annotated[str, StringConstraints(min_length=1, max_length=256)]
RaDeg = Annotated[float, Field(ge=0, lt=360)]
DecDeg = Annotated[float, Field(ge=-90, le=90)]
RadiusArcsec = Annotated[float, Field(gt=0, le=648_000)]
Component = Annotated[float, Field(ge=-LARGEST_COMPONENT, le=LARGEST_COMPONENT, strict=True)]
Plain = str | bool | int | float | None


class ServeConfig(Section):
    """A service of one release."""

    release: str = Field(description="output folder of a release")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    host: str = Field("127.0.0.1", description="address to listen at; 0.0.0.0 for every network")
    port: int = Field(8000, ge=0, le=65_535, description="0 for any that is free")
    database: str | None = Field(
        None, description="where tokens and campaigns are kept; as of voorwerp campaign when null"
    )
    anonymous_read: bool = Field(False, description="let everyone ask about the release, without a token")
    rate_per_minute: int = Field(600, ge=1, le=1_000_000, description="requests of each token, and of each address")
    quota_per_day: int | None = Field(
        None, ge=1, description="requests of each token, and of each address, in a day; any number when null"
    )
    max_body_bytes: int = Field(2**20, ge=1024, le=2**30, description="larger requests are refused")
    max_image_bytes: int = Field(8 * 2**20, ge=1024, le=2**30, description="larger images are refused")
    most_k: int = Field(1000, ge=1, le=10_000, description="neighbours of one query at most")
    most_objects: int = Field(
        10_000, ge=1, le=1_000_000, description="objects in one answer at most: queries times neighbours, or a cone's"
    )
    most_radius_arcsec: float = Field(10_800.0, gt=0, le=648_000, description="of cones that are listed")
    most_at_once: int = Field(64, ge=1, le=10_000, description="requests that are answered or wait; more are put off")
    jobs_folder: str | None = Field(
        None, description="folder or s3:// URI of bulk queries and their results; beside the database when null"
    )
    most_upload_bytes: int = Field(2**27, ge=1024, le=2**33, description="larger tables of queries are refused")
    most_job_queries: int = Field(1_000_000, ge=1, le=100_000_000, description="rows of such a table at most")
    most_job_rows: int = Field(
        50_000_000, ge=1, le=10_000_000_000, description="neighbours in one result at most: queries times neighbours"
    )
    most_jobs_waiting: int = Field(100, ge=1, le=10_000, description="jobs of everybody that have not ended")
    most_jobs_of_token: int = Field(10, ge=1, le=10_000, description="jobs of one token that have not ended")
    most_job_bytes_of_token: int = Field(
        20 * 2**30, ge=1024, description="of tables and results of one token that are kept"
    )
    jobs_kept_days: float = Field(7.0, gt=0, le=3650, description="for which a job that has ended is kept")
    groups: int | None = Field(
        None,
        ge=1,
        le=1_000,
        description="serve over Ray, with the index shards in so many groups, each in processes of its own; from this "
        "process alone when null",
    )
    replicas: int = Field(
        1, ge=1, le=100, description="processes of each group, and of those that answer HTTP, when over Ray"
    )
    rankers: int = Field(
        1,
        ge=1,
        le=1_000,
        description="processes that share the space of a campaign in their memory, when over Ray; that of campaigns "
        "itself when 1",
    )
    ray: RayConfig = RayConfig()
    cors_origins: tuple[str, ...] = Field((), description="sites whose pages may ask, such as https://example.org")

    name_resolver: str | None = Field(
        None,
        pattern=r"^https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~/-]*)?$",
        description="a Sesame service that names are asked of, such as https://cds.unistra.fr/cgi-bin/nph-sesame; "
        "none when null",
    )

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [one for one in value if not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+", one)]
        if wrong:
            raise ValueError("expected sites such as https://example.org, without a path")
        return value


class Token(Record):
    """Who may ask what. The token itself is kept by whoever it was given to; here is only its hash."""

    name: Name
    scopes: tuple[TokenScope, ...]
    rater: Name | None = None
    """In whose name it rates."""
    created_utc: str
    revoked_utc: str | None = None


class Cone(Section):
    """A circle on the sky; its edge belongs to it."""

    ra_deg: RaDeg
    dec_deg: DecDeg
    radius_arcsec: RadiusArcsec


class SearchSettings(Section):
    """How many neighbours, how surely, and from what objects."""

    k: int = Field(16, ge=1, description="neighbours per query")
    approximate: float | None = Field(
        None, gt=0, le=1, description="the recall that is enough, as measured for this index; exact answers when null"
    )
    where: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_CONDITION,
        description="a condition on the catalogue's columns that answers meet, such as mag_r < 18 and not is_star",
    )


class NeighbourSettings(SearchSettings):
    """How neighbours of objects are chosen."""

    match_radius_arcsec: RadiusArcsec = Field(20.0, description="how far a position may be from its object")
    exclusion_radius_arcsec: float = Field(
        0.0, ge=0, le=648_000, description="neighbours this close to the query on the sky are left out"
    )
    include_self: bool = Field(False, description="also list the query object itself")


class NeighboursQuestion(NeighbourSettings):
    """Queries of one kind: objects by id, the objects at positions, or vectors of component space."""

    ids: tuple[ObjectId, ...] = ()
    positions_deg: tuple[tuple[RaDeg, DecDeg], ...] = Field((), description="(RA, Dec) pairs")
    vectors: tuple[tuple[Component, ...], ...] = Field((), description="as many components as the release has")
    cone: Cone | None = Field(None, description="only objects within it are answers")
    moc: str | None = Field(
        None,
        min_length=1,
        max_length=LONGEST_MOC,
        description="only objects on the sky that it covers: a MOC as text such as 3/1,3-5 4/20, or as JSON",
    )

    @model_validator(mode="after")
    def _asks_one_kind(self) -> Self:
        if sum(map(bool, (self.ids, self.positions_deg, self.vectors))) != 1:
            raise ValueError("expected one of ids, positions_deg and vectors, with at least one query")
        if self.vectors and self.exclusion_radius_arcsec:
            raise ValueError("exclusion_radius_arcsec: vectors have no place on the sky; ask by id or position instead")
        if len(set(map(len, self.vectors))) > 1:
            raise ValueError("vectors: expected as many components in each")
        return self

    @property
    def n(self) -> int:
        """Queries."""
        return len(self.ids) + len(self.positions_deg) + len(self.vectors)


class TableParameters(Section):
    """How a table is to be written."""

    format: TableFormat | None = Field(None, description="what Accept says when not given")


class WithinCone(Section):
    """A cone in a URL."""

    cone_ra: RaDeg | None = Field(None, description="only objects within this cone are answers")
    cone_dec: DecDeg | None = None
    cone_radius_arcsec: RadiusArcsec | None = None

    @model_validator(mode="after")
    def _is_a_cone(self) -> Self:
        if (self.cone_ra, self.cone_dec, self.cone_radius_arcsec).count(None) not in (0, 3):
            raise ValueError("expected all of cone_ra, cone_dec and cone_radius_arcsec, or none")
        return self

    @property
    def within(self) -> Cone | None:
        """The cone, where there is one."""
        if self.cone_ra is None or self.cone_dec is None or self.cone_radius_arcsec is None:
            return None
        return Cone(ra_deg=self.cone_ra, dec_deg=self.cone_dec, radius_arcsec=self.cone_radius_arcsec)


class NeighboursParameters(NeighbourSettings, WithinCone, TableParameters):
    """One query in a URL: an id, or a position."""

    id: ObjectId | None = None
    ra: RaDeg | None = None
    dec: DecDeg | None = None
    rank: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (), max_length=10_000, description="only these of the k neighbours; all of them when none is named"
    )

    @model_validator(mode="after")
    def _asks_once(self) -> Self:
        if (self.ra, self.dec).count(None) not in (0, 2) or (self.id is None) == (self.ra is None):
            raise ValueError("expected either id, or ra and dec")
        return self

    @property
    def question(self) -> NeighboursQuestion:
        """The same as a question of one query."""
        settings = {name: getattr(self, name) for name in NeighbourSettings.model_fields} | {"cone": self.within}
        if self.id is not None:
            settings["ids"] = (self.id,)
        else:
            settings["positions_deg"] = ((self.ra, self.dec),)
        return NeighboursQuestion.model_validate(settings)


class ImageQuestion(SearchSettings):
    """How the neighbours of an image are chosen."""

    cone: Cone | None = None


class ImageParameters(SearchSettings, WithinCone, TableParameters):
    """The same in a URL."""

    @property
    def question(self) -> ImageQuestion:
        """The same by its names elsewhere."""
        settings = {name: getattr(self, name) for name in SearchSettings.model_fields}
        return ImageQuestion.model_validate({**settings, "cone": self.within})


class ConeParameters(TableParameters):
    """Objects around a position."""

    ra: RaDeg
    dec: DecDeg
    radius_arcsec: RadiusArcsec

    @property
    def cone(self) -> Cone:
        """The same by its names elsewhere."""
        return Cone(ra_deg=self.ra, dec_deg=self.dec, radius_arcsec=self.radius_arcsec)


class CutoutParameters(Section):
    """How large a picture is to be."""

    side: int = Field(160, ge=8, le=1024, description="pixels of its longer side at most")


class NextRequest(Section):
    """How many objects a rater wants to be asked about."""

    n: int | None = Field(
        None,
        ge=1,
        le=MOST_RATINGS,
        description="at least so many, with those that wait to be rated; what waits, or else a batch, when null",
    )


class GivenRating(Section):
    """One rating."""

    object_id: ObjectId
    rating: RatingValue


class RateRequest(Section):
    """Ratings to be recorded, all or none."""

    ratings: tuple[GivenRating, ...] = Field(min_length=1, max_length=MOST_RATINGS)


class RatingsParameters(Section):
    """Which of the ratings that hold."""

    everyone: bool = Field(False, description="those of every rater, for tokens of scope admin")
    start: int = Field(0, ge=0, description="ratings to leave out at the beginning")
    n: int = Field(MOST_RATINGS, ge=1, le=10_000, description="ratings at most")


class Health(Record):
    """That the service answers."""

    status: Literal["ok"] = "ok"


class ReleaseAnswer(Record):
    """What is served."""

    release: str
    index: str
    index_format: int
    index_kind: str
    components: str
    n_objects: int
    dimension: int
    """Components of a vector."""
    id_type: Literal["int64", "string"]
    n_shards: int
    created_utc: str
    """When the index was finished."""


class NeighbourRow(Record):
    """One neighbour."""

    rank: int
    """1 is nearest."""
    object_id: str
    ra_deg: float
    dec_deg: float
    distance: float
    """L1, in component space."""
    separation_arcsec: float | None
    """From the object that was asked about."""


class Neighbourhood(Record):
    """The answer to one query."""

    query: int
    """Its number in the question, from 0."""
    query_id: str | None
    """The object that was asked about."""
    match_arcsec: float | None
    """Separation of the position that was asked from that object."""
    status: str
    """ok, or why there is no answer."""
    exactness: str | None
    unseen_distance: float | None
    """No object that was not compared is nearer than this; null where every object was compared."""
    neighbours: tuple[NeighbourRow, ...]


class NeighboursAnswer(Record):
    """Neighbours of every query, in order."""

    release: str
    index: str
    """Its id: another one may answer otherwise."""
    recall: float | None
    """Of approximate answers: the share of the true neighbours that was found when the index was built; null: exact."""
    shards_asked: int
    """Shards of the index that took part, by being searched or by a proof that nothing in them is nearer."""
    n_shards: int
    """Of the whole index."""
    answers: tuple[Neighbourhood, ...]


class ConeRow(Record):
    """One object of a cone."""

    object_id: str
    ra_deg: float
    dec_deg: float
    separation_arcsec: float


class ConeAnswer(Record):
    """Objects of a cone, the nearest to its centre first."""

    release: str
    n_found: int
    """In the cone; more than are listed where there are too many."""
    objects: tuple[ConeRow, ...]


class ObjectAnswer(Record):
    """What the release knows about an object."""

    release: str
    object_id: str
    ra_deg: float
    dec_deg: float
    components: tuple[float, ...]
    columns: dict[str, Plain]
    """Other columns of the catalogue; numbers that are not finite are null."""


class CampaignAnswer(Record):
    """A campaign."""

    name: str
    release_id: str
    components: str
    config: CampaignConfig
    created_utc: str


class CampaignsAnswer(Record):
    """All campaigns on the release that is served."""

    campaigns: tuple[CampaignAnswer, ...]


class AskedObject(Record):
    """A question, and what is expected of the rating; null where nothing is known yet."""

    object_id: str
    mean: float | None
    sd: float | None
    acquisition: float | None


class NextAnswer(Record):
    """What a rater is asked about, in order."""

    campaign: str
    rater: str
    ranking: int
    asked: tuple[AskedObject, ...]


class RecordedEvent(Record):
    """Something that was recorded."""

    sequence: int
    request: str
    object_id: str
    kind: Literal["rate", "undo"]
    rating: int | None
    undoes: str | None
    at_utc: str


class RecordedAnswer(Record):
    """What a request recorded; the same request is answered alike again."""

    recorded: tuple[RecordedEvent, ...]


class RatingRow(Record):
    """A rating that holds, and what was expected of it when it was asked for."""

    object_id: str
    rater: str
    rating: int
    expected_rating: float | None
    expected_rating_sd: float | None
    request: str
    at_utc: str


class RatingsAnswer(Record):
    """Ratings that hold, in the order in which they were given."""

    n_ratings: int
    """All of them, listed here or not."""
    ratings: tuple[RatingRow, ...]


class WrongValue(Record):
    """One thing that is wrong with a request."""

    where: str
    said: str


class Problem(Record):
    """Every error, as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    reason: str
    """One word for programs."""
    request: str
    """Names this request in the service's log."""
    errors: tuple[WrongValue, ...] = ()
