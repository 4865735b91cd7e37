"""The command `voorwerp doctor`."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EXIT_CODES)(doctor)


def doctor(
    output: Annotated[
        str | None, typer.Argument(help="Folder or s3:// URI where a release is or is to be.", show_default=False)
    ] = None,
    job: Annotated[Path | None, typer.Option(help="A release job: checks its inputs.", show_default=False)] = None,
    database: Annotated[
        str | None,
        typer.Option(help="Of campaigns and tokens; as of `voorwerp campaign` when not given.", show_default=False),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Start Ray, or reach its cluster: some seconds.")] = True,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Check an installation: versions, GPUs, memory, disks, Ray, the store of a release, a job's inputs, the database.

    Each check is ok, a warning or a failure, with what to do; a failure makes the exit code 1. What is written to check
    a store is deleted again.

    Example: `voorwerp doctor`

    Example: `voorwerp doctor s3://bucket/dr1 --job job.yaml --json`
    """
    from jobs import doctor as job_module

    if not job_module.run(output, job, database, ray, json):
        raise typer.Exit(1)
