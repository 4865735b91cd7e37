"""Job: deploy launch. At the tick of a schedule: create its run, or say which release is missed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from cronsim import CronSim
from kubernetes import client
from kubernetes import config as kubernetes_config
from pydantic import ValidationError
from urllib3.exceptions import HTTPError

from engine.storage.lease import lease
from engine.storage.store import Store
from jobs.deploy import FOLDER, Manifest, plain_words
from jobs.report import note, warn
from schemas.config import ReleaseJob
from schemas.deploy import DATE, JOB_FILE, RELEASE_LABEL, SCHEDULE_LABEL, TIME, Schedule
from schemas.errors import BusyError, ConfigError, InputNotFoundError, StoreError
from schemas.validation import describe

JOB_VARIABLE = "VOORWERP_KUBERNETES_JOB"
"""Names the Kubernetes Job that the launcher runs in."""
_TICK = "batch.kubernetes.io/cronjob-scheduled-timestamp"
_ENDED = ("Complete", "Failed")
_MOST_NAMED = 20
_WITHIN_S = 30
_ALREADY_THERE = 409


class Tick(NamedTuple):
    """One time of a schedule."""

    schedule: str
    at: datetime

    @property
    def release(self) -> str:
        """Name of the run that belongs to it."""
        return f"{self.schedule}-{self.at.astimezone(UTC):%Y%m%d%H%M}"

    def filled(self, value: Any) -> Any:
        """Put the tick's date and time into every text of a config."""
        at = self.at.astimezone(UTC)
        if isinstance(value, dict):
            return {key: self.filled(inner) for key, inner in value.items()}
        return value.replace(DATE, f"{at:%Y-%m-%d}").replace(TIME, f"{at:%H%M}") if isinstance(value, str) else value


def run(file: Path) -> None:
    """Create the run of the tick that this launcher was started for.

    Ticks at which no launcher ran are named in warnings. A run that is there already is left as it is.

    Raises
    ------
    BusyError
        An earlier run of the schedule has not ended, or somebody works on the output: this release is missed.
    ConfigError, InputNotFoundError
        The schedule's file is not one, or not there.
    StoreError
        The Kubernetes API or the object store failed or refused.
    """
    schedule = read(file)
    with _api() as api:
        namespace = schedule.run["metadata"]["namespace"]
        launchers = _launchers(api, namespace, schedule.name)
        tick = Tick(schedule.name, launchers.get(os.environ.get(JOB_VARIABLE, "")) or datetime.now(UTC))
        for missed in missed_ticks(schedule, tick, list(launchers.values())):
            warn(f"release {missed.release} is missed: no launcher ran at {missed.at:%Y-%m-%d %H:%M} UTC")
        rayjob = run_of(schedule, tick)
        runs = _runs(api, namespace, schedule.name)
        if tick.release in runs:
            note("launch", f"{tick.release} is there already")
            return
        if unfinished := [name for name, has_ended in runs.items() if not has_ended]:
            raise BusyError(
                f"release {tick.release} is missed: run {unfinished[0]} of the same schedule has not ended. "
                f"Let it end, then create a run of its job by hand if {tick.release} is wanted."
            )
        output = tick.filled(schedule.job)["output"]
        try:
            with lease(Store(output)):
                pass  # Free. The run takes it again when its cluster is there.
        except BusyError as error:
            raise BusyError(f"release {tick.release} is missed: {error}") from error
        _create(api, namespace, rayjob)


def read(file: Path) -> Schedule:
    """Read the file of a schedule, as `voorwerp deploy render schedule` wrote it; errors as of `run`."""
    if not file.is_file():
        raise InputNotFoundError(f"expected the file of a schedule, found nothing at {file}")
    try:
        schedule = Schedule.model_validate(yaml.safe_load(file.read_text()))
        ReleaseJob.model_validate(schedule.job)
    except (ValidationError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: {describe(error, Schedule)}") from error
    return schedule


def run_of(schedule: Schedule, tick: Tick) -> Manifest:
    """Make the RayJob of a tick: the template, named after it, told what the tick changes of the job.

    Raises
    ------
    ConfigError
        A value that the tick changes cannot be told on a command line.
    """
    metadata = schedule.run["metadata"]
    told = [f"--set={key}={tick.filled(value)}" for key, value in _texts(schedule.job) if tick.filled(value) != value]
    return {
        **schedule.run,
        "metadata": {
            **metadata,
            "name": tick.release,
            "labels": {**metadata["labels"], SCHEDULE_LABEL: tick.schedule, RELEASE_LABEL: tick.release},
        },
        "spec": {
            **schedule.run["spec"],
            "entrypoint": " ".join(["voorwerp", "release", f"{FOLDER}/{JOB_FILE}", *plain_words(told)]),
        },
    }


def missed_ticks(schedule: Schedule, tick: Tick, launched: list[datetime]) -> list[Tick]:
    """List ticks after the last launcher before this one: the cluster, or the schedule, was stopped then."""
    before = [at for at in launched if at < tick.at]
    if not before:
        return []
    missed: list[Tick] = []
    for at in CronSim(schedule.cron, max(before)):
        if at >= tick.at or len(missed) == _MOST_NAMED:
            break
        missed.append(Tick(schedule.name, at))
    return missed


def _launchers(api: client.ApiClient, namespace: str, schedule: str) -> dict[str, datetime]:
    """Find the launchers of a schedule that are still known, and the ticks they were for."""
    found = client.BatchV1Api(api).list_namespaced_job(
        namespace, label_selector=f"{SCHEDULE_LABEL}={schedule}", _request_timeout=_WITHIN_S
    )
    return {
        job.metadata.name: datetime.fromisoformat(job.metadata.annotations[_TICK])
        for job in found.items
        if _TICK in (job.metadata.annotations or {})
    }


def _runs(api: client.ApiClient, namespace: str, schedule: str) -> dict[str, bool]:
    """Find the runs of a schedule that are still known, and whether each has ended."""
    found = client.CustomObjectsApi(api).list_namespaced_custom_object(
        "ray.io", "v1", namespace, "rayjobs", label_selector=f"{SCHEDULE_LABEL}={schedule}", _request_timeout=_WITHIN_S
    )
    return {
        one["metadata"]["name"]: (one.get("status") or {}).get("jobDeploymentStatus") in _ENDED
        for one in found["items"]
    }


def _create(api: client.ApiClient, namespace: str, rayjob: Manifest) -> None:
    name = rayjob["metadata"]["name"]
    try:
        client.CustomObjectsApi(api).create_namespaced_custom_object(
            "ray.io", "v1", namespace, "rayjobs", rayjob, _request_timeout=_WITHIN_S
        )
    except client.ApiException as error:
        if error.status != _ALREADY_THERE:
            raise
        note("launch", f"{name} is there already")
    else:
        note("launch", f"{name}: {rayjob['spec']['entrypoint']}")


@contextmanager
def _api() -> Iterator[client.ApiClient]:
    """Reach the cluster that this pod is in, else the one that kubectl reaches."""
    try:
        try:
            kubernetes_config.load_incluster_config()
        except kubernetes_config.ConfigException:
            kubernetes_config.load_kube_config()
        with client.ApiClient() as api:
            yield api
    except kubernetes_config.ConfigException as error:
        raise ConfigError(f"expected to run in a Kubernetes cluster, or a kubeconfig: {error}") from error
    except (client.ApiException, HTTPError) as error:
        reason = getattr(error, "reason", None) or error
        raise StoreError(f"the Kubernetes API failed or refused: {getattr(error, 'status', '')} {reason}") from error


def _texts(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from _texts(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}", value
