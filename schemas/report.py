"""The report card of a release: the job that makes it, and what it says. Everything in it may be published.

`report.json` is canonical JSON (`schemas.manifest.canonical`), so that its bytes can be signed. It names no places:
of a catalogue and of weights only the last part of their names.
"""

from pathlib import Path
from typing import Literal

import pyarrow as pa
from pydantic import Field

from schemas.config import RayConfig, Section
from schemas.index import IndexKind, Setting
from schemas.manifest import FileRecord, Kind, Record
from schemas.reject import RejectReason
from schemas.tables import DEC, RA

Flag = Literal["mean", "spread", "rejects", "change"]
"""Why a tile stands out: where its objects lie in component space, how far apart, how many were rejected, or how far
they moved since the previous release."""
FLAGS: dict[Flag, str] = {
    "mean": "its objects lie elsewhere in component space than those of other tiles",
    "spread": "its objects are more, or less, unlike each other than those of other tiles",
    "rejects": "more of its cutouts were rejected",
    "change": "its objects moved further since the previous release",
}
TILE = "tile"
N_OBJECTS = "n_objects"


class ReportJob(Section):
    """A report card of a release."""

    release: str = Field(description="output folder of a release")
    as_of: str | None = Field(None, description="id of a release record of that output; the current one when null")
    against: str | None = Field(
        None,
        description="previous release to compare with: an output folder, or the id of a release of this one; the one "
        "that it was made onto, where it is there, when null",
    )
    tile_objects: int = Field(
        500, ge=20, le=1_000_000, description="objects in one tile of the sky at most; tiles are HEALPix pixels"
    )
    duplicates: str | None = Field(None, description="folder of what `voorwerp duplicates` found in this release")
    prices: Path | None = Field(None, description="YAML file of prices, as of `voorwerp plan --preflight`")
    key: Path | None = Field(None, description="private key (`voorwerp keygen`) that signs the report")
    ray: RayConfig = RayConfig()


class Artefact(Record):
    """One artefact of the release."""

    kind: Kind
    id: str
    manifest_sha256: str
    created_utc: str
    counts: dict[str, int]
    n_files: int
    size_bytes: int


class Encoder(Record):
    """What turned cutouts into embeddings."""

    architecture: str
    weights: str
    """Last part of their name."""
    weights_sha256: str
    preset: str
    preset_sha256: str


class Rejected(Record):
    """Objects that were rejected for one reason."""

    reason: RejectReason
    meaning: str
    n: int


class Accounting(Record):
    """What became of every row of the catalogue."""

    n_planned: int
    n_embedded: int
    n_rejected: int
    n_carried: int = 0
    """Of those embedded: taken over as they were from the release `before`."""
    before: str | None = None
    """Id of the release that this one was made onto."""
    by_reason: tuple[Rejected, ...]
    """The most frequent first."""
    n_without_position: int
    """Rejects that have no valid position."""
    n_outside_tiles: int
    """Rejects that lie where nothing was embedded."""
    is_balanced: bool
    """Whether planned = embedded + rejected, in numbers and by the digest of all ids."""


class Tile(Record):
    """A tile that stands out."""

    tile: str
    """HEALPix order and pixel, nested: `5/1234`."""
    ra_deg: float
    dec_deg: float
    """Of its centre."""
    n_objects: int
    n_rejected: int
    flags: tuple[Flag, ...]
    distance: float | None
    """Of its mean from that of all tiles, in standard deviations of one object; null where it was not judged."""
    z_mean: float | None
    spread: float | None
    """Mean variance of its components, where that of all tiles is 1."""
    z_spread: float | None
    z_rejects: float | None
    change: float | None
    """Of its mean since the previous release, in standard deviations of one object."""
    z_change: float | None


class Drift(Record):
    """How tiles of the sky compare with the whole release, in whitened component space."""

    n_tiles: int
    n_judged: int
    """Tiles with enough objects; none where there are too few such tiles to compare."""
    tile_objects: int
    fewest_objects: int
    fewest_tiles: int
    threshold: float
    """Robust z-score from which a tile stands out."""
    n_components: int
    largest_z_mean: float | None
    largest_z_spread: float | None
    intrinsic_distance: float | None
    """How far means of tiles lie apart beyond what their numbers of objects explain: clusters, depth, seeing."""
    n_flagged: int
    """Tiles that stand out by anything."""
    n_by_flag: dict[Flag, int]
    flagged: tuple[Tile, ...]
    """The worst; all tiles are in `tiles.parquet`."""


