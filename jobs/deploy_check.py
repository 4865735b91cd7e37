"""Job: deploy check. Manifests against everything that can be asked without a cluster."""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from cel import evaluate

from jobs.deploy_rules import broken_rules
from jobs.report import console, note
from schemas.deploy import SCHEDULE_FILE
from schemas.errors import ConfigError, InputNotFoundError

try:  # Definitions are megabytes of YAML, which libyaml reads ten times as fast.
    from yaml import CSafeLoader as Loader
except ImportError:
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

Manifest = dict[str, Any]


def run(file: Path, crds: Path | None) -> bool:
    """Check a file of manifests; print what is wrong, return whether nothing is.

    Parameters
    ----------
    crds : Path or None
        Folder of custom resource definitions. Kinds that none defines are checked by rules alone, and named.

    Raises
    ------
    InputNotFoundError
        The file or the folder is not there.
    ConfigError
        The file holds no manifests.
    """
    manifests = read(file)
    problems = [*core_problems(manifests), *broken_rules(manifests)]
    if crds:
        problems += custom_problems(manifests, crds)
    for problem in problems:
        console.print(f"[red]problem:[/red] {problem}", soft_wrap=True)
    known = definitions(crds) if crds else {}
    without = {manifest["kind"] for manifest in manifests if is_custom(manifest) and _key(manifest) not in known}
    if without:
        note("check", f"no schema for {', '.join(sorted(without))}: checked by rules alone")
    note("check", f"{len(manifests)} manifests: " + (f"{len(problems)} problems" if problems else "nothing is wrong"))
    return not problems


def read(file: Path) -> list[Manifest]:
    """Read manifests, and with a schedule the run that it creates; errors as of `run`."""
    if not file.is_file():
        raise InputNotFoundError(f"expected manifests, found nothing at {file}")
    try:
        manifests = [manifest for manifest in yaml.load_all(file.read_text(), Loader=Loader) if manifest]
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {error}") from error
    if not manifests or not all(
        isinstance(one, dict) and {"kind", "apiVersion", "metadata"} <= set(one) for one in manifests
    ):
        raise ConfigError(f"{file}: expected manifests, each with apiVersion, kind and metadata")
    schedules = [manifest["data"][SCHEDULE_FILE] for manifest in manifests if SCHEDULE_FILE in _data(manifest)]
    return manifests + [Loader(text).get_single_data()["run"] for text in schedules]


def is_custom(manifest: Manifest) -> bool:
    """Whether Kubernetes itself does not know a kind."""
    group = manifest["apiVersion"].rpartition("/")[0]
    return ("." in group and not group.endswith(".k8s.io")) or group.startswith("kueue.")


def core_problems(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Check what Kubernetes itself knows against its schemas; unknown keys are wrong."""
    for manifest in manifests:
        if is_custom(manifest):
            continue
        try:
            kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{_named(manifest)}: {'.'.join(map(str, error.path))}: {error.message}"
        except kubernetes_validate.SchemaNotFoundError:
            yield f"{_named(manifest)}: Kubernetes has no such kind"


def custom_problems(manifests: Iterable[Manifest], crds: Path) -> Iterator[str]:
    """Check custom resources against their definitions: schema, unknown keys, and rules in CEL.

    Rules that compare with what was there before (`oldSelf`) are about changes, and left out.
    """
    known = definitions(crds)
    for manifest in manifests:
        if schema := known.get(_key(manifest)):
            own = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "metadata")}
            for error in _validator(crds, _key(manifest)).iter_errors(own):
                yield f"{_named(manifest)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
            for place, message in _broken_cel(schema, own, ""):
                yield f"{_named(manifest)}: {place}: {message}"


@cache
def definitions(crds: Path) -> dict[tuple[str, str], Manifest]:
    """Read the schemas of a folder of custom resource definitions, by apiVersion and kind.

    Raises
    ------
    InputNotFoundError
        There is no such folder, or it holds none.
    """
    found = {}
    for file in sorted(crds.glob("*.yaml")):
        definition = Loader(file.read_text()).get_single_data()
        if definition.get("kind") == "CustomResourceDefinition":
            spec = definition["spec"]
            for version in spec["versions"]:
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                found[key] = version["schema"]["openAPIV3Schema"]
    if not found:
        raise InputNotFoundError(f"expected custom resource definitions, found none in {crds}")
    return found


@cache
def _validator(crds: Path, key: tuple[str, str]) -> jsonschema.Draft202012Validator:
    schema = definitions(crds)[key]
    properties = {
        name: _closed(inner)
        for name, inner in schema["properties"].items()
        if name not in ("apiVersion", "kind", "metadata")
    }
    return jsonschema.Draft202012Validator({**schema, "properties": properties, "additionalProperties": False})


def _closed(schema: Any) -> Any:
    """Close a structural schema: the API server drops unknown keys, so that a slip of the pen would do nothing."""
    if not isinstance(schema, dict):
        return schema
    closed = {**schema}
    if schema.get("x-kubernetes-int-or-string"):
        closed.pop("type", None)
    if "properties" in schema:
        closed["properties"] = {name: _closed(inner) for name, inner in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            closed["additionalProperties"] = False
    elif "additionalProperties" in schema:
        closed["additionalProperties"] = _closed(schema["additionalProperties"])
    if "items" in schema:
        closed["items"] = _closed(schema["items"])
    if schema.get("nullable"):
        return {"anyOf": [closed, {"type": "null"}]}
    return closed


def _broken_cel(schema: Manifest, value: Any, place: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" not in rule["rule"] and not evaluate(rule["rule"], {"self": value}):
            yield place, rule.get("message", rule["rule"])
    if isinstance(value, dict):
        for name, inner in value.items():
            below = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            if isinstance(below, dict):
                yield from _broken_cel(below, inner, f"{place}.{name}".lstrip("."))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for number, inner in enumerate(value):
            yield from _broken_cel(schema["items"], inner, f"{place}[{number}]")


def _data(manifest: Manifest) -> dict[str, str]:
    return (manifest.get("data") or {}) if manifest["kind"] == "ConfigMap" else {}


def _key(manifest: Manifest) -> tuple[str, str]:
    return manifest["apiVersion"], manifest["kind"]


def _named(manifest: Manifest) -> str:
    return f"{manifest['kind']} {manifest['metadata'].get('name', '')}"
