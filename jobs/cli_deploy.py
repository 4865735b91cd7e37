"""The commands of `voorwerp` for Kubernetes: deploy, with its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli_options import EXIT_CODES, overrides
from schemas.config import load_job
from schemas.deploy import OVERLAYS, PARTS, DeployConfig
from schemas.errors import ConfigError

deploy = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Manifests for Kubernetes: render them, check them, and launch runs by the clock.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.add_typer(deploy, name="deploy", epilog=EXIT_CODES)


@deploy.command(epilog=EXIT_CODES)
def render(
    part: Annotated[str, typer.Argument(help=f"{', '.join(PARTS)}.", show_default=False)],
    job: Annotated[
        Path | None, typer.Argument(help="YAML file of the job, or of the service's settings.", show_default=False)
    ] = None,
    overlay: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(OVERLAYS)}; may be given several times.", show_default=False)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of the run, the service or the schedule.", show_default="voorwerp")
    ] = None,
    namespace: Annotated[str | None, typer.Option(help="Where it goes.", show_default="voorwerp")] = None,
    image: Annotated[str | None, typer.Option(help="Of CPUs, NAME@sha256:...", show_default=False)] = None,
    gpu_image: Annotated[str | None, typer.Option(help="Of GPUs, for overlay gpu-spot.", show_default=False)] = None,
    workers: Annotated[int | None, typer.Option(help="CPU workers.", show_default="as in the manifests")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPU workers of gpu-spot.", show_default="4")] = None,
    worker_cpus: Annotated[int | None, typer.Option(help="Cores of a CPU worker.", show_default="8")] = None,
    worker_gib: Annotated[int | None, typer.Option(help="Memory of a CPU worker.", show_default="32")] = None,
    head_gib: Annotated[int | None, typer.Option(help="Memory of the head, which plans.", show_default="8")] = None,
    deadline_hours: Annotated[float | None, typer.Option(help="After which a run is ended.", show_default="48")] = None,
    retries: Annotated[int | None, typer.Option(help="New clusters for a run that fails.", show_default="3")] = None,
    cron: Annotated[str | None, typer.Option(help="Of a schedule, in UTC.", show_default="0 4 * * *")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", "-s", help="Any key of the job: -s embed.batch_size=256")
    ] = None,
) -> None:
    """Print the manifests of one part: the platform once, then runs, a service, or a schedule.

    Example: `voorwerp deploy render platform | kubectl apply -f -`

    Example: `voorwerp deploy render release job.yaml --overlay gpu-spot --name dr1 --image registry/voorwerp@sha256:...
    --gpu-image registry/voorwerp-gpu@sha256:... -s output=s3://survey/dr1 > dr1.yaml`

    Example: `voorwerp deploy render schedule nightly.yaml --cron "0 4 * * *" --image registry/voorwerp@sha256:...`
    """
    options: dict[str, Any] = {"part": part, "overlays": overlay or [], "name": name, "namespace": namespace}
    options |= {"image": image, "gpu_image": gpu_image, "workers": workers, "gpus": gpus, "worker_cpus": worker_cpus}
    options |= {
        "worker_gib": worker_gib,
        "head_gib": head_gib,
        "deadline_hours": deadline_hours,
        "retries": retries,
        "cron": cron,
    }
    config = load_job(DeployConfig, None, overrides(options, None))
    from jobs import deploy as job_module

    model = job_module.model_of(config.part)
    if model is None and (job or set_):
        raise ConfigError("platform: expected no job")
    loaded = load_job(model, job, overrides({}, set_)) if model else None
    with _needed():
        typer.echo(job_module.run(config, loaded), nl=False)


@deploy.command(epilog=EXIT_CODES)
def check(
    manifests: Annotated[Path, typer.Argument(help="YAML file of manifests.", show_default=False)],
    crds: Annotated[
        Path | None,
        typer.Option(
            help="Folder of KubeRay's custom resource definitions.", envvar="VOORWERP_CRDS", show_default=False
        ),
    ] = None,
) -> None:
    """Check manifests without a cluster: against Kubernetes' schemas, KubeRay's, and what only its operator refuses.

    Example: `voorwerp deploy check dr1.yaml --crds kuberay/helm-chart/kuberay-operator/crds`
    """
    with _needed():
        from jobs import deploy_check as job_module
    if not job_module.run(manifests, crds):
        raise typer.Exit(1)


@deploy.command(epilog=EXIT_CODES)
def launch(
    schedule: Annotated[Path, typer.Argument(help="File that render wrote for a schedule.", show_default=False)],
) -> None:
    """Create the run of a schedule's tick, or exit with 75 and name the release that is missed. A CronJob runs this.

    Example: `voorwerp deploy launch /etc/voorwerp/schedule.yaml`
    """
    with _needed():
        from jobs import launch as job_module
    job_module.run(schedule)


@contextmanager
def _needed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("cel", "cronsim", "jsonschema", "kubernetes", "kubernetes_validate"):
            raise
        raise ConfigError("this needs a few more packages: pip install 'voorwerp[deploy]'") from error
