"""Routes about campaigns: be asked, rate, take back. Who rates is whose token it is, never a parameter."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query

from engine.service.answers import campaign_answer, ratings_answer, recorded_answer
from engine.service.protocols import Campaigns
from engine.service.security import Caller, caller_with, forbidden
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

Reader = Annotated[Caller, Depends(caller_with("read"))]
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

    @router.get("/v1/campaigns/{name}")
    def one_campaign(_: Reader, name: CampaignName) -> CampaignAnswer:
        """Read a campaign."""
        return campaign_answer(campaigns.campaign(name))

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
        if asked.everyone and "admin" not in caller.scopes:
            raise forbidden("admin", "expected a token of scope admin for the ratings of everyone")
        if not asked.everyone and caller.rater is None:
            raise forbidden("rate", "expected a token of a rater")
        return ratings_answer(campaigns.ratings(name, None if asked.everyone else caller.rater), asked.start, asked.n)

    return router
