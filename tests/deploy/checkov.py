"""Pod templates through checkov, which lives in an environment of its own: `make check-deploy`.

Its pins do not go with this project's, and installing it takes minutes, so that it is no part of `make test`.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from jobs.deploy_rules import pods
from tests.deploy.manifests import COMBINATIONS, manifests

SKIPPED = {
    "CKV_K8S_8": "the operator adds liveness probes to Ray's nodes; runs and launchers end by themselves",
    "CKV_K8S_9": "the operator adds readiness probes to Ray's nodes; nobody calls runs and launchers",
    "CKV_K8S_35": "libraries for object stores and databases read variables",
    "CKV_K8S_38": "only pods that carry voorwerp/kubernetes-api hold a token, as a test of its own says",
    "CKV2_K8S_6": "pods are looked at alone; a test of its own finds the network policies of each",
}
PLANTED = {
    "CKV_K8S_16": {"privileged": True},
    "CKV_K8S_20": {"allowPrivilegeEscalation": True},
    "CKV_K8S_22": {"readOnlyRootFilesystem": False},
    "CKV_K8S_37": {"capabilities": {}},
}
"""Checks, and what a container's security context must say for each to fail."""


def as_pods() -> dict[str, dict[str, Any]]:
    """Every pod template that differs from the others, as a pod of its own."""
    found = {}
    for part, overlays in COMBINATIONS:
        for manifest in manifests(part, overlays):
            for number, pod in enumerate(pods(manifest)):
                name = "-".join((part, *overlays, manifest["kind"].lower(), str(number)))
                metadata = {"name": name, "namespace": "voorwerp", "labels": pod.labels}
                text = yaml.safe_dump(pod.spec)
                found.setdefault(text, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod.spec})
    return {pod["metadata"]["name"]: pod for pod in found.values()}


def failed(checkov: Path, documents: dict[str, dict[str, Any]]) -> list[tuple[str, str]]:
    """Run checkov; return the checks that fail, and of which pod."""
    with TemporaryDirectory() as folder:
        for name, document in documents.items():
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(document))
        command = [str(checkov), "-d", folder, "--framework", "kubernetes", "--output", "json", "--quiet", "--compact"]
        command += ["--skip-check", ",".join(SKIPPED)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(ran.stdout)
    n_passed = report.get("summary", report).get("passed", 0)
    if not n_passed:
        raise SystemExit(f"checkov looked at nothing:\n{ran.stdout}\n{ran.stderr}")
    checks = report.get("results", {}).get("failed_checks", [])
    return [(check["check_id"], check["resource"].rpartition(".")[2]) for check in checks]


def main(checkov: Path) -> None:
    """Check every pod template, and that planted mistakes are found."""
    good = as_pods()
    name, pod = next(iter(good.items()))
    planted = yaml.safe_load(yaml.safe_dump(pod))
    for change in PLANTED.values():
        planted["spec"]["containers"][0]["securityContext"].update(change)
    planted["metadata"]["name"] = "planted"
    found = failed(checkov, {**good, "planted": planted})
    problems = [(check, resource) for check, resource in found if resource != "planted"]
    missed = PLANTED.keys() - {check for check, resource in found if resource == "planted"}
    for check, resource in problems:
        print(f"{resource}: {check}")
    if problems or missed:
        raise SystemExit(f"{len(problems)} checks failed; planted mistakes that were not found: {sorted(missed)}")
    print(f"checkov: nothing is wrong in {len(good)} pods, of which {name} is one; 4 planted mistakes were found")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
