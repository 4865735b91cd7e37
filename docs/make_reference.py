"""Writes docs/reference.md from the schemas, so that it cannot say anything else than the code. Run: make docs."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.cli_options import EXIT_CODES
from schemas.campaign import METHODS, CampaignConfig, RankJob, SimulatedCampaignJob
from schemas.config import DuplicatesJob, GraphJob, NeighboursJob, QueryFileConfig, ReleaseJob
from schemas.experiment import ExperimentJob
from schemas.map import MapJob
from schemas.model import FinetuneJob, PretrainJob
from schemas.preset import Preset, load_preset, preset_names
from schemas.price import PriceTable
from schemas.reject import RejectReason
from schemas.service import ServeConfig
from schemas.simulation import SimulateJob
from schemas.tables import graph_schema, map_schema, neighbours_schema, pairs_schema
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
        _table(("key", "type", "default", "meaning"), _keys(ReleaseJob)),
        "## Search",
        "What the options of `voorwerp neighbours` set; `voorwerp similar-image` takes images and most of them.",
        _table(("key", "type", "default", "meaning"), _keys(NeighboursJob)),
        "`queries`, a file of queries, has these keys:",
        _table(("key", "type", "default", "meaning"), _keys(QueryFileConfig)),
        "The answer has these columns; positions are degrees (ICRS), distances are L1 between components:",
        _table(("column", "type"), [(field.name, str(field.type)) for field in _answer_schema()]),
        "`voorwerp graph`:",
        _table(("key", "type", "default", "meaning"), _keys(GraphJob)),
        _table(("column", "type"), [(field.name, str(field.type)) for field in graph_schema(pa.int64())]),
        "`voorwerp duplicates`:",
        _table(("key", "type", "default", "meaning"), _keys(DuplicatesJob)),
        _table(("column", "type"), [(field.name, str(field.type)) for field in pairs_schema(pa.int64())]),
        "## Presets",
        _table(("name", "meaning", "SHA-256 begins"), [_preset_row(name) for name in preset_names()]),
        "A preset of your own is a YAML file with these keys:",
        _table(("key", "type", "default", "meaning"), _keys(Preset)),
        "## Prices",
        "Keys of the YAML file that `voorwerp plan --preflight --prices` takes.",
        _table(("key", "type", "default", "meaning"), _keys(PriceTable)),
        "## Pretraining",
        "Keys of the job of `voorwerp pretrain`.",
        _table(("key", "type", "default", "meaning"), _keys(PretrainJob)),
        "## Fine-tuning",
        "What the options of `voorwerp finetune` set; `--set` sets any of them.",
        _table(("key", "type", "default", "meaning"), _keys(FinetuneJob)),
        "## Experiments",
        "Keys of the job of `voorwerp experiment`.",
        _table(("key", "type", "default", "meaning"), _keys(ExperimentJob)),
        "## Campaigns",
        "What `--set` sets of `voorwerp campaign create`:",
        _table(("key", "type", "default", "meaning"), _keys(CampaignConfig)),
        "Of `voorwerp rank`:",
        _table(("key", "type", "default", "meaning"), _keys(RankJob)),
        "Of `voorwerp campaign simulate`, whose methods are: "
        + "; ".join(f"`{name}`, {meaning[0].lower()}{meaning[1:]}" for name, meaning in METHODS.items())
        + ".",
        _table(("key", "type", "default", "meaning"), _keys(SimulatedCampaignJob)),
        "## Maps",
        "What the options of `voorwerp map` set; `--set` sets any of them.",
        _table(("key", "type", "default", "meaning"), _keys(MapJob)),
        _table(("column", "type"), [(field.name, str(field.type)) for field in map_schema(pa.int64())]),
        "## Serving",
        "What the options of `voorwerp serve` set; `--set` sets any of them.",
        _table(("key", "type", "default", "meaning"), _keys(ServeConfig)),
        "## Simulated surveys",
        "What the options of `voorwerp simulate` set; `--set` sets any of them.",
        _table(("key", "type", "default", "meaning"), _keys(SimulateJob)),
        "## Trees of questions",
        _table(("name", "meaning", "questions", "answers"), [_tree_row(name) for name in tree_names()]),
        "A tree of your own is a YAML file with `questions`, each with these keys:",
        _table(("key", "type", "default", "meaning"), _keys(Question)),
        "## Reject reasons",
        _table(("reason", "meaning"), [(f"`{reason}`", reason.meaning) for reason in RejectReason]),
        "## Exit codes",
        EXIT_CODES.strip().removeprefix("Exit codes: ").replace("\n", " "),
    ]
    return "\n\n".join(parts) + "\n"


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


def _answer_schema() -> pa.Schema:
    return neighbours_schema(pa.int64())


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    TARGET.write_text(reference())
