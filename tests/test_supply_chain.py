"""What is installed: no version with a known hole, pinned, and by hash in an image; nothing of ours unpickles."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FLOORS = {
    "torch": "2.10",  # torch.load with weights_only=True ran code before.
    "pillow": "12.2",
    "pyarrow": "14.0.1",  # CVE-2023-47248: reading a file ran code.
    "ray": "2.54",  # Tokens for its control plane.
    "faiss-cpu": "1.15.1",  # Shards answered L1 in reverse order before.
}
"""Below these, something that docs/security.md promises does not hold."""


def pins(text: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s\\]+)", text, flags=re.MULTILINE))


PINS = pins((ROOT / "constraints.txt").read_text())


def requirements(*extras: str) -> list[Requirement]:
    optional = PROJECT["optional-dependencies"]
    return [
        Requirement(line) for line in (*PROJECT["dependencies"], *(line for name in extras for line in optional[name]))
    ]


@pytest.mark.parametrize("name", FLOORS)
def test_neither_what_is_allowed_nor_what_is_pinned_is_older_than_a_floor(name: str) -> None:
    floor = Version(FLOORS[name])
    assert Version(PINS[name]) >= floor
    (allowed,) = (one for one in requirements() if canonicalize_name(one.name) == name)
    (least,) = (one for one in allowed.specifier if one.operator == ">=")
    assert Version(least.version) >= floor


def test_every_pin_is_a_version_that_the_project_allows() -> None:
    everything = requirements(*PROJECT["optional-dependencies"])
    for one in everything:
        name = canonicalize_name(one.name)
        if name not in ("voorwerp", "faiss-gpu"):  # faiss-gpu takes the place of faiss-cpu.
            assert PINS[name] in one.specifier, one


def test_what_an_image_installs_has_the_pinned_versions_and_hashes() -> None:
    text = (ROOT / "constraints-hashed.txt").read_text()
    hashed = pins(text)
    assert hashed.items() <= PINS.items(), "run `make hashes`"
    wanted = {
        canonicalize_name(one.name)
        for one in requirements("cpu", "lite0", "map", "postgres", "report", "schedule", "serve", "simulate")
    }
    assert wanted <= hashed.keys()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in block for block in blocks)
    assert len(blocks) == len(hashed)


def test_nothing_of_ours_unpickles() -> None:
    forbidden = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    found = []
    for path in sorted(path for package in ("schemas", "engine", "jobs") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & forbidden:
                found.append(f"{path}:{node.lineno}")
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
                found.append(f"{path}:{node.value.lineno}")
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "yaml.load", "read_pickle"):
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                found += [] if safe else [f"{path}:{node.lineno}"]
    assert found == []
