"""Commands of `voorwerp` about releases over time: how far one is, and what differs between two."""

from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument, overrides
from schemas.config import load_job
from schemas.diff import DiffJob


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog=EXIT_CODES)(status)
    app.command(epilog=EXIT_CODES)(diff)


def status(
    release: ReleaseArgument,
    json_: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Tell what an output holds, which run works on it, and how far that is; from any machine, writing nothing.

    Example: `voorwerp status s3://bucket/dr1`

    Example: `voorwerp status out --json`
    """
    from jobs import status as job_module

    job_module.run(release, json_)


def diff(
    release: ReleaseArgument,
    previous: Annotated[
        str | None,
        typer.Argument(help="Output of the older release; the release before in the same output.", show_default=False),
    ] = None,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Folder for the tables.", show_default=False)
    ] = None,
    as_of: Annotated[str | None, typer.Option(help="Id of the newer release.", show_default="current")] = None,
    previous_as_of: Annotated[
        str | None, typer.Option(help="Id of the older release.", show_default="the one before")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", help="Neighbours that are compared.", show_default="10")] = None,
    sample: Annotated[
        int | None, typer.Option(help="Objects whose neighbours are compared; 0: of none.", show_default="1000")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="Any other key: -s seed=3.")] = None,
) -> None:
    """Compare two releases: objects that were added, changed, moved or dropped, and neighbours that are others now.

    Example: `voorwerp diff out`

    Example: `voorwerp diff dr2 dr1 -k 50 --sample 10000 -o dr2-changes`
    """
    options = {
        "release": release,
        "previous": previous,
        "output": output,
        "as_of": as_of,
        "previous_as_of": previous_as_of,
        "k": k,
        "sample": sample,
    }
    config = load_job(DiffJob, None, overrides(options, set_))
    from jobs import diff as job_module

    job_module.run(config)
