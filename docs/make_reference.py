"""Writes docs/reference.md from the schemas, so that it cannot say anything else than the code. Run: make docs."""

import ast
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.cli_options import EXIT_CODES
from schemas import tables
from schemas.campaign import METHODS, CampaignConfig, RankJob, SimulatedCampaignJob
from schemas.config import DuplicatesJob, GraphJob, NeighboursJob, OntoConfig, QueryFileConfig, ReleaseJob
from schemas.deploy import DeployConfig
from schemas.diff import DiffJob
from schemas.experiment import ExperimentJob
from schemas.hats import HatsJob
from schemas.map import MapJob
from schemas.metrics import METRICS, Metric
from schemas.model import FinetuneJob, PretrainJob
from schemas.preset import Preset, load_preset, preset_names
from schemas.price import PriceTable
from schemas.reject import RejectReason
from schemas.report import ReportJob, tiles_schema
from schemas.service import ServeConfig
from schemas.simulation import SimulateJob
from schemas.tables import (
    ACQUISITION,
    COMPONENTS,
    CUTOUT,
    CUTOUT_SIZE,
    CUTOUT_VERSION,
    EMBEDDING,
    MEAN,
    NEAREST_DISTANCE,
    NEAREST_RATED,
    RANK,
    RATING,
    SD,
    UNITS,
    changes_schema,
    graph_schema,
    map_schema,
    neighbour_changes_schema,
    neighbours_schema,
    pairs_schema,
    rejects_schema,
    with_vectors,
)
from schemas.tree import Question, load_tree, tree_names

TARGET = Path(__file__).parent / "reference.md"


def reference() -> str:
    """Compose the whole page."""
    parts = [
        "# Reference",
        "Generated from the schemas by `make docs`.",
        "## Job of a release",
        "Keys of the YAML file of `voorwerp release`, `plan`, `embed`, `reduce` and `index`. "
        "On the command line any of them is `--set key=value`. Unknown keys are refused.",
        _job(ReleaseJob),
        "`onto`, the release before, has these keys:",
        _job(OntoConfig),
        "`voorwerp diff`, which compares two releases:",
        _job(DiffJob),
        "## Search",
        "What the options of `voorwerp neighbours` set; `voorwerp similar-image` takes images and most of them.",
        _job(NeighboursJob),
        "`queries`, a file of queries, has these keys:",
        _job(QueryFileConfig),
        "`voorwerp graph`:",
        _job(GraphJob),
        "`voorwerp duplicates`:",
        _job(DuplicatesJob),
        "## Presets",
        _table(("name", "meaning", "SHA-256 begins"), [_preset_row(name) for name in preset_names()]),
        "A preset of your own is a YAML file with these keys:",
        _job(Preset),
        "## Prices",
        "Keys of the YAML file that `voorwerp plan --preflight --prices` takes.",
        _job(PriceTable),
        "## Pretraining",
        "Keys of the job of `voorwerp pretrain`.",
        _job(PretrainJob),
        "## Fine-tuning",
        "What the options of `voorwerp finetune` set; `--set` sets any of them.",
        _job(FinetuneJob),
        "## Experiments",
        "Keys of the job of `voorwerp experiment`.",
        _job(ExperimentJob),
        "## Campaigns",
        "What `--set` sets of `voorwerp campaign create`:",
        _job(CampaignConfig),
        "Of `voorwerp rank`:",
        _job(RankJob),
        "Of `voorwerp campaign simulate`, whose methods are: "
        + "; ".join(f"`{name}`, {meaning[0].lower()}{meaning[1:]}" for name, meaning in METHODS.items())
        + ".",
        _job(SimulatedCampaignJob),
        "## Maps",
        "What the options of `voorwerp map` set; `--set` sets any of them.",
        _job(MapJob),
        "## Report cards",
        "What the options of `voorwerp report` set; `--set` sets any of them.",
        _job(ReportJob),
        "`tiles.parquet` has a row for every tile of the sky:",
        _table(("column", "type"), [(field.name, str(field.type)) for field in tiles_schema()]),
        "## Serving",
        "What the options of `voorwerp serve` set; `--set` sets any of them.",
        _job(ServeConfig),
        "## Deployment",
        "What the options of `voorwerp deploy render` set; [how it is used](operations.md).",
        _job(DeployConfig),
        "## Collections",
        "What the options of `voorwerp hats` set.",
        _job(HatsJob),
        "## Simulated surveys",
        "What the options of `voorwerp simulate` set; `--set` sets any of them.",
        _job(SimulateJob),
        "## Trees of questions",
        _table(("name", "meaning", "questions", "answers"), [_tree_row(name) for name in tree_names()]),
        "A tree of your own is a YAML file with `questions`, each with these keys:",
        _job(Question),
        "## Tables",
        "All are Parquet (see [reading the results](reading.md)); answers are whatever their name says. Ids have the "
        "type that the catalogue gives them. Tables of objects also have its other columns, unchanged.",
        *_tables(),
        "## Metrics",
        "What jobs and services count; [how it is collected](observability.md). Counters are shown with `_total` at "
        "the end of their names, histograms as `_bucket`, `_sum` and `_count`.",
        _table(("metric", "kind", "unit", "labels", "of", "meaning"), [_metric_row(metric) for metric in METRICS]),
        "## Reject reasons",
        _table(("reason", "meaning"), [(f"`{reason}`", reason.meaning) for reason in RejectReason]),
        "## Exit codes",
        EXIT_CODES.strip().removeprefix("Exit codes: ").replace("\n", " "),
    ]
    return "\n\n".join(parts) + "\n"


