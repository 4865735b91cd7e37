"""Job configs: closed, typed, one section per stage. A job is a YAML file with these keys, or options that set them."""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError, field_validator, model_validator

from schemas.errors import ConfigError, InputNotFoundError
from schemas.index import IndexKind
from schemas.space import SpaceName
from schemas.validation import describe

Device = Literal["auto", "cpu", "cuda"]

PAPER_EXCLUSION_ARCSEC = 100.0
"""Neighbours closer than this on the sky may be the same galaxy listed twice (Walmsley et al. 2022, Section 5)."""


class Section(BaseModel):
    """A closed part of a config: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Job = TypeVar("Job", bound=Section)


class CatalogueConfig(Section):
    """Which table lists the galaxies, and what its columns are called."""

    path: str = Field(description="file, folder or s3:// URI: Parquet, CSV, FITS table, VOTable or HATS")
    format: Literal["parquet", "csv", "fits", "votable", "hats"] | None = Field(
        None, description="found from the name when null"
    )
    id_column: str = Field("object_id", description="64-bit integer or string, unique")
    ra_column: str = Field("ra_deg", description="right ascension, degrees in [0, 360)")
    dec_column: str = Field("dec_deg", description="declination, degrees in [-90, 90]")
    cutout_column: str = Field("cutout", description="URI, path into a .tar or .h5, or image bytes")
    cutout_root: str | None = Field(
        None, description="what relative URIs start from; the folder that holds the catalogue when null"
    )
    columns: tuple[str, ...] | None = Field(
        None, description="other columns to read and carry through to every table; all when null"
    )
    on_duplicate: Literal["stop", "first"] = Field("stop", description="stop with a list, or keep the first row")


class StretchConfig(Section):
    """How FITS pixel values become [0, 1]. JPEG and PNG are already stretched and are only divided by their maximum."""

    kind: Literal["linear", "asinh", "lupton"] = Field("asinh", description="lupton: RGB of Lupton et al. 2004")
    low: float | None = Field(None, description="pixel value shown as 0; a percentile of the cutout when null")
    high: float | None = Field(None, description="pixel value shown as 1; a percentile of the cutout when null")
    percentile: float = Field(99.5, gt=0, le=100, description="central percentage of the pixels between low and high")
    asinh_a: float = Field(0.1, gt=0, le=1, description="where asinh turns from linear to logarithmic, in (0, 1]")
    lupton_q: float = Field(8.0, gt=0, description="asinh softening of the Lupton stretch")
    lupton_stretch: float = Field(5.0, gt=0, description="linear stretch of the Lupton image, in pixel values")
    rgb_bands: tuple[NonNegativeInt, NonNegativeInt, NonNegativeInt] = Field(
        (0, 1, 2), description="which planes are red, green and blue"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low ({self.low}) must be smaller than high ({self.high})")
        return self


class CutoutConfig(Section):
    """How cutouts are read."""

    stretch: StretchConfig = StretchConfig()
    max_bytes: int = Field(64 * 2**20, gt=0, description="larger cutouts are rejected as too_large")
    max_pixels: int = Field(64 * 10**6, gt=0, description="cutouts with more pixels are rejected as too_large")
    max_seconds: float = Field(
        300.0,
        gt=0,
        description="a cutout that takes longer costs its worker; if it does so alone, it is rejected",
    )
    check_md5: bool = Field(True, description="compare single files with their ETag on S3 where that is an MD5")
    min_side_pixels: int = Field(8, ge=1, description="cutouts with a shorter side are rejected as shape")


class EncoderConfig(Section):
    """Which network. There is no default: a release names its encoder."""

    architecture: str | None = Field(
        None, description="a timm model name, for example efficientnet_b0; a model's own when null"
    )
    weights: str = Field(
        description=".safetensors or .pt file or the folder of a model, local or s3://; hf-hub:NAME; or package:lite0"
    )


class PlanConfig(Section):
    """How the catalogue is cut into pieces."""

    rows_per_partition: int = Field(20_000, ge=1, description="most rows in one HATS partition (one Parquet file)")
    rows_per_unit: int | None = Field(
        None,
        ge=1,
        description="most rows in one unit of work; a 64th of the catalogue in [32, 512] when null",
    )


class EmbedConfig(Section):
    """How cutouts become embeddings."""

    preset: str | None = Field(
        None, description="name of a preset, or a .yaml file of one; a model's own, else walmsley2022, when null"
    )
    views: int = Field(1, ge=1, le=64, description="1: centre crop; n: mean over n random views, seeded by object id")
    batch_size: int = Field(
        32, ge=1, le=4096, description="views that an encoder is given at once: a CPU fewer, a GPU tries more"
    )
    workers: int | None = Field(None, ge=1, description="encoder actors; one per GPU, else one per core when null")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", description="of the encoder's arithmetic; bfloat16 changes vectors by about 1 %, float16 needs a GPU"
    )
    runtime: Literal["auto", "torch", "openvino"] = Field(
        "auto", description="auto: OpenVINO on CPUs, torch.compile on GPUs, where they work and agree with PyTorch"
    )
    stages: Literal["auto", "together", "apart"] = Field(
        "auto", description="reading, encoding and writing in one worker or in several; auto: apart with GPUs"
    )
    max_reject_fraction: float = Field(
        0.25,
        ge=0,
        le=1,
        description="more rejects among the cutouts seen stop the run (judged from 1,000 on)",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: GPUs where the cluster has any")


class ReduceConfig(Section):
    """How embeddings become components."""

    spaces: tuple[SpaceName, ...] = Field(
        ("search",), min_length=1, description="search (10 components), map (15), anomaly (40, unit variance)"
    )
    n_components: int | None = Field(None, ge=1, le=4096, description="of the search space; 10 when null")
    method: Literal["exact", "reference"] = Field(
        "exact", description="reference: scikit-learn's sequential algorithm, as in the paper; slower, less exact"
    )
    scheduler: str = Field("ray", description="ray, or the tcp:// address of a dask.distributed scheduler")

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, value: str) -> str:
        if value != "ray" and not value.startswith(("tcp://", "tls://", "inproc://")):
            raise ValueError("expected 'ray' or a tcp:// or tls:// address")
        return value


class IndexConfig(Section):
    """How components become a searchable index."""

    kind: IndexKind = Field(
        "ivf-flat", description="FAISS index for approximate answers: ivf-flat, hnsw-flat or flat; exact ones need none"
    )
    shard_mib: int = Field(128, ge=1, description="memory that one shard takes when it is searched")
    rows_per_shard: int | None = Field(
        None, ge=1, description="objects in one shard, about; as many as fit into shard_mib when null"
    )
    cells: int | None = Field(None, ge=1, le=65_536, description="cells of component space; 4 sqrt(objects) when null")


class RayConfig(Section):
    """Where work runs."""

    address: str | None = Field(None, description="of a Ray cluster; RAY_ADDRESS, else a local cluster, when null")
    num_cpus: int | None = Field(None, ge=1, description="logical CPUs of a local cluster; at least 4 when null")


class OntoConfig(Section):
    """Which release this one follows: what is the same in both is carried over, not computed again."""

    release: str = Field(description="output folder of the release before; may be this job's own output")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    basis: Literal["keep", "refit"] = Field(
        "keep",
        description="keep: principal components and cells of the release before; refit: both anew, as from scratch",
    )
    most_moved_arcsec: float = Field(
        60.0, gt=0, le=648_000, description="an object that moved further is refused: its id may be another galaxy's"
    )
    most_dropped: float = Field(
        0.5, ge=0, le=1, description="a larger fraction of dropped objects is refused: it may be another catalogue"
    )


class ThenConfig(Section):
    """What follows a release, with the keys of these jobs but `release`; null for what does not."""

    map: dict[str, Any] | None = Field(None, description="as of `voorwerp map`; {} for its defaults")
    predict: dict[str, Any] | None = Field(None, description="as of `voorwerp predict`: {model: FOLDER}")
    rank: dict[str, Any] | None = Field(None, description="as of `voorwerp rank`: {output: FOLDER, campaign: NAME}")
    report: dict[str, Any] | None = Field(None, description="as of `voorwerp report`; {} for its defaults")


class PackConfig(Section):
    """How cutouts are packed."""

    rows_per_group: int = Field(64, ge=1, le=10_000, description="cutouts in one row group, which is read in one piece")


class PackJob(Section):
    """A packing: the cutouts of one catalogue into one HATS catalogue that holds them."""

    catalogue: CatalogueConfig
    output: str = Field(description="folder or s3:// URI that holds everything this job makes")
    cutouts: CutoutConfig = CutoutConfig()
    plan: PlanConfig = PlanConfig()
    pack: PackConfig = PackConfig()
    ray: RayConfig = RayConfig()


class ReleaseJob(Section):
    """A release: one catalogue, one encoder, one output."""

    catalogue: CatalogueConfig
    encoder: EncoderConfig
    output: str = Field(description="folder or s3:// URI that holds everything this job makes")
    onto: OntoConfig | None = Field(None, description="the release before; null for one that stands alone")
    cutouts: CutoutConfig = CutoutConfig()
    plan: PlanConfig = PlanConfig()
    embed: EmbedConfig = EmbedConfig()
    reduce: ReduceConfig = ReduceConfig()
    index: IndexConfig = IndexConfig()
    then: ThenConfig = ThenConfig()
    ray: RayConfig = RayConfig()


class QueryFileConfig(Section):
    """A file of queries. Columns are found by their names, object_id, ra_deg and dec_deg, or components, when null."""

    path: str = Field(description="Parquet, CSV, FITS table or VOTable; local or s3://")
    format: Literal["parquet", "csv", "fits", "votable"] | None = Field(
        None, description="found from the name when null"
    )
    id_column: str | None = Field(None, description="ask about objects of the release, by their ids")
    ra_column: str | None = Field(None, description="ask about positions: right ascension, degrees")
    dec_column: str | None = Field(None, description="declination, degrees")
    vector_column: str | None = Field(None, description="ask about vectors of component space")

    @model_validator(mode="after")
    def _both(self) -> Self:
        if bool(self.ra_column) != bool(self.dec_column):
            raise ValueError("ra_column and dec_column: expected both or neither")
        return self


class FilterConfig(Section):
    """Which objects may be answers: those that pass every filter that is given."""

    cone: tuple[float, float, float] | None = Field(
        None, description="RA and Dec in degrees and a radius in arcsec: objects within it"
    )
    moc: str | None = Field(None, description="a MOC file (FITS, JSON or text): objects on the sky that it covers")
    where: str | None = Field(
        None, description="a condition on the catalogue's columns, for example mag_r < 18 and not is_star"
    )

    @field_validator("cone")
    @classmethod
    def _is_cone(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value:
            ra_deg, dec_deg, radius_arcsec = value
            if not (0 <= ra_deg < 360 and -90 <= dec_deg <= 90 and 0 < radius_arcsec <= 648_000):
                raise ValueError("expected RA in [0, 360), Dec in [-90, 90] degrees and a radius in (0, 648000] arcsec")
        return value


class SearchSection(Section):
    """What every search has."""

    release: str = Field(description="output folder of a release")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    k: int = Field(16, ge=1, le=1000, description="neighbours per query")
    filter: FilterConfig = FilterConfig()
    exclusion_radius_arcsec: float = Field(
        0.0,
        ge=0,
        le=648_000,
        description="neighbours this close to the query on the sky are left out; 100 in the paper",
    )
    approximate: float | None = Field(
        None, gt=0, le=1, description="the recall that is enough, as measured for this index; exact answers when null"
    )
    device: Device = Field(
        "auto",
        description="cuda: compare everything on GPUs; else CPUs, which skip most of the catalogue; same answers",
    )
    output: str | None = Field(
        None,
        description=".parquet, .csv, .fits, .vot, .hats, or a folder (ending in /) for parts; the terminal when null",
    )
    ray: RayConfig = RayConfig()

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.approximate is not None and self.device == "cuda":
            raise ValueError("approximate: expected exact answers on a GPU, found both approximate and device: cuda")
        return self


class NeighboursJob(SearchSection):
    """A search: which objects, how many neighbours, which to leave out."""

    ids: tuple[str, ...] = Field((), description="object ids to search around")
    positions_deg: tuple[tuple[float, float], ...] = Field((), description="(RA, Dec) pairs in degrees")
    queries: QueryFileConfig | None = Field(None, description="a file of ids, positions or vectors to search around")
    match_radius_arcsec: float = Field(
        20.0, gt=0, le=648_000, description="a position further from any object is answered with a status, or warns"
    )
    include_self: bool = Field(False, description="also list the query object itself")

    @model_validator(mode="after")
    def _has_queries(self) -> Self:
        if not self.ids and not self.positions_deg and not self.queries:
            raise ValueError("expected at least one id, position or file of queries to search around, found none")
        if self.queries and (self.ids or self.positions_deg):
            raise ValueError("queries: expected a file of queries or single ids and positions, found both")
        for ra_deg, dec_deg in self.positions_deg:
            if not (0 <= ra_deg < 360 and -90 <= dec_deg <= 90):
                raise ValueError(
                    f"positions_deg: expected RA in [0, 360) and Dec in [-90, 90] degrees, found ({ra_deg}, {dec_deg})"
                )
        return self


class SimilarImageJob(SearchSection):
    """A search around new images."""

    images: tuple[str, ...] = Field(min_length=1, description="JPEG, PNG or FITS files, local or s3://")


class GraphJob(Section):
    """The k nearest neighbours of every object of a release."""

    release: str = Field(description="output folder of a release")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    k: int = Field(10, ge=1, le=1000, description="neighbours per object")
    output: str = Field(description="folder or s3:// URI for the parts")
    device: Device = Field("auto", description="cuda: compare everything on GPUs; same answers")
    ray: RayConfig = RayConfig()


class DuplicatesJob(Section):
    """The near-duplicates of a release."""

    release: str = Field(description="output folder of a release")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    distance: float | None = Field(
        None,
        ge=0,
        description="L1 distance up to which two objects are near-duplicates; a tenth of the median distance to the "
        "nearest neighbour when null",
    )
    radius_arcsec: float = Field(
        PAPER_EXCLUSION_ARCSEC, ge=0, le=36_000, description="separation up to which two objects are near-duplicates"
    )
    output: str = Field(description=".parquet, .csv, .fits, .vot, .hats, or a folder (ending in /) for parts")
    device: Device = Field("auto", description="cuda: compare everything on GPUs; same answers")
    ray: RayConfig = RayConfig()


def load_job(model: type[Job], path: Path | None, overrides: dict[str, Any]) -> Job:
    """Read a job from a YAML file, then apply overrides such as `{"embed.views": 4}`; either may be absent.

    Raises
    ------
    InputNotFoundError
        The file does not exist.
    ConfigError
        The file is not YAML, or its content with the overrides is not a valid job.
    """
    settings: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise InputNotFoundError(f"expected a YAML file, found nothing at {path}")
        try:
            settings = yaml.safe_load(path.read_text()) or {}
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ConfigError(f"{path}: expected keys and values, found {type(settings).__name__}")
    for key, value in overrides.items():
        *sections, last = key.split(".")
        place = settings
        for section in sections:
            place[section] = place.get(section) or {}
            place = place[section]
            if not isinstance(place, dict):
                raise ConfigError(f"{key}: {section} is a value, not a section")
        place[last] = value
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(describe(error, model)) from error
