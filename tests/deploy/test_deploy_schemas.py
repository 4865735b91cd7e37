"""Every rendered manifest against the schemas of Kubernetes and of KubeRay; and that these catch planted mistakes."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from jobs.deploy_check import core_problems, custom_problems, definitions, is_custom
from schemas.config import load_job
from schemas.errors import InputNotFoundError
from schemas.service import ServeConfig
from tests.conftest import NEEDS_CRDS
from tests.deploy.manifests import COMBINATIONS, manifests, one

NAMES = ["+".join((part, *overlays)) for part, overlays in COMBINATIONS]
WITHOUT_SCHEMA = {"PodMonitor", "LocalQueue"}
"""Kinds of operators other than KubeRay: rules alone check them."""


@pytest.fixture(scope="module")
def crds() -> Path:
    if not (folder := os.environ.get("VOORWERP_CRDS")):
        pytest.skip(NEEDS_CRDS)
    return Path(folder)


@pytest.mark.parametrize(("part", "overlays"), COMBINATIONS, ids=NAMES)
def test_kubernetes_knows_every_key_of_what_is_its_own(part: str, overlays: tuple[str, ...]) -> None:
    assert not list(core_problems(manifests(part, overlays)))


@pytest.mark.parametrize(("part", "overlays"), COMBINATIONS, ids=NAMES)
def test_kuberay_knows_every_key_of_what_is_its(part: str, overlays: tuple[str, ...], crds: Path) -> None:
    found = manifests(part, overlays)
    assert not list(custom_problems(found, crds))
    known = {kind for _, kind in definitions(crds)}
    assert {one["kind"] for one in found if is_custom(one)} - known <= WITHOUT_SCHEMA


def _set(manifest: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for key in parents:
        manifest = manifest[int(key)] if isinstance(manifest, list) else manifest[key]
    manifest[last] = value


@pytest.mark.parametrize(
    ("kind", "part", "path", "value", "said"),
    [
        ("CronJob", "schedule", "spec.concurencyPolicy", "Forbid", "concurencyPolicy"),
        ("CronJob", "schedule", "spec.jobTemplate.spec.backoffLimit", "three", "backoffLimit"),
        ("CronJob", "schedule", "spec.jobTemplate.spec.podFailurePolicy.rules.0.action", None, "action"),
        ("PodDisruptionBudget", "service", "spec.minAvailble", 1, "minAvailble"),
        ("StatefulSet", "service", "spec.template.spec.containers.0.livenessProbe.tcpSocket.port", [], "port"),
        ("StatefulSet", "service", "spec.template.spec.containers.0.securitycontext", {}, "securitycontext"),
        ("RoleBinding", "platform", "subjects", "voorwerp-launcher", "subjects"),
        ("Role", "platform", "kind", "Rolle", "no such kind"),
        ("NetworkPolicy", "platform", "spec.egres", [], "egres"),
    ],
)
def test_a_slip_in_what_is_kubernetes_own_is_found(kind: str, part: str, path: str, value: Any, said: str) -> None:
    spoilt = next(manifest for manifest in manifests(part) if manifest["kind"] == kind)
    assert not list(core_problems([spoilt]))
    _set(spoilt, path, value)
    (problem,) = core_problems([spoilt])
    assert said in problem


@pytest.mark.parametrize(
    ("part", "path", "value", "said"),
    [
        ("release", "spec.shutdownAfterJobFinish", True, "shutdownAfterJobFinish"),
        ("release", "spec.backoffLimit", "3", "backoffLimit"),
        ("release", "spec.preRunningDeadlineSeconds", 0, "preRunningDeadlineSeconds"),
        ("release", "spec.rayClusterSpec.authOptions.mode", "tokens", "authOptions.mode"),
        ("release", "spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0, "num-cpus"),
        ("release", "spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.imagePullpolicy", "Always", "Pullp"),
        ("release", "spec.rayClusterSpec.workerGroupSpecs.0.minReplicas", -0.5, "minReplicas"),
        (
            "release",
            "spec.rayClusterSpec.workerGroupSpecs.0.template.spec.volumes.0.emptyDir.sizeLimit",
            "a",
            "sizeLimit",
        ),
        ("release", "spec.managedBy", "nobody", "managedBy field value must be"),
        ("release", "spec.deletionStrategy", {"onSuccess": {"policy": "DeleteSelf"}}, "BOTH onSuccess and onFailure"),
        ("service", "spec.rayClusterConfig.gcsFaultToleranceOptions.backend", "postgres", "backend"),
        ("service", "spec.rayClusterConfig.gcsFaultToleranceOptions.redisAdress", "x", "redisAdress"),
        ("service", "spec.serveConfigV2", {"applications": []}, "serveConfigV2"),
        ("service", "spec.managedBy", "nobody", "managedBy field value must be"),
    ],
)
def test_a_slip_in_what_is_kuberays_is_found(part: str, path: str, value: Any, said: str, crds: Path) -> None:
    spoilt = one("RayService" if part == "service" else "RayJob", part)
    _set(spoilt, path, value)
    problems = list(custom_problems([spoilt], crds))
    assert problems
    assert all(said in problem for problem in problems), problems


def test_a_folder_without_definitions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFoundError, match="found none"):
        definitions(tmp_path)


@pytest.mark.parametrize("overlays", [(), ("postgres",)], ids=["one-worker", "postgres"])
def test_ray_serve_and_the_service_itself_take_what_serves(overlays: tuple[str, ...]) -> None:
    serve = ServeDeploySchema.model_validate(
        yaml.safe_load(one("RayService", "service", overlays)["spec"]["serveConfigV2"])
    )
    (application,) = serve.applications
    assert application.import_path == "jobs.serve_ray:build"
    assert load_job(ServeConfig, None, application.args).release == "s3://survey/dr1/voorwerp"
