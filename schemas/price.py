"""Prices, to turn a prediction into money. A file of its own, no part of a job: prices change, a release does not."""

from pydantic import Field

from schemas.config import Section


class PriceTable(Section):
    """What machines and an object store cost. What is left out costs nothing."""

    currency: str = Field(min_length=1, description="shown behind every amount")
    per_cpu_hour: float = Field(0.0, ge=0, description="one core for an hour, its memory included")
    per_gpu_hour: float = Field(0.0, ge=0, description="one GPU for an hour")
    per_1000_get: float = Field(0.0, ge=0, description="1,000 GET or HEAD requests")
    per_1000_put: float = Field(0.0, ge=0, description="1,000 PUT, POST or LIST requests")
    per_gb_month: float = Field(0.0, ge=0, description="10^9 bytes kept for a month")
    per_gb_egress: float = Field(0.0, ge=0, description="10^9 bytes of cutouts read; 0 within the store's own region")
