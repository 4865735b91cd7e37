"""What KubeRay's operator, restricted pod security and this project ask of manifests, beyond what their schemas say.

A schema lets through what only the operator refuses, after it was applied, in an event that nobody reads.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

from schemas.deploy import MOST_CLUSTER_NAME, MOST_NAME

Manifest = dict[str, Any]
_DNS_NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
_NAME_LENGTHS = {"RayJob": MOST_NAME, "RayService": MOST_NAME, "RayCluster": MOST_CLUSTER_NAME, "CronJob": 52}
_SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
_UPGRADES = ("None", "NewCluster", "NewClusterWithIncrementalUpgrade")
_TOKEN_SINCE = (2, 52)
_SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|CREDENTIAL", re.IGNORECASE)
_AUTOSCALER_V2 = "RAY_enable_autoscaler_v2"
_QUEUE = "kueue.x-k8s.io/queue-name"


class Pod(NamedTuple):
    """A pod template, wherever it is in a manifest."""

    where: str
    spec: Manifest
    labels: dict[str, str]


def broken_rules(manifests: Iterable[Manifest]) -> list[str]:
    """List which rules the manifests break: kind, name, key, what was expected and found."""
    broken = []
    for manifest in manifests:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        problems = [*_metadata(kind, name, manifest["metadata"].get("annotations") or {})]
        if kind == "RayJob":
            problems += [*_rayjob(manifest["spec"]), *_queued(manifest)]
        if kind == "RayService":
            problems += _rayservice(manifest["spec"])
        if kind == "RayCluster":
            problems += _cluster("spec", manifest["spec"])
        if kind == "CronJob" and manifest["spec"].get("concurrencyPolicy") != "Forbid":
            problems.append("spec.concurrencyPolicy: expected Forbid")
        if kind == "Secret":
            problems.append("expected secrets by reference, found one spelt out")
        for pod in pods(manifest):
            problems += _pod(pod)
        broken += [f"{kind} {name}: {problem}" for problem in problems]
    return broken


def pods(manifest: Manifest) -> list[Pod]:
    """List every pod template of a manifest, with the autoscaler that the operator adds to a head."""
    spec = manifest.get("spec") or {}
    kind = manifest["kind"]
    if kind == "CronJob":
        return [_template("spec.jobTemplate.spec.template", spec["jobTemplate"]["spec"]["template"])]
    if kind in ("Deployment", "StatefulSet", "DaemonSet", "Job"):
        return [_template("spec.template", spec["template"])]
    found = []
    if "submitterPodTemplate" in spec:
        found.append(_template("spec.submitterPodTemplate", spec["submitterPodTemplate"]))
    elif kind == "RayJob" and spec.get("submissionMode", "K8sJobMode") == "K8sJobMode":
        found.append(Pod("spec.submitterPodTemplate", {"containers": [{"name": "submitter"}]}, {}))
    for place in ("rayClusterSpec", "rayClusterConfig"):
        if place in spec:
            found += _cluster_pods(f"spec.{place}", spec[place])
    return found + (_cluster_pods("spec", spec) if kind == "RayCluster" else [])


def _cluster_pods(where: str, cluster: Manifest) -> list[Pod]:
    head = _template(f"{where}.headGroupSpec.template", cluster["headGroupSpec"]["template"])
    if cluster.get("enableInTreeAutoscaling"):
        options = cluster.get("autoscalerOptions") or {}
        autoscaler = {
            "name": "autoscaler",
            "image": head.spec["containers"][0].get("image"),
            **{
                key: options[key]
                for key in ("image", "imagePullPolicy", "env", "resources", "securityContext")
                if key in options
            },
        }
        containers = [*head.spec.get("containers", []), autoscaler]
        head = head._replace(spec={**head.spec, "containers": containers})
    groups = cluster.get("workerGroupSpecs") or []
    return [
        head,
        *(
            _template(f"{where}.workerGroupSpecs[{number}].template", group["template"])
            for number, group in enumerate(groups)
        ),
    ]


def _template(where: str, template: Manifest) -> Pod:
    return Pod(where, template["spec"], (template.get("metadata") or {}).get("labels") or {})


def _metadata(kind: str, name: str, annotations: dict[str, str]) -> Iterator[str]:
    if kind in _NAME_LENGTHS:
        if len(name) > _NAME_LENGTHS[kind]:
            yield f"metadata.name: expected at most {_NAME_LENGTHS[kind]} characters, found {len(name)}"
        if not _DNS_NAME.fullmatch(name):
            yield "metadata.name: expected a letter, then letters, digits and hyphens, all small"
    if "ray.io/ft-enabled" in annotations:
        yield "metadata.annotations: expected gcsFaultToleranceOptions instead of ray.io/ft-enabled"


def _rayjob(spec: Manifest) -> Iterator[str]:
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in _SUBMISSION_MODES:
        yield f"spec.submissionMode: expected one of {', '.join(_SUBMISSION_MODES)}, found {mode!r}"
    if mode == "SidecarMode" and ("submitterPodTemplate" in spec or "submitterConfig" in spec):
        yield "spec.submissionMode: expected no submitterPodTemplate and no submitterConfig with SidecarMode"
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield "spec.backoffLimit: expected 0 with InteractiveMode"
    shuts_down = spec.get("shutdownAfterJobFinishes", False)
    if not shuts_down:
        yield "spec.shutdownAfterJobFinishes: expected true, or machines are held when the run has ended"
    if spec.get("ttlSecondsAfterFinished", 0) > 0 and not shuts_down:
        yield "spec.ttlSecondsAfterFinished: expected 0 without shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished", 0) < 0:
        yield "spec.ttlSecondsAfterFinished: expected 0 or more"
    if spec.get("suspend") and not shuts_down:
        yield "spec.suspend: expected shutdownAfterJobFinishes with it"
    strategy = spec.get("deletionStrategy") or {}
    if strategy.get("deletionRules") and shuts_down:
        yield "spec.deletionStrategy.deletionRules: expected none with shutdownAfterJobFinishes"
    if spec.get("backoffLimit", 0) < 0:
        yield "spec.backoffLimit: expected 0 or more"
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is None or deadline <= 0:
        yield "spec.activeDeadlineSeconds: expected a deadline of at least a second"
    elif (before := spec.get("preRunningDeadlineSeconds")) is None or before > deadline:
        yield f"spec.preRunningDeadlineSeconds: expected one that is not after the deadline, {deadline}, found {before}"
    if not str(spec.get("entrypoint", "")).strip():
        yield "spec.entrypoint: expected a command"
    if "clusterSelector" in spec:
        yield "spec.clusterSelector: expected a cluster of the run's own, rayClusterSpec"
    elif "rayClusterSpec" not in spec:
        yield "spec.rayClusterSpec: expected one"
    else:
        yield from _cluster("spec.rayClusterSpec", spec["rayClusterSpec"])
        if "gcsFaultToleranceOptions" in spec["rayClusterSpec"]:
            yield "spec.rayClusterSpec.gcsFaultToleranceOptions: expected none; a run is resumed on a new cluster"


def _queued(manifest: Manifest) -> Iterator[str]:
    """What Kueue asks of a run that waits in a queue."""
    if _QUEUE in (manifest["metadata"].get("labels") or {}):
        if (manifest["spec"].get("rayClusterSpec") or {}).get("enableInTreeAutoscaling"):
            yield "spec.rayClusterSpec.enableInTreeAutoscaling: expected false in a queue of Kueue"
        if len((manifest["spec"].get("rayClusterSpec") or {}).get("workerGroupSpecs") or []) > 7:
            yield "spec.rayClusterSpec.workerGroupSpecs: expected at most 7 in a queue of Kueue"


def _rayservice(spec: Manifest) -> Iterator[str]:
    upgrade = (spec.get("upgradeStrategy") or {}).get("type", "NewCluster")
    if upgrade not in _UPGRADES:
        yield f"spec.upgradeStrategy.type: expected one of {', '.join(_UPGRADES)}, found {upgrade!r}"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "spec.rayClusterDeletionDelaySeconds: expected 0 or more"
    cluster = spec["rayClusterConfig"]
    yield from _cluster("spec.rayClusterConfig", cluster)
    if "gcsFaultToleranceOptions" not in cluster:
        yield "spec.rayClusterConfig.gcsFaultToleranceOptions: expected them, or the service ends with its head"
    if ((cluster["headGroupSpec"].get("headService") or {}).get("metadata") or {}).get("name"):
        yield "spec.rayClusterConfig.headGroupSpec.headService: expected no name"
    try:
        applications = (yaml.safe_load(spec.get("serveConfigV2", "")) or {}).get("applications")
    except (yaml.YAMLError, AttributeError):
        applications = None
    if not applications:
        yield "spec.serveConfigV2: expected YAML with applications"


def _cluster(where: str, spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]
    groups = spec.get("workerGroupSpecs") or []
    if (head.get("rayStartParams") or {}).get("num-cpus") != "0":
        yield f'{where}.headGroupSpec.rayStartParams: expected num-cpus: "0", or work crowds out the head'
    if (spec.get("authOptions") or {}).get("mode") != "token":
        yield f"{where}.authOptions.mode: expected token, or anybody who reaches the head may run code there"
    version = re.match(r"(\d+)\.(\d+)", str(spec.get("rayVersion", "")))
    if not version or tuple(map(int, version.groups())) < _TOKEN_SINCE:
        yield f"{where}.rayVersion: expected 2.52 or later, which tokens need, found {spec.get('rayVersion')!r}"
    names = [group["groupName"] for group in groups]
    if len(set(names)) < len(names):
        yield f"{where}.workerGroupSpecs: expected names that differ, found {', '.join(names)}"
    for name, group in (("headgroup", head), *zip(names, groups, strict=True)):
        parameters = group.get("rayStartParams") or {}
        if wrong := [key for key, value in parameters.items() if not isinstance(value, str)]:
            yield f"{where}, group {name}: expected text in rayStartParams, found other values for {', '.join(wrong)}"
        if group.get("resources") and {"num-cpus", "num-gpus", "memory", "resources"} & parameters.keys():
            yield f"{where}, group {name}: expected resources or rayStartParams to say them, found both"
        if "labels" in parameters:
            yield f"{where}, group {name}: expected labels beside rayStartParams, not in it"
    for name, group in zip(names, groups, strict=True):
        few, many, least = group.get("replicas", 0), group.get("maxReplicas", 2**31 - 1), group.get("minReplicas", 0)
        if not 0 <= least <= few <= many:
            yield (
                f"{where}, group {name}: expected minReplicas <= replicas <= maxReplicas, found {least}, {few}, {many}"
            )
        if not _DNS_NAME.fullmatch(name):
            yield f"{where}, group {name}: expected a name of letters, digits and hyphens, all small"
    yield from _autoscaler(where, spec)
    yield from _fault_tolerance(where, spec)


def _autoscaler(where: str, spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]["template"]["spec"]
    groups = spec.get("workerGroupSpecs") or []
    variables = {variable["name"] for variable in head["containers"][0].get("env") or []}
    if not spec.get("enableInTreeAutoscaling"):
        if _AUTOSCALER_V2 in variables:
            yield f"{where}: expected enableInTreeAutoscaling with {_AUTOSCALER_V2}"
        return
    options = spec.get("autoscalerOptions") or {}
    if options.get("version") != "v2":
        yield f"{where}.autoscalerOptions.version: expected v2"
    if _AUTOSCALER_V2 in variables:
        yield f"{where}: expected autoscalerOptions.version instead of {_AUTOSCALER_V2}"
    for template in (head, *(group["template"]["spec"] for group in groups)):
        if template.get("restartPolicy", "Never") != "Never":
            yield f"{where}: expected restartPolicy Never or none with autoscaler v2"
    if any(group.get("suspend") for group in groups):
        yield f"{where}.workerGroupSpecs: expected none suspended with an autoscaler"
    if head.get("automountServiceAccountToken") is False:
        yield f"{where}.headGroupSpec: expected automountServiceAccountToken, which the autoscaler needs"


def _fault_tolerance(where: str, spec: Manifest) -> Iterator[str]:
    head = spec["headGroupSpec"]
    variables = {variable["name"] for variable in head["template"]["spec"]["containers"][0].get("env") or []}
    parameters = head.get("rayStartParams") or {}
    options = spec.get("gcsFaultToleranceOptions")
    if wrong := variables & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME"}:
        yield f"{where}: expected gcsFaultToleranceOptions instead of {', '.join(sorted(wrong))}"
    if wrong := parameters.keys() & {"redis-password", "redis-username"}:
        yield f"{where}: expected gcsFaultToleranceOptions instead of rayStartParams {', '.join(sorted(wrong))}"
    if options and "value" in (options.get("redisPassword") or {}):
        yield f"{where}.gcsFaultToleranceOptions.redisPassword: expected a reference to a secret, found it spelt out"


def _pod(pod: Pod) -> Iterator[str]:
    """What the restricted standard of pod security asks, and that nothing secret is spelt out."""
    security = pod.spec.get("securityContext") or {}
    if any(pod.spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
        yield f"{pod.where}: expected no namespaces of the host"
    for volume in pod.spec.get("volumes") or []:
        if "hostPath" in volume:
            yield f"{pod.where}: expected no hostPath, found volume {volume['name']}"
    for container in [*(pod.spec.get("initContainers") or []), *(pod.spec.get("containers") or [])]:
        where = f"{pod.where}, container {container['name']}"
        own = container.get("securityContext") or {}
        if not (own.get("runAsNonRoot", security.get("runAsNonRoot"))):
            yield f"{where}: expected runAsNonRoot: true"
        if own.get("runAsUser", security.get("runAsUser")) == 0:
            yield f"{where}: expected another user than root"
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield f"{where}: expected allowPrivilegeEscalation: false, and not privileged"
        capabilities = own.get("capabilities") or {}
        if capabilities.get("drop") != ["ALL"] or set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
            yield f"{where}: expected capabilities: {{drop: [ALL]}}"
        profile = own.get("seccompProfile") or security.get("seccompProfile") or {}
        if profile.get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{where}: expected seccompProfile RuntimeDefault"
        for key in ("requests", "limits"):
            if "memory" not in ((container.get("resources") or {}).get(key) or {}):
                yield f"{where}: expected memory in resources.{key}"
        for variable in container.get("env") or []:
            if _SECRET_NAME.search(variable["name"]) and "value" in variable:
                yield f"{where}: expected {variable['name']} by reference to a secret, found it spelt out"
