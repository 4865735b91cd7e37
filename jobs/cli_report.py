"""The commands of `voorwerp` about report cards: writing them, and the keys that sign them."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument, overrides
from schemas.config import load_job
from schemas.report import ReportJob


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("report", epilog=EXIT_CODES)(report)
    app.command("keygen", epilog=EXIT_CODES)(keygen)


def report(
    release: ReleaseArgument,
    against: Annotated[
        str | None,
        typer.Option(
            help="Previous release of the same encoder: an output, or the id of a release of this one.",
            show_default="the one it was made onto",
        ),
    ] = None,
    as_of: Annotated[
        str | None, typer.Option("--release", help="Id of an earlier release of this output.", show_default=False)
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Private key that signs the report; voorwerp keygen.", show_default=False)
    ] = None,
    prices: Annotated[Path | None, typer.Option(help="YAML file of prices.", show_default=False)] = None,
    duplicates: Annotated[
        str | None, typer.Option(help="Folder of what voorwerp duplicates found.", show_default=False)
    ] = None,
    tile_objects: Annotated[
        int | None, typer.Option(help="Objects in a tile of the sky at most.", show_default="500")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Ray cluster to run on.", show_default=False)] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="Any other key.")] = None,
) -> None:
    """Write a report card of a release: what it holds, which parts of the sky stand out, how it was made.

    `voorwerp serve` shows the newest one. Run it again with --key to sign what is there.

    Example: `voorwerp report out`

    Example: `voorwerp report out --against s3://bucket/dr1 --key survey.key --prices prices.yaml`
    """
    options = {
        "release": release,
        "against": against,
        "as_of": as_of,
        "key": key,
        "prices": prices,
        "duplicates": duplicates,
        "tile_objects": tile_objects,
        "ray.address": ray_address,
    }
    job = load_job(ReportJob, None, overrides(options, set_))
    from jobs import report_card as job_module

    job_module.run(job)


def keygen(
    key: Annotated[Path, typer.Argument(help="File of the private key; the other one gets .pub.", show_default=False)],
) -> None:
    """Make a pair of keys to sign report cards with: one to keep, one to give to everybody.

    The private key can be read by its owner alone, and is not shown.

    Example: `voorwerp keygen survey.key`, then `voorwerp report out --key survey.key`
    """
    from jobs import keygen as job_module

    job_module.run(key)
