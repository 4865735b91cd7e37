"""Turns pydantic's and YAML's complaints into lines a tired astronomer can act on."""

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def describe(error: Exception, model: type[BaseModel]) -> str:
    """Describe a validation error, one line per problem: key, what was expected, what was found."""
    if not isinstance(error, ValidationError):
        return f"not valid YAML: {error}"
    return "\n".join(_describe_one(dict(problem), model) for problem in error.errors(include_url=False))


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """End a complaint about an unknown name with the known one most like it: `; did you mean 'x'?`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {near[0]!r}?" if near else ""


def _describe_one(problem: dict[str, Any], model: type[BaseModel]) -> str:
    location = [str(part) for part in problem["loc"]]
    key, found = ".".join(location), problem.get("input")
    if problem["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"{key}: unknown key{hint}; expected one of {', '.join(known)}; found {location[-1]!r}"
    if problem["type"] == "missing":
        return f"{key}: required, but missing"
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if not key:
        return message
    return f"{key}: {message}; found {found!r}" if not isinstance(found, dict) else f"{key}: {message}"


def _keys_at(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        annotation = model.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        model = next(option for option in options if isinstance(option, type) and issubclass(option, BaseModel))
    return list(model.model_fields)
