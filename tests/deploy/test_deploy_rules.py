"""What only KubeRay's operator, pod security and this project refuse; each rule is broken once."""

import copy
from typing import Any

import pytest
import yaml

from jobs.deploy_rules import broken_rules, pods
from tests.deploy.manifests import COMBINATIONS, ROOT, manifests, one

NAMES = ["+".join((part, *overlays)) for part, overlays in COMBINATIONS]
CLUSTER = "spec.rayClusterSpec"
HEAD = f"{CLUSTER}.headGroupSpec"
WORKERS = f"{CLUSTER}.workerGroupSpecs.0"
GONE = object()


@pytest.mark.parametrize(("part", "overlays"), COMBINATIONS, ids=NAMES)
def test_no_rule_is_broken(part: str, overlays: tuple[str, ...]) -> None:
    assert not broken_rules(manifests(part, overlays))


def spoil(manifest: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    spoilt = copy.deepcopy(manifest)
    for path, value in changes.items():
        place: Any = spoilt
        *parents, last = path.split(".") if "|" not in path else path.split("|")
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if value is GONE:
            del place[last]
        else:
            place[last] = value
    return spoilt


def assert_caught(manifest: dict[str, Any], changes: dict[str, Any], said: str) -> None:
    assert not broken_rules([manifest])
    broken = broken_rules([spoil(manifest, changes)])
    assert any(said in problem for problem in broken), broken


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"metadata.name": "a" * 48}, "at most 47 characters"),
        ({"metadata.name": "DR1"}, "expected a letter"),
        ({"metadata.name": "1st-run"}, "expected a letter"),
        ({"spec.submissionMode": "K8SJobMode"}, "spec.submissionMode: expected one of"),
        ({"spec.submissionMode": "SidecarMode"}, "no submitterPodTemplate"),
        ({"spec.submissionMode": "InteractiveMode"}, "expected 0 with InteractiveMode"),
        ({"spec.shutdownAfterJobFinishes": False}, "machines are held"),
        ({"spec.shutdownAfterJobFinishes": False}, "expected 0 without shutdownAfterJobFinishes"),
        ({"spec.shutdownAfterJobFinishes": False, "spec.suspend": True}, "spec.suspend"),
        ({"spec.ttlSecondsAfterFinished": -1}, "0 or more"),
        ({"spec.deletionStrategy": {"deletionRules": [{}]}}, "expected none with shutdownAfterJobFinishes"),
        ({"spec.backoffLimit": -1}, "spec.backoffLimit: expected 0 or more"),
        ({"spec.activeDeadlineSeconds": 0}, "expected a deadline"),
        ({"spec.activeDeadlineSeconds": GONE}, "expected a deadline"),
        ({"spec.preRunningDeadlineSeconds": GONE}, "spec.preRunningDeadlineSeconds"),
        ({"spec.preRunningDeadlineSeconds": 10**7}, "spec.preRunningDeadlineSeconds"),
        ({"spec.entrypoint": " "}, "spec.entrypoint"),
        ({"spec.clusterSelector": {"ray.io/cluster": "shared"}}, "cluster of the run's own"),
        ({CLUSTER: GONE}, "spec.rayClusterSpec: expected one"),
        ({f"{CLUSTER}.gcsFaultToleranceOptions": {"redisAddress": "redis:6379"}}, "resumed on a new cluster"),
        ({f"{HEAD}.rayStartParams": {}}, 'num-cpus: "0"'),
        ({f"{HEAD}.rayStartParams.num-cpus": "2"}, 'num-cpus: "0"'),
        ({f"{WORKERS}.rayStartParams": {"num-cpus": 4}}, "expected text in rayStartParams"),
        ({f"{WORKERS}.rayStartParams": {"num-cpus": "4"}, f"{WORKERS}.resources": {"cpu": "4"}}, "found both"),
        ({f"{WORKERS}.rayStartParams": {"labels": "a=b"}}, "expected labels beside"),
        ({f"{CLUSTER}.authOptions.mode": "disabled"}, "authOptions.mode: expected token"),
        ({f"{CLUSTER}.authOptions": GONE}, "authOptions.mode: expected token"),
        ({f"{CLUSTER}.rayVersion": GONE}, "rayVersion: expected 2.52 or later"),
        ({f"{CLUSTER}.rayVersion": "2.51.1"}, "rayVersion: expected 2.52 or later"),
        ({f"{WORKERS}.minReplicas": 5}, "minReplicas <= replicas <= maxReplicas"),
        ({f"{WORKERS}.maxReplicas": 1}, "minReplicas <= replicas <= maxReplicas"),
        ({f"{WORKERS}.groupName": "CPU"}, "letters, digits and hyphens"),
        ({f"{HEAD}.template.spec.containers.0.env": [{"name": "REDIS_PASSWORD", "value": "a"}]}, "REDIS_PASSWORD"),
        ({f"{HEAD}.template.spec.containers.0.env": [{"name": "AWS_SECRET_ACCESS_KEY", "value": "a"}]}, "spelt out"),
        (
            {f"{HEAD}.template.spec.containers.0.env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]},
            "expected enableInTreeAutoscaling",
        ),
        ({"spec.submitterPodTemplate": GONE}, "spec.submitterPodTemplate, container submitter: expected runAsNonRoot"),
        ({f"{WORKERS}.template.spec.hostNetwork": True}, "namespaces of the host"),
        ({f"{WORKERS}.template.spec.volumes": [{"name": "a", "hostPath": {"path": "/"}}]}, "no hostPath"),
        ({f"{WORKERS}.template.spec.containers.0.securityContext.runAsUser": 0}, "another user than root"),
        ({f"{WORKERS}.template.spec.containers.0.securityContext.privileged": True}, "allowPrivilegeEscalation"),
        (
            {f"{WORKERS}.template.spec.containers.0.securityContext.capabilities": {"add": ["SYS_PTRACE"]}},
            "drop: [ALL]",
        ),
        ({f"{WORKERS}.template.spec.containers.0.securityContext.seccompProfile.type": "Unconfined"}, "seccompProfile"),
        ({f"{WORKERS}.template.spec.containers.0.resources.limits.memory": GONE}, "memory in resources.limits"),
    ],
)
def test_a_run_that_the_operator_or_the_namespace_would_refuse_is_caught(changes: dict[str, Any], said: str) -> None:
    assert_caught(one("RayJob", "release"), changes, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"{CLUSTER}.autoscalerOptions.version": "v1"}, "version: expected v2"),
        ({f"{CLUSTER}.autoscalerOptions.securityContext": GONE}, "container autoscaler: expected allowPrivilege"),
        ({f"{HEAD}.template.spec.restartPolicy": "Always"}, "restartPolicy Never"),
        ({f"{CLUSTER}.workerGroupSpecs.1.template.spec.restartPolicy": "Always"}, "restartPolicy Never"),
        ({f"{CLUSTER}.workerGroupSpecs.1.suspend": True}, "expected none suspended"),
        ({f"{CLUSTER}.workerGroupSpecs.1.groupName": "cpu"}, "expected names that differ"),
        ({f"{HEAD}.template.spec.automountServiceAccountToken": False}, "which the autoscaler needs"),
        (
            {f"{HEAD}.template.spec.containers.0.env": [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]},
            "expected autoscalerOptions.version instead",
        ),
        ({"metadata|labels|kueue.x-k8s.io/queue-name": "voorwerp"}, "expected false in a queue of Kueue"),
    ],
)
def test_a_wrong_autoscaler_is_caught(changes: dict[str, Any], said: str) -> None:
    assert_caught(one("RayJob", "release", ("gpu-spot",)), changes, said)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spec.upgradeStrategy.type": "Rolling"}, "upgradeStrategy.type: expected one of"),
        ({"spec.rayClusterDeletionDelaySeconds": -1}, "0 or more"),
        ({"spec.rayClusterConfig.gcsFaultToleranceOptions": GONE}, "the service ends with its head"),
        (
            {"spec.rayClusterConfig.gcsFaultToleranceOptions.redisPassword": {"value": "abc"}},
            "expected a reference to a secret",
        ),
        ({"spec.rayClusterConfig.headGroupSpec.headService": {"metadata": {"name": "mine"}}}, "expected no name"),
        ({"spec.serveConfigV2": "applications: []"}, "YAML with applications"),
        ({"spec.serveConfigV2": "a: b: c"}, "YAML with applications"),
        ({"metadata.annotations": {"ray.io/ft-enabled": "true"}}, "ray.io/ft-enabled"),
        ({"metadata.name": "a" * 48}, "at most 47 characters"),
    ],
)
def test_a_service_that_the_operator_would_refuse_is_caught(changes: dict[str, Any], said: str) -> None:
    assert_caught(one("RayService", "service"), changes, said)


