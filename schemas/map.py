"""Maps of a release: the job, and what its manifest says."""

from typing import Literal

from pydantic import Field

from schemas.config import RayConfig, Section
from schemas.manifest import Record

PAGE_WIDTH_MM = {"a4": 210.0, "a3": 297.0}
PAGE_HEIGHT_MM = {"a4": 297.0, "a3": 420.0}


class AtlasConfig(Section):
    """The figure: thumbnails of galaxies where they are on the map."""

    path: str | None = Field(None, description=".png or .pdf file; no figure when null")
    where: str | None = Field(
        None, description="a condition on the catalogue's columns: only such galaxies, and the map where they are"
    )
    page: Literal["a4", "a3"] = Field("a4", description="the figure is as wide as this page, at 300 dots per inch")
    columns: int = Field(40, ge=1, le=400, description="thumbnails across the page")
    paper: Literal["black", "white"] = Field("black", description="between thumbnails; galaxies lie on black sky")


class MapJob(Section):
    """A map of a release: every object in two dimensions."""

    release: str = Field(description="output folder of a release")
    sample: int = Field(50_000, ge=10, le=2_000_000, description="objects that UMAP is fitted on; the rest is placed")
    neighbours: int = Field(15, ge=2, le=200, description="of each object, that the map is to keep near")
    min_distance: float = Field(0.1, ge=0, le=1, description="how close objects may lie on the map")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of the sample and of UMAP")
    points: int = Field(1_000_000, ge=1, le=4_000_000, description="objects that a page of the map shows at most")
    device: Literal["cpu", "cuda"] = Field("cpu", description="cuda: fit with cuML, whose maps are other maps")
    figure: AtlasConfig = AtlasConfig()
    ray: RayConfig = RayConfig()


class MapColumn(Record):
    """A numeric column that points of a map can be coloured by."""

    name: str
    minimum: float | None
    """Of the values that are finite; null where none is, and so on."""
    maximum: float | None
    low: float | None
    """2nd percentile: where a scale of colours may begin."""
    high: float | None
    """98th percentile."""
    n_missing: int
    """Points without a finite value."""


class MapDetail(Record):
    """What the manifest of a map says of it, besides its partitions."""

    x_min: float
    x_max: float
    y_min: float
    y_max: float
    """Of all objects."""
    columns: tuple[MapColumn, ...]
    n_points: int
    """Objects in the file of points."""
