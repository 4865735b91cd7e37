"""An experiment: by how much a pretrained encoder helps on a new question, with few labels and with many."""

from typing import Any, Literal

from pydantic import Field, field_validator

from schemas.config import CatalogueConfig, CutoutConfig, RayConfig, Section
from schemas.manifest import Record
from schemas.model import Depth, Head, SplitConfig

CELLS = "cells"
RESULTS = "results.csv"
SUMMARY = "summary.csv"
EXPERIMENT = "experiment.json"


class ExperimentJob(Section):
    """Encoders x depths x numbers of labels x repeats on one table of labels (Walmsley et al. 2022, Section 4)."""

    catalogue: CatalogueConfig
    labels: str = Field(description="Parquet or CSV of ids and two kinds of labels; local or s3://")
    output: str = Field(description="folder or s3:// URI for cells, tables and figures")
    encoders: dict[str, str | None] = Field(
        min_length=1, description="name: weights, a model, or null for random weights, which are trained from scratch"
    )
    architecture: str = Field("efficientnet_b0", description="a timm model name")
    preset: str = Field("walmsley2022", description="name of a preset, or a .yaml file of one")
    cutouts: CutoutConfig = CutoutConfig()
    id_column: str = Field("object_id", description="column of the labels table")
    label_column: str | None = Field(None, description="the only other column when null")
    positive: str | None = Field(None, description="the label that is the positive class; the last in order when null")
    depths: tuple[Depth, ...] = Field(
        ("head", "top", "7", "6", "5", "4", "all"), min_length=1, description="as of voorwerp finetune"
    )
    counts: tuple[int, ...] = Field((20, 50, 100, 200, 500), min_length=1, description="labels to train on")
    repeats: int = Field(5, ge=1, description="each with a split of its own")
    split: SplitConfig = SplitConfig()
    head: Head = Field("paper", description="paper: 64-64 with dropout 0.75; or one linear layer")
    batch: int = Field(128, ge=8, description="objects of one step")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam, for the head, and from scratch")
    deep_learning_rate: float = Field(1e-5, gt=0, description="of Adam, once the encoder learns")
    most_images: int = Field(
        5_000_000, ge=1, description="cutouts that one training may see, repeats counted: 5e6 in the paper"
    )
    seed: int = Field(0, ge=0, description="of everything random")
    ray: RayConfig = RayConfig()

    @field_validator("encoders")
    @classmethod
    def _plain_names(cls, encoders: dict[str, str | None]) -> dict[str, str | None]:
        for name in encoders:
            if not name.replace("-", "").isalnum():
                raise ValueError(f"expected letters, digits and hyphens, found {name!r}")
        return encoders

    @field_validator("counts")
    @classmethod
    def _enough(cls, counts: tuple[int, ...]) -> tuple[int, ...]:
        if min(counts) < 2:
            raise ValueError("expected at least two labels to train on")
        return tuple(sorted(set(counts)))


class Cell(Record):
    """One training of an experiment, done."""

    format: Literal[1] = 1
    encoder: str
    weights: str | None
    """SHA-256 of what the encoder began with; None for random weights."""
    depth: str
    count: int
    repeat: int
    n_test: int
    metrics: dict[str, float]
    best_epoch: int
    epochs: int
    seconds: float

    @property
    def name(self) -> str:
        """Of its record."""
        return cell_name(self.encoder, self.depth, self.count, self.repeat)


class Experiment(Record):
    """Which experiment an output holds."""

    format: Literal[1] = 1
    identity: dict[str, Any]


def cell_name(encoder: str, depth: str, count: int, repeat: int) -> str:
    """Name a cell's record."""
    return f"{encoder}-{depth}-{count}-{repeat}"
