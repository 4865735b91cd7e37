"""Routes about campaigns: be asked, rate, take back. Who rates is whose token it is, never a parameter."""

from typing import Annotated

import pyarrow as pa
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response

from engine.service.answers import campaign_answer, ratings_answer, recorded_answer
from engine.service.protocols import Campaigns
from engine.service.security import Caller, caller_with, forbidden
from engine.service.tables import TABLES, wanted, written
from schemas.campaign import Name
from schemas.service import (
    CampaignAnswer,
    CampaignsAnswer,
    NextAnswer,
    NextRequest,
    RateRequest,
    RatingsAnswer,
    RatingsParameters,
    RecordedAnswer,
)
from schemas.service_campaigns import CreateRequest, ExportParameters, RankingAnswer, RankingParameters
from schemas.tables import MEAN, OBJECT_ID, RANK, SD

Reader = Annotated[Caller, Depends(caller_with("read"))]
Admin = Annotated[Caller, Depends(caller_with("admin"))]
CampaignName = Annotated[Name, Path()]
Key = Annotated[
    Name, Header(alias="Idempotency-Key", description="Names this request: sent again, it changes nothing.")
]


def _rater(caller: Annotated[Caller, Depends(caller_with("rate"))]) -> str:
    if caller.rater is None:
        raise forbidden("rate", "expected a token of a rater")
    return caller.rater


_ANY = NextRequest()
Rater = Annotated[str, Depends(_rater)]


def routes(campaigns: Campaigns) -> APIRouter:
    """Make the routes."""
    router = APIRouter(tags=["campaigns"])

    @router.get("/v1/campaigns")
    def all_campaigns(_: Reader) -> CampaignsAnswer:
        """List the campaigns on the release that is served."""
        return CampaignsAnswer(campaigns=tuple(campaign_answer(one) for one in campaigns.all()))

    @router.post("/v1/campaigns", status_code=201)
    def create_campaign(_: Admin, asked: CreateRequest, response: Response) -> CampaignAnswer:
        """Make a campaign on the release that is served; the same again changes nothing, another is 409."""
        made = campaign_answer(campaigns.create(asked.name, asked.config))
        response.headers["Location"] = f"/v1/campaigns/{made.name}"
        return made

    @router.get("/v1/campaigns/{name}")
    def one_campaign(_: Reader, name: CampaignName) -> CampaignAnswer:
        """Read a campaign."""
        return campaign_answer(campaigns.campaign(name))

    @router.get("/v1/campaigns/{name}/ranking", response_model=RankingAnswer, responses=TABLES)
    def ranking(
        _: Reader, name: CampaignName, request: Request, asked: Annotated[RankingParameters, Query()]
    ) -> RankingAnswer | Response:
        """Rank the whole release by what everyone rated so far; asked again, it is ranked anew only after an event."""
        found = campaigns.ranking(name, asked.n)
        if (kind := wanted(request, asked.format)) == "json":
            return found
        said = {"campaign": name, "ranking": str(found.ranking), "stale": str(found.stale).lower()}
        return written(_ranked(found), kind, f"ranking-{name}", said)

    @router.post("/v1/campaigns/{name}/next")
    def next_objects(rater: Rater, name: CampaignName, asked: NextRequest = _ANY) -> NextAnswer:
        """Be asked about the next objects; those that were asked about and not rated yet are asked about again."""
        return campaigns.next(name, rater, asked.n)

    @router.post("/v1/campaigns/{name}/rate")
    def rate(rater: Rater, name: CampaignName, key: Key, given: RateRequest) -> RecordedAnswer:
        """Record ratings, all or none."""
        pairs = [(one.object_id, one.rating) for one in given.ratings]
        return recorded_answer(campaigns.rate(name, rater, pairs, key))

    @router.post("/v1/campaigns/{name}/undo")
    def undo(rater: Rater, name: CampaignName, key: Key) -> RecordedAnswer:
        """Take back the last rating that holds."""
        return recorded_answer([campaigns.undo(name, rater, key)])

    @router.get("/v1/campaigns/{name}/ratings")
    def ratings(caller: Reader, name: CampaignName, asked: Annotated[RatingsParameters, Query()]) -> RatingsAnswer:
        """Read the ratings that hold: those of the token's rater, or, for tokens of scope admin, everyone's."""
        return ratings_answer(campaigns.ratings(name, _whose(caller, asked.everyone)), asked.start, asked.n)

    @router.get("/v1/campaigns/{name}/export", response_class=Response, responses=TABLES)
    def export(caller: Reader, name: CampaignName, asked: Annotated[ExportParameters, Query()]) -> Response:
        """Save all ratings that hold, with what was expected of each when it was asked for; whose, as of ratings."""
        table = campaigns.ratings(name, _whose(caller, asked.everyone))
        return written(table, asked.format, f"ratings-{name}", {"campaign": name})

    return router


def _whose(caller: Caller, everyone: bool) -> str | None:
    """Whose ratings a caller may see: None for everyone's."""
    if everyone and "admin" not in caller.scopes:
        raise forbidden("admin", "expected a token of scope admin for the ratings of everyone")
    if not everyone and caller.rater is None:
        raise forbidden("rate", "expected a token of a rater")
    return None if everyone else caller.rater


def _ranked(found: RankingAnswer) -> pa.Table:
    columns = {
        RANK: pa.array([one.rank for one in found.ranked], pa.int64()),
        OBJECT_ID: pa.array([one.object_id for one in found.ranked], pa.string()),
        MEAN: pa.array([one.mean for one in found.ranked], pa.float64()),
        SD: pa.array([one.sd for one in found.ranked], pa.float64()),
    }
    return pa.table(columns)
