"""Releases as HATS collections, for other tools."""

from typing import Literal

from pydantic import Field

from schemas.config import Section

Extension = Literal["embeddings", "predictions", "map"]


class HatsJob(Section):
    """A collection: the components of a release, with what lies around their partitions and with other tables."""

    source: str = Field(
        description="output folder of a release, or any folder with a HATS catalogue, such as ranked/candidates"
    )
    output: str = Field(description="new folder or s3:// URI for the collection")
    name: str | None = Field(None, description="of the collection; the last part of the output's name when null")
    margin_arcsec: float = Field(
        10.0, ge=0, le=3600, description="cross-matches up to this radius find everything; 0: no margin"
    )
    extensions: tuple[Extension, ...] = Field(
        ("embeddings",), description="tables of the release that can be joined: embeddings, the newest predictions, map"
    )
