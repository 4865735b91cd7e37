"""The command of `voorwerp` that makes HATS collections."""

from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES, overrides
from schemas.config import load_job
from schemas.hats import HatsJob


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EXIT_CODES)(hats)


def hats(
    source: Annotated[
        str,
        typer.Argument(
            help="Output of a release, or a folder with a HATS catalogue: ranked/candidates.", show_default=False
        ),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="New folder or s3:// URI for the collection.", show_default=False)
    ],
    margin_arcsec: Annotated[
        float | None,
        typer.Option(help="Cross-matches up to this radius find everything; 0: no margin.", show_default="10"),
    ] = None,
    extension: Annotated[
        list[str] | None,
        typer.Option(help="Table to join: embeddings, predictions, map. Repeat for more.", show_default="embeddings"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the collection.", show_default="of the output")] = None,
) -> None:
    """Write a release as a HATS collection, complete and on its own, for LSDB and others.

    It has the components, their margin for cross-matches, and tables that are joined by id. Files are linked, not
    copied, where the disk has links.

    Example: `voorwerp hats out --output shared/survey --margin-arcsec 30`

    Example: `voorwerp hats out -o shared/survey --extension embeddings --extension predictions`

    Example: `voorwerp hats ranked/candidates -o shared/candidates`
    """
    options = {
        "source": source,
        "output": output,
        "margin_arcsec": margin_arcsec,
        "extensions": extension,
        "name": name,
    }
    job = load_job(HatsJob, None, overrides(options, None))
    from jobs import hats as job_module

    job_module.run(job)