def test_a_schedule_whose_ticks_may_overlap_is_caught() -> None:
    assert_caught(one("CronJob", "schedule"), {"spec.concurrencyPolicy": "Allow"}, "expected Forbid")


def test_a_secret_that_is_spelt_out_is_caught() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "stringData": {"password": "b"}}
    assert broken_rules([secret]) == ["Secret a: expected secrets by reference, found one spelt out"]


def test_every_pod_of_every_part_is_looked_at() -> None:
    names = {
        kind: [container["name"] for pod in pods(one(kind, part, overlays)) for container in pod.spec["containers"]]
        for kind, part, overlays in (
            ("RayJob", "release", ("gpu-spot",)),
            ("RayService", "service", ()),
            ("StatefulSet", "service", ()),
            ("CronJob", "schedule", ()),
        )
    }
    assert names == {
        "RayJob": ["submitter", "ray-head", "autoscaler", "ray-worker", "ray-worker"],
        "RayService": ["ray-head", "ray-worker"],
        "StatefulSet": ["valkey"],
        "CronJob": ["launcher"],
    }


def test_ray_is_the_one_that_is_pinned() -> None:
    pinned = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray=="))
    clusters = [
        one("RayJob", "release")["spec"]["rayClusterSpec"],
        one("RayService", "service")["spec"]["rayClusterConfig"],
    ]
    assert {f"ray=={cluster['rayVersion']}" for cluster in clusters} == {pinned}