class Comparison(Record):
    """A previous release of the same encoder, and what changed since."""

    release: str
    release_sha256: str
    created_utc: str
    n_objects: int
    """Of the previous release."""
    n_matched: int
    """Objects of one id in both, in the same partition of the sky."""
    n_unchanged: int
    """Of these, those whose components are the same to a thousandth of a standard deviation."""
    is_by_object: bool
    """Whether tiles were compared by the movement of matched objects; else by the means of all."""
    is_same_basis: bool
    """Whether both releases have the same principal components; else the previous embeddings were projected anew."""
    median_change: float | None
    """Of tiles' means, in standard deviations of one object."""
    largest_z_change: float | None
    n_flagged: int


class Repeats(Record):
    """Objects whose components are equal to those of another, bit by bit: L1 distance zero."""

    n_objects: int
    n_groups: int
    largest_group: int
    examples: tuple[tuple[str, ...], ...]
    """Ids of some groups, the largest first."""


class NearDuplicates(Record):
    """What `voorwerp duplicates` found."""

    answer: str
    """Its id."""
    distance: float
    radius_arcsec: float
    n_by_distance: int
    n_by_sky: int
    n_both: int


class Recall(Record):
    """What approximate searches of the index were measured to find; exact ones find everything."""

    kind: IndexKind
    k: int
    n_held_out: int
    settings: tuple[Setting, ...]


class Stage(Record):
    """How long a stage took."""

    name: str
    seconds: float
    objects_per_s: float | None


class Price(Record):
    """Money, by the price table that was given."""

    currency: str
    per_million: float
    whole: float
    """Of embedding every cutout of the release."""
    per_gpu_hour: float
    per_cpu_hour: float


class Cost(Record):
    """What it took."""

    stages: tuple[Stage, ...]
    cutouts_per_s: float | None
    """While workers were at work."""
    device: str | None
    workers: int | None
    gpu_s_per_million: float | None
    """Seconds that GPUs were held for a million cutouts; null where none was used."""
    cpu_s_per_million: float | None
    price: Price | None


class Report(Record):
    """A report card."""

    format: Literal[1] = 1
    id: str
    created_utc: str
    release: str
    release_sha256: str
    """Of the release's record, which names every artefact's manifest by its hash, and these every file by its."""
    release_created_utc: str
    catalogue: str
    """Last part of its name."""
    encoder: Encoder
    artefacts: tuple[Artefact, ...]
    findings: tuple[str, ...]
    """What a person should look at; empty where nothing stands out."""
    accounting: Accounting
    drift: Drift
    comparison: Comparison | None
    repeats: Repeats
    near_duplicates: NearDuplicates | None
    explained_variance: tuple[float, ...]
    """Share of the variance of embeddings in each component."""
    recall: Recall
    cost: Cost
    versions: dict[str, str]
    """With which the release was made."""
    code_sha256: str
    """Of the code that wrote the report."""
    files: tuple[FileRecord, ...] = ()
    """The page, the tiles and the provenance, beside the report."""


def tiles_schema() -> pa.Schema:
    """Schema of `tiles.parquet`: every tile of the sky; numbers are null where a tile was not judged."""
    measured = [pa.field(name, pa.float64()) for name in MEASURED]
    return pa.schema(
        [
            pa.field(TILE, pa.string(), nullable=False),
            pa.field(RA, pa.float64(), nullable=False),
            pa.field(DEC, pa.float64(), nullable=False),
            pa.field(N_OBJECTS, pa.int64(), nullable=False),
            pa.field("n_rejected", pa.int64(), nullable=False),
            *measured,
            pa.field("flags", pa.list_(pa.string()), nullable=False),
        ]
    )


MEASURED = ("distance", "z_mean", "spread", "z_spread", "z_rejects", "change", "z_change")
