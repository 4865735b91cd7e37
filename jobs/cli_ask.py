"""The command of `voorwerp` that asks a service."""

from typing import Annotated

import typer

from jobs.cli_options import EXIT_CODES
from jobs.cli_search import Approximate, Exclude, K, Where
from schemas.ask import AskJob
from schemas.config import load_job


def add_to(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(epilog=EXIT_CODES)(ask)


def ask(
    url: Annotated[str, typer.Argument(help="Of the service.", show_default=False)],
    table: Annotated[
        str,
        typer.Argument(help="Parquet, CSV, FITS or VOTable of ids, positions or vectors.", show_default=False),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Write a .parquet, .csv or .vot file.", show_default=False)
    ],
    id_column: Annotated[str | None, typer.Option(help="Column of ids in the table.", show_default=False)] = None,
    ra_column: Annotated[str | None, typer.Option(help="Column of RA in degrees.", show_default=False)] = None,
    dec_column: Annotated[str | None, typer.Option(help="Column of Dec in degrees.", show_default=False)] = None,
    vector_column: Annotated[str | None, typer.Option(help="Column of vectors.", show_default=False)] = None,
    match_radius: Annotated[float, typer.Option(help="A position matches an object within this many arcsec.")] = 20.0,
    k: K = 16,
    exclude: Exclude = 0.0,
    include_self: Annotated[bool, typer.Option("--include-self", help="Also list the query object.")] = False,
    where: Where = None,
    approximate: Approximate = None,
    token_file: Annotated[
        str | None, typer.Option(help="File that holds the token; VOORWERP_TOKEN when not given.", show_default=False)
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the job and its result at the service.")] = False,
) -> None:
    """Ask a service for the neighbours of a whole table, as `neighbours` asks a release.

    The table is sent, answered in units of work, and the result fetched. Interrupt it, and run the same command again:
    it goes on with the same job.

    Example: `voorwerp ask https://galaxies.example.org supernovae.csv --match-radius 5 -k 50 -o near.parquet`

    Example: `voorwerp ask http://127.0.0.1:8000 ids.parquet --token-file token.txt --where "mag_r < 18" -o near.vot`
    """
    settings = {
        "url": url,
        "table": table,
        "output": output,
        "id_column": id_column,
        "ra_column": ra_column,
        "dec_column": dec_column,
        "vector_column": vector_column,
        "match_radius_arcsec": match_radius,
        "k": k,
        "exclusion_radius_arcsec": exclude,
        "include_self": include_self,
        "where": where,
        "approximate": approximate,
        "token_file": token_file,
        "keep": keep,
    }
    job = load_job(AskJob, None, {name: value for name, value in settings.items() if value is not None})
    from jobs import ask as job_module

    job_module.run(job)
