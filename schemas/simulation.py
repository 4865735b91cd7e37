"""A simulated survey: which galaxies, how many, how they are observed."""

from typing import Literal

from pydantic import Field, field_validator

from schemas.config import RayConfig, Section, StretchConfig

Kind = Literal["smooth", "disc", "ring", "edge-on", "irregular", "merger", "star", "artifact"]
"""What an object is."""
Oddity = Literal["none", "voorwerp", "arc", "polar-ring", "jet", "double-nucleus", "shells"]
"""What one object in thousands has beside it."""
SHARES: dict[Kind, float] = {
    "smooth": 0.40,
    "disc": 0.34,
    "ring": 0.04,
    "edge-on": 0.11,
    "irregular": 0.03,
    "merger": 0.03,
    "star": 0.025,
    "artifact": 0.025,
}


CATALOGUE, VOTES, TRUTH = "catalogue", "votes", "truth"
"""Tables of a simulated survey."""
DISPLAY = StretchConfig(kind="lupton", rgb_bands=(2, 1, 0), lupton_q=8.0, lupton_stretch=12.0)
"""How fluxes become a JPEG: z, r and g as red, green and blue. For FITS cutouts, `cutouts.stretch` of a release."""


class SimulateJob(Section):
    """A simulated survey."""

    output: str = Field(description="folder or s3:// URI for the catalogue, votes, truth and cutouts")
    n: int = Field(1000, ge=1, description="galaxies")
    side: int = Field(64, ge=32, le=512, description="side of a cutout in pixels")
    format: Literal["jpeg", "fits"] = Field("jpeg", description="jpeg: colour as seen; fits: fluxes in three bands")
    container: Literal["files", "tar"] = Field("files", description="single files, or tars of up to 1,000")
    seed: int = Field(0, ge=0, description="the same seed makes the same survey, whatever the machine")
    shares: dict[Kind, float] = Field(SHARES, description="how common each kind is")
    odd_share: float = Field(0.002, ge=0, le=1, description="share of galaxies with something one-off")
    volunteers: float = Field(40, gt=0, description="mean number per galaxy")
    agreement: float = Field(20, gt=0, description="how closely they follow the truth")
    first_id: int = Field(0, ge=0, description="object ids count from here")
    centre_deg: tuple[float, float] = Field((180.0, 30.0), description="RA and Dec of the middle of the field")
    ray: RayConfig = RayConfig()

    @field_validator("shares")
    @classmethod
    def _some(cls, shares: dict[Kind, float]) -> dict[Kind, float]:
        if min(shares.values(), default=0) < 0 or sum(shares.values()) <= 0:
            raise ValueError("expected shares that are not negative, and one above 0")
        return shares
