"""What is deployed to Kubernetes: which part, under which name, how large; and a schedule as its launcher reads it."""

import re
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StringConstraints, model_validator

from schemas.config import Section

Stage = Literal[
    "release",
    "plan",
    "embed",
    "reduce",
    "index",
    "pack",
    "pretrain",
    "experiment",
    "map",
    "graph",
    "duplicates",
    "predict",
    "finetune",
    "rank",
]
"""Commands that run as a RayJob each."""
Part = Literal["platform", "service", "schedule", Stage]
Overlay = Literal["local", "gpu-spot", "kueue", "postgres"]
STAGES: tuple[Stage, ...] = get_args(Stage)
PARTS: tuple[Part, ...] = get_args(Part)
OVERLAYS: tuple[Overlay, ...] = get_args(Overlay)

MOST_CLUSTER_NAME = 53
"""Characters of a RayCluster's name that KubeRay takes: its longest service adds ten to it."""
MOST_NAME = 47
"""Of a RayJob's and a RayService's: KubeRay adds six to name their clusters."""
MOST_SCHEDULE_NAME = MOST_NAME - len("-202611280400")
JOB_FILE = "job.yaml"
SCHEDULE_FILE = "schedule.yaml"
SCHEDULE_LABEL = "voorwerp/schedule"
RELEASE_LABEL = "voorwerp/release"
DATE, TIME = "{date}", "{time}"
"""In a scheduled job: replaced by the tick's, as in 2026-11-28 and 0400 (UTC)."""

DnsName = Annotated[str, StringConstraints(pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
Image = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-zA-Z0-9._:/-]*(@sha256:[0-9a-f]{64})?$")]


class DeployConfig(Section):
    """One part of a deployment."""

    part: Part = Field(description="platform, service, schedule, or the command of a run")
    name: DnsName = Field("voorwerp", description="of the run, the service or the schedule")
    namespace: DnsName = Field("voorwerp", description="that everything goes to")
    image: Image | None = Field(None, description="of CPUs, by its digest")
    gpu_image: Image | None = Field(None, description="of GPUs, by its digest; needed by overlay gpu-spot")
    overlays: tuple[Overlay, ...] = Field((), description="local, gpu-spot, kueue, postgres; in this order")
    workers: int | None = Field(None, ge=1, le=10_000, description="CPU workers; as in the manifests when null")
    gpus: int | None = Field(None, ge=1, le=10_000, description="GPU workers of overlay gpu-spot; 4 when null")
    worker_cpus: int | None = Field(None, ge=1, le=512, description="of a CPU worker; 8 (local: 2) when null")
    worker_gib: int | None = Field(None, ge=1, le=10_000, description="memory of a CPU worker; 32 (local: 4) when null")
    head_gib: int | None = Field(
        None, ge=1, le=10_000, description="memory of the head, which plans; 8 (local: 3) when null"
    )
    deadline_hours: float = Field(48.0, gt=0, le=8760, description="after which a run is ended, and not retried")
    retries: int = Field(3, ge=0, le=100, description="new clusters for a run that fails; each resumes")
    cron: str = Field("0 4 * * *", description="of a schedule, in UTC")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        most = MOST_SCHEDULE_NAME if self.part == "schedule" else MOST_NAME
        if len(self.name) > most:
            raise ValueError(f"name: expected at most {most} characters, found {len(self.name)} in {self.name!r}")
        if self.overlays != tuple(one for one in OVERLAYS if one in self.overlays):
            raise ValueError(f"overlays: expected each once, in the order {', '.join(OVERLAYS)}, found {self.overlays}")
        if self.part == "platform":
            return self
        if self.image is None:
            raise ValueError("image: expected the image of CPUs, found none")
        if "gpu-spot" in self.overlays and self.gpu_image is None and self.part != "service":
            raise ValueError("gpu_image: expected the image of GPUs with overlay gpu-spot, found none")
        if "local" not in self.overlays:
            for image in filter(None, (self.image, self.gpu_image)):
                if "@sha256:" not in image:
                    raise ValueError(
                        f"image: expected one by its digest, NAME@sha256:..., found {image!r}: what a tag stands for "
                        "may change under a run (overlay local takes tags)"
                    )
        return self


class Schedule(Section):
    """What the launcher of a schedule is given."""

    name: DnsName
    cron: str
    job: dict[str, Any]
    """A `ReleaseJob`, in which {date} and {time} stand for those of the tick."""
    run: dict[str, Any]
    """The RayJob that a tick creates, but for its name and what the tick changes of its job."""


_PLAIN = re.compile(r"[A-Za-z0-9_./:=,+@%-]+")


def is_plain(text: str) -> bool:
    """Whether a word may stand in a run's command line: two shells read it on its way."""
    return _PLAIN.fullmatch(text) is not None
