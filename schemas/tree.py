"""A decision tree says what volunteers were asked. It is data: a named YAML file, or one of the user's own."""

from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.errors import ConfigError
from schemas.validation import describe

_TREES = resources.files("schemas") / "trees"
_WORD = r"^[A-Za-z0-9][A-Za-z0-9-]*$"


class Question(BaseModel):
    """One question of a tree."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=_WORD, description="letters, digits and hyphens")
    answers: tuple[str, ...] = Field(min_length=2, description="in the order of their columns")
    after: tuple[str, ...] = Field((), description="answers, as question_answer, that lead here; none: always asked")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of a votes table that count the answers: question_answer."""
        return tuple(f"{self.name}_{answer}" for answer in self.answers)


class Tree(BaseModel):
    """Questions in the order in which they can be asked: each after those that lead to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str = Field("", description="for people")
    questions: tuple[Question, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        known: set[str] = set()
        names = [question.name for question in self.questions]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"questions of the same name: {', '.join(repeated)}")
        for question in self.questions:
            if len(set(question.answers)) < len(question.answers):
                raise ValueError(f"{question.name}: the same answer twice")
            missing = [answer for answer in question.after if answer not in known]
            if missing:
                raise ValueError(f"{question.name}: comes after {missing[0]}, which no earlier question has")
            known |= set(question.columns)
        return self

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Vote columns of all questions, in order."""
        return tuple(column for question in self.questions for column in question.columns)

    @cached_property
    def slices(self) -> tuple[slice, ...]:
        """Where each question's answers are among `columns`."""
        made, start = [], 0
        for question in self.questions:
            made.append(slice(start, start + len(question.answers)))
            start = made[-1].stop
        return tuple(made)

    def only(self, names: Sequence[str]) -> "Tree":
        """Return a tree of some of the questions, each of which is then asked of everything.

        Raises
        ------
        ConfigError
            A question is not in the tree.
        """
        known = {question.name: question for question in self.questions}
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            raise ConfigError(
                f"questions: expected some of {', '.join(known)}, found {unknown[0] if unknown else 'none'}"
            )
        return Tree(
            questions=tuple(
                question.model_copy(update={"after": ()}) for question in self.questions if question.name in names
            )
        )


def tree_names() -> list[str]:
    """Names of the trees that come with voorwerp, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _TREES.iterdir() if entry.name.endswith(".yaml"))


def load_tree(name: str) -> Tree:
    """Load a tree by name, or from a YAML file when the name ends in `.yaml` or `.yml`.

    Raises
    ------
    ConfigError
        No tree has this name, the file does not exist, or its content is not a valid tree.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"tree: expected a file, found nothing at {path}")
        content = path.read_bytes()
    elif name in tree_names():
        content = (_TREES / f"{name}.yaml").read_bytes()
    else:
        raise ConfigError(f"tree: expected one of {', '.join(tree_names())} or a .yaml file, found {name!r}")
    try:
        return Tree.model_validate(yaml.safe_load(content))
    except (ValidationError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"tree {name}: {describe(error, Tree)}") from error