def _job(model: type[BaseModel]) -> str:
    return _table(("key", "type", "default", "meaning"), _keys(model))


def _keys(model: type[BaseModel], prefix: str = "") -> list[tuple[str, ...]]:
    rows = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += _keys(inner, f"{prefix}{name}.")
        else:
            rows.append((f"`{prefix}{name}`", _type(field), _default(field), field.description or ""))
    return rows


def _type(field: FieldInfo) -> str:
    options = [field.annotation]
    if get_origin(field.annotation) in (Union, UnionType):
        options = list(get_args(field.annotation))
    return " or ".join(_type_name(option) for option in options)


def _type_name(annotation: Any) -> str:
    if annotation is NoneType:
        return "null"
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if get_origin(annotation) is tuple and get_origin(get_args(annotation)[0]) is Literal:
        return f"list of {_type_name(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        return f"{_type_name(get_args(annotation)[0])}, each with a {_type_name(get_args(annotation)[1])}"
    return annotation.__name__ if get_origin(annotation) is None else str(annotation)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    text = ", ".join(f"{key}: {value}" for key, value in default.items()) if isinstance(default, dict) else str(default)
    return f"`{text}`".replace("None", "null")


def _preset_row(name: str) -> tuple[str, str, str]:
    preset = load_preset(name)
    return f"`{name}`", preset.description, f"`{preset.sha256[:12]}`"


def _tree_row(name: str) -> tuple[str, ...]:
    tree = load_tree(name)
    return f"`{name}`", tree.description, str(len(tree.questions)), str(len(tree.columns))


def _tables() -> list[str]:
    """Every table, with the type, the unit and the meaning of each column."""
    meanings = _meanings()
    parts = []
    for name, schema in TABLES.items():
        of_numbers, of_text = schema(pa.int64()), schema(pa.string())
        rows = []
        for field in of_numbers:
            kinds = dict.fromkeys(str(one.field(field.name).type) for one in (of_numbers, of_text))
            rows.append((f"`{field.name}`", " or ".join(kinds), UNITS.get(field.name, ""), meanings[field.name]))
        parts += [f"### {name}", _table(("column", "type", "unit", "meaning"), rows)]
    return parts


def _meanings() -> dict[str, str]:
    """What each column means, as is written below its name in `schemas/tables.py`."""
    lines = ast.parse(Path(tables.__file__).read_text()).body
    found = {
        getattr(tables, line.targets[0].id): after.value.value
        for line, after in pairwise(lines)
        if isinstance(line, ast.Assign)
        and isinstance(line.targets[0], ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(getattr(tables, line.targets[0].id), str)
    }
    return {name: " ".join(str(meaning).split()) for name, meaning in (MEANINGS | found).items()}


def _objects_schema(id_type: pa.DataType) -> pa.Schema:
    return map_schema(id_type).remove(5).remove(4).append(pa.field(CUTOUT, pa.string()))


def _plan_schema(id_type: pa.DataType) -> pa.Schema:
    objects = _objects_schema(id_type)
    return objects.append(pa.field(CUTOUT_SIZE, pa.int64())).append(pa.field(CUTOUT_VERSION, pa.string()))


def _candidates_schema(id_type: pa.DataType) -> pa.Schema:
    numbers = [pa.field(RANK, pa.int64()), *(pa.field(name, pa.float64()) for name in (MEAN, SD, ACQUISITION, RATING))]
    nearest = [pa.field(NEAREST_RATED, id_type), pa.field(NEAREST_DISTANCE, pa.float64())]
    return pa.schema([*map_schema(id_type).remove(5).remove(4), *numbers, *nearest])


TABLES: dict[str, Callable[[pa.DataType], pa.Schema]] = {
    "Plan": _plan_schema,
    "Embeddings": lambda id_type: with_vectors(_objects_schema(id_type), EMBEDDING, 1280),
    "Components": lambda id_type: with_vectors(_objects_schema(id_type), COMPONENTS, 10),
    "Rejects": rejects_schema,
    "Answer of neighbours and similar-image": neighbours_schema,
    "Graph": graph_schema,
    "Near-duplicates": pairs_schema,
    "Map": map_schema,
    "Candidates of a ranking": _candidates_schema,
    "Changes from one release to the next": changes_schema,
    "Changes of neighbours": neighbour_changes_schema,
}
MEANINGS = {
    "n_shared": "Neighbours in both releases.",
    "gained": "Neighbours in the later release only, nearest first.",
    "lost": "Neighbours in the earlier release only, nearest first.",
}
"""Of columns that are spelt in one table only."""


def _metric_row(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    sources = " and ".join(f"{source}s" for source in metric.sources)
    return f"`{metric.name}`", metric.kind, metric.unit, labels, sources, metric.help


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    TARGET.write_text(reference())
