"""The command of `voorwerp` that makes maps."""

from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument, overrides
from schemas.config import load_job
from schemas.map import MapJob


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("map", epilog=EXIT_CODES)(map_)


def map_(
    release: ReleaseArgument,
    figure: Annotated[
        str | None, typer.Option(help="Draw the atlas, galaxies where they lie, as .png or .pdf.", show_default=False)
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(help='Draw only galaxies for which this holds, for example "mag_r < 18".', show_default=False),
    ] = None,
    page: Annotated[str | None, typer.Option(help="Width of the atlas: a4 or a3.", show_default="a4")] = None,
    columns: Annotated[int | None, typer.Option(help="Galaxies across the atlas.", show_default="40")] = None,
    sample: Annotated[
        int | None, typer.Option(help="Objects that the map is fitted on; the others are placed.", show_default="50000")
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(help="Of each object, that the map is to keep near.", show_default="15")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same map.", show_default="0")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, or cuda: fit with cuML; another map.", show_default="cpu")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="Any other key: -s min_distance=0.3.")] = None,
) -> None:
    """Map a release: every object gets a place in two dimensions, near those that are like it.

    `voorwerp serve` shows the newest map of what it serves. Run the command again to resume, or to draw another atlas.

    Example: `voorwerp map out`

    Example: `voorwerp map out --figure atlas.pdf --page a3 --columns 60`

    Example: `voorwerp map out --figure spirals.png --where "spiral_fraction > 0.8"`
    """
    options = {
        "release": release,
        "figure.path": figure,
        "figure.where": where,
        "figure.page": page,
        "figure.columns": columns,
        "sample": sample,
        "neighbours": neighbours,
        "seed": seed,
        "device": device,
    }
    job = load_job(MapJob, None, overrides(options, set_))
    from jobs import map as job_module

    job_module.run(job)
