"""Every part with every overlay that goes with it, rendered once."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from jobs import deploy
from jobs.deploy_check import Loader
from schemas.config import load_job
from schemas.deploy import PARTS, DeployConfig

ROOT = Path(__file__).parents[2]
IMAGE = "registry.example.org/voorwerp@sha256:" + "1" * 64
GPU_IMAGE = "registry.example.org/voorwerp-gpu@sha256:" + "2" * 64
CATALOGUE = {"path": "s3://survey/dr1/catalogue.parquet"}
RELEASE = {
    "catalogue": CATALOGUE,
    "encoder": {"architecture": "efficientnet_b0", "weights": "s3://survey/encoders/galaxies.safetensors"},
    "output": "s3://survey/dr1/voorwerp",
}
JOBS: dict[str, dict[str, Any] | None] = {
    "platform": None,
    "service": {"release": "s3://survey/dr1/voorwerp"},
    "schedule": {**RELEASE, "output": "s3://survey/{date}/voorwerp"},
    **dict.fromkeys(("release", "plan", "embed", "reduce", "index"), RELEASE),
    "pack": {"catalogue": CATALOGUE, "output": "s3://survey/packed"},
    "pretrain": {"catalogue": CATALOGUE, "votes": "s3://survey/votes.parquet", "output": "s3://survey/encoder"},
    "experiment": {
        "catalogue": CATALOGUE,
        "labels": "s3://survey/rings.parquet",
        "output": "s3://survey/rings",
        "encoders": {"scratch": None},
    },
    "map": {"release": "s3://survey/dr1/voorwerp", "sample": 10_000, "figure": {"columns": 60}},
    "graph": {"release": "s3://survey/dr1/voorwerp", "output": "s3://survey/dr1/graph/"},
    "duplicates": {"release": "s3://survey/dr1/voorwerp", "output": "s3://survey/dr1/duplicates.parquet"},
    "predict": {"model": "s3://survey/encoder", "release": "s3://survey/dr1/voorwerp"},
    "finetune": {
        "release": "s3://survey/dr1/voorwerp",
        "labels": "s3://survey/rings.csv",
        "output": "s3://survey/dr1/rings",
        "split": {"test": 0.3},
    },
    "rank": {
        "release": "s3://survey/dr1/voorwerp",
        "ratings": "s3://survey/ratings.csv",
        "output": "s3://survey/dr1/ranked",
        "top": 500,
    },
}
OVERLAYS = [(), ("local",), ("gpu-spot",), ("kueue",), ("gpu-spot", "kueue"), ("postgres",), ("local", "postgres")]
COMBINATIONS = [
    *((part, ()) for part in PARTS),
    *(("release", overlays) for overlays in OVERLAYS[1:]),
    *(("service", overlays) for overlays in OVERLAYS[1:] if "gpu-spot" not in overlays),
    ("schedule", ("gpu-spot",)),
    ("map", ("kueue",)),
]


def render(part: str, overlays: tuple[str, ...] = (), settings: dict[str, Any] | None = None, **options: Any) -> str:
    """Render a part with its example job; settings override single keys of it."""
    images = {} if part == "platform" else {"image": IMAGE, "gpu_image": GPU_IMAGE}
    config = DeployConfig.model_validate({"part": part, "overlays": overlays, **images, **options})
    model = deploy.model_of(part)
    if model is None:
        return deploy.run(config, None)
    extra = {"jobs_folder": "s3://survey/jobs"} if part == "service" and "postgres" in overlays else {}
    return deploy.run(config, load_job(model, None, {**copy.deepcopy(JOBS[part] or {}), **extra, **(settings or {})}))


@cache
def rendered(part: str, overlays: tuple[str, ...] = ()) -> str:
    """Render a part as `render` does, once."""
    return render(part, overlays)


def manifests(part: str, overlays: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """Read what `rendered` made, anew each time, so that a test may spoil it; the run of a schedule among them."""
    found = list(yaml.load_all(rendered(part, overlays), Loader=Loader))
    for manifest in list(found):
        if text := (manifest.get("data") or {}).get("schedule.yaml"):
            found += [yaml.safe_load(text)["run"]]
    return found


def one(kind: str, part: str, overlays: tuple[str, ...] = ()) -> dict[str, Any]:
    """Find the one manifest of a kind."""
    (found,) = (manifest for manifest in manifests(part, overlays) if manifest["kind"] == kind)
    return found
