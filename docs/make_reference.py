"""Writes docs/reference.md from the schemas, so that it cannot say anything else than the code. Run: make docs."""

from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jobs.cli import EXIT_CODES
from schemas.config import NeighboursJob, ReleaseJob
from schemas.preset import Preset, load_preset, preset_names
from schemas.price import PriceTable
from schemas.reject import RejectReason
from schemas.tables import neighbours_schema

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
        "What the options of `voorwerp neighbours` set.",
        _table(("key", "type", "default", "meaning"), _keys(NeighboursJob)),
        "The answer has these columns; positions are degrees (ICRS), distances are L1 between components:",
        _table(("column", "type"), [(field.name, str(field.type)) for field in _answer_schema()]),
        "## Presets",
        _table(("name", "meaning", "SHA-256 begins"), [_preset_row(name) for name in preset_names()]),
        "A preset of your own is a YAML file with these keys:",
        _table(("key", "type", "default", "meaning"), _keys(Preset)),
        "## Prices",
        "Keys of the YAML file that `voorwerp plan --preflight --prices` takes.",
        _table(("key", "type", "default", "meaning"), _keys(PriceTable)),
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
    return annotation.__name__ if get_origin(annotation) is None else str(annotation)


def _default(field: FieldInfo) -> str:
    return "required" if field.is_required() else f"`{field.default}`".replace("None", "null")


def _preset_row(name: str) -> tuple[str, str, str]:
    preset = load_preset(name)
    return f"`{name}`", preset.description, f"`{preset.sha256[:12]}`"


def _answer_schema() -> pa.Schema:
    return neighbours_schema(pa.int64())


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    TARGET.write_text(reference())
