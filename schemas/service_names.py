"""Messages of the service about names of objects elsewhere, such as M 31."""

from pydantic import Field

from schemas.config import Section
from schemas.manifest import Record


class NameParameters(Section):
    """A name as astronomers use it."""

    name: str = Field(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")


class PlaceAnswer(Record):
    """Where an object of this name is, ICRS."""

    name: str
    ra_deg: float
    dec_deg: float