def test_every_image_is_pinned_by_its_digest() -> None:
    for part, overlays in COMBINATIONS:
        for manifest in manifests(part, overlays):
            for pod in pods(manifest):
                for container in pod.spec["containers"]:
                    assert "@sha256:" in container["image"], (part, overlays, pod.where)


def test_every_component_is_let_in_and_out_by_a_policy_and_everything_else_is_denied() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in manifests("platform") if one["kind"] == "NetworkPolicy"}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    components = {
        pod.labels["app.kubernetes.io/component"]
        for part, overlays in COMBINATIONS
        for manifest in manifests(part, overlays)
        for pod in pods(manifest)
    }
    named = yaml.safe_dump(policies)
    assert components == {"batch", "service", "submitter", "launcher", "gcs-store"}
    assert all(component in named for component in components)


def test_the_autoscaler_and_the_launcher_alone_hold_a_token_of_the_cluster() -> None:
    holders = set()
    for part, overlays in COMBINATIONS:
        for manifest in manifests(part, overlays):
            for pod in pods(manifest):
                label = pod.labels.get("voorwerp/kubernetes-api") == "true"
                assert bool(pod.spec.get("automountServiceAccountToken")) == label
                if label:
                    holders |= {container["name"] for container in pod.spec["containers"]}
    assert holders == {"ray-head", "autoscaler", "launcher"}
