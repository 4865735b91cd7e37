"""Models: how they are trained from votes or labels, what they are, and how well they do."""

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.config import CatalogueConfig, CutoutConfig, Device, RayConfig, Section
from schemas.manifest import FileRecord, Record

Part = Literal["train", "validation", "test"]
PARTS: tuple[Part, ...] = ("train", "validation", "test")
Head = Literal["paper", "linear"]

MODEL = "model.json"
ENCODER = "encoder.safetensors"
HEAD = "head.safetensors"
SPLITS = "splits.parquet"
SCORES = "scores"
RANKED = "ranked.csv"


class SplitConfig(Section):
    """Which objects train, which decide when to stop, which measure."""

    validation: float = Field(0.1, gt=0, lt=1, description="share of objects that decide when to stop")
    test: float = Field(0.2, gt=0, lt=1, description="share of objects that the model is measured with")
    same_arcsec: float = Field(
        100.0, ge=0, description="objects this close on the sky may be one: they stay in one part"
    )


class TrainingConfig(Section):
    """How a network learns from cutouts."""

    batch: int = Field(512, ge=8, description="cutouts of one step, over all workers; rounded down to a multiple of 8")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam")
    rate: Literal["constant", "cosine"] = Field("constant", description="cosine: falls to 0 over most_epochs")
    most_epochs: int = Field(200, ge=1, description="epochs at most")
    patience: int = Field(8, ge=1, description="epochs without a better validation loss that end the training")
    dropout: float = Field(0.2, ge=0, lt=1, description="before the head")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="bfloat16: mixed precision")
    workers: int | None = Field(
        None, ge=1, le=8, description="1, 2, 4 or 8 that share each batch; one per GPU, else 1, when null"
    )
    device: Device = Field("auto", description="auto: GPUs where the cluster has any")
    memory_mib: int = Field(2048, ge=0, description="cutouts that fit stay in memory; else every epoch reads them")
    checkpoint_seconds: float = Field(
        60.0, ge=0, description="time between checkpoints, each after a whole epoch; 0: after every epoch"
    )
    seed: int = Field(0, ge=0, description="of splits, weights, order, views and dropout")


class PretrainJob(Section):
    """A pretraining: an encoder learns to predict what volunteers answer."""

    catalogue: CatalogueConfig
    votes: str = Field(description="Parquet, CSV, FITS or VOTable of votes per answer; local or s3://")
    output: str = Field(description="folder or s3:// URI for the model")
    votes_id_column: str = Field("object_id", description="column of ids in the votes table")
    tree: str = Field("gz_decals", description="gz_decals, gz2, euclid, or a .yaml file: what was asked")
    questions: tuple[str, ...] = Field((), description="only these questions of the tree; all when empty")
    architecture: str = Field("efficientnet_b0", description="a timm model name")
    weights: str | None = Field(None, description="weights to begin with; random when null")
    preset: str = Field("walmsley2022", description="name of a preset, or a .yaml file of one")
    cutouts: CutoutConfig = CutoutConfig()
    split: SplitConfig = SplitConfig()
    training: TrainingConfig = TrainingConfig()
    ray: RayConfig = RayConfig()


Depth = Annotated[str, Field(coerce_numbers_to_str=True)]
"""From where an encoder learns; YAML takes `7` for a number."""


class FinetuneJob(Section):
    """A fine-tuning: some labels on the objects of a release."""

    release: str = Field(description="output folder of a release")
    labels: str = Field(description="Parquet or CSV of ids and labels; local or s3://")
    output: str = Field(description="folder or s3:// URI for the model and the scores")
    id_column: str = Field("object_id", description="column of the labels table")
    label_column: str | None = Field(None, description="the only other column when null")
    count_columns: tuple[str, ...] = Field(
        (), description="instead of a label: columns of votes for each answer to one question"
    )
    kind: Literal["auto", "binary", "classes", "regression"] = Field(
        "auto", description="auto: two values are binary, text or few whole numbers classes, other numbers a regression"
    )
    positive: str | None = Field(None, description="the label that is the positive class; the last in order when null")
    head: Head = Field("paper", description="paper: 64-64 with dropout 0.75; or one linear layer")
    depth: Depth = Field(
        "head",
        description="head: on the embeddings that are there, in seconds; top, 7, 6, 5, 4 ... 1, all: then the encoder "
        "from that block on as well",
    )
    split: SplitConfig = SplitConfig()
    balance: bool = Field(True, description="repeat rarer classes in training, as the paper did with rings")
    learning_rate: float = Field(1e-3, gt=0, description="of Adam, for the head")
    deep_learning_rate: float = Field(1e-5, gt=0, description="of Adam, once the encoder learns")
    layer_decay: float | None = Field(
        None, gt=0, le=1, description="the rate of each block is this times that of the next; one rate when null"
    )
    batch: int = Field(128, ge=8, description="objects of one step")
    most_epochs: int | None = Field(None, ge=1, description="5e6 / training rows, as in the paper, when null")
    device: Device = Field("auto", description="for depths below the head; auto: GPUs where the cluster has any")
    memory_mib: int = Field(2048, ge=0, description="cutouts that fit stay in memory; else every epoch reads them")
    seed: int = Field(0, ge=0, description="of splits, weights, order, views and dropout")
    ray: RayConfig = RayConfig()


class PredictJob(Section):
    """A prediction: what a model says of every object of a release that its encoder embedded."""

    model: str = Field(description="folder of a model")
    release: str = Field(description="output folder of a release, or of its embed stage; the table goes there")
    ray: RayConfig = RayConfig()


class Model(Record):
    """`model.json` of a model."""

    format: Literal[2] = 2
    identity: dict[str, Any]
    kind: Literal["votes", "counts", "binary", "classes", "regression"]
    names: list[str]
    """Of votes, the columns of all answers; else of the scores."""
    head: Head
    dimension: int
    centre: float = 0.0
    width: float = 1.0
    """Of a regression's labels."""
    architecture: str
    preset: dict[str, Any]
    """How cutouts became the encoder's input."""
    encoders: list[str]
    """Ids under which releases know the encoder."""
    tree: dict[str, Any] | None = None
    """The questions of votes."""
    counts: dict[str, int]
    """What was given, what could not be used, what is in each part, what was scored."""
    metrics: dict[str, float]
    """On the test part, which took no part in training."""
    best_epoch: int
    training_losses: list[float]
    validation_losses: list[float]
    files: list[FileRecord]
    versions: dict[str, str]
    durations_s: dict[str, float]
    created_utc: str
