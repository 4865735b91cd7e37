"""The ranking commands of `voorwerp`: rank, and campaign with its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument, overrides
from schemas.campaign import CampaignConfig, RankJob, SimulatedCampaignJob
from schemas.config import RayConfig, load_job
from schemas.errors import ConfigError

NameArgument = Annotated[str, typer.Argument(help="Name of the campaign.", show_default=False)]
Rater = Annotated[str | None, typer.Option(help="Who rates; your user name when not given.", show_default=False)]
Database = Annotated[
    str | None,
    typer.Option(
        help="File or postgresql:// URL of campaigns; VOORWERP_DATABASE, else voorwerp-campaigns.sqlite here.",
        show_default=False,
    ),
]
Settings = Annotated[list[str] | None, typer.Option("--set", "-s", help="Any other key: -s seed=7.")]
Example = Annotated[
    list[str] | None, typer.Option(help="Id of a known example, taken as rated 5; may be given several times.")
]

campaign = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Find what you find interesting: rate a few galaxies at a time, and a Gaussian process asks about the next.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog=EXIT_CODES)(rank)
    app.add_typer(campaign, name="campaign", epilog=EXIT_CODES)


def rank(
    release: ReleaseArgument,
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder or s3:// URI for the ranking.", show_default=False)
    ],
    ratings: Annotated[
        str | None, typer.Option(help="CSV or Parquet of ids and ratings 0 to 5; Astronomaly's CSV.")
    ] = None,
    campaign: Annotated[str | None, typer.Option(help="A campaign's ratings instead.")] = None,
    rater: Annotated[str | None, typer.Option(help="Whose ratings; the mean of all raters' when not given.")] = None,
    database: Database = None,
    example: Example = None,
    top: Annotated[int | None, typer.Option(help="Candidates in the lists.", show_default="200")] = None,
    set_: Settings = None,
) -> None:
    """Rank every object of a release by what was rated, and list and show the best.

    The folder gets a HATS table of all objects (candidates), lists of the best (top.parquet, .csv, .vot), their
    pictures (top.png), and how well each rating is foreseen from the others (calibration.png).

    Example: `voorwerp rank out --ratings ratings.csv -o ranked`

    Example: `voorwerp rank out --campaign odd --rater ann -o ranked`
    """
    options: dict[str, Any] = {"release": release, "output": output, "ratings": ratings, "campaign": campaign}
    options |= {"rater": rater, "database": database, "examples": example, "top": top}
    job = load_job(RankJob, None, overrides(options, set_))
    from jobs import rank as job_module

    job_module.run(job)


@campaign.command(epilog=EXIT_CODES)
def create(
    name: NameArgument,
    release: ReleaseArgument,
    example: Example = None,
    pooled: Annotated[bool, typer.Option("--pooled", help="Begin with what the other raters liked.")] = False,
    raters_per_object: Annotated[
        int | None, typer.Option(help="People who may rate the same galaxy.", show_default="1")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Galaxies asked about at once.", show_default="10")] = None,
    database: Database = None,
    set_: Settings = None,
) -> None:
    """Create a campaign on a release. Components of its space are made where they are not there yet.

    Example: `voorwerp campaign create odd out`

    Example: `voorwerp campaign create mergers out --example 587729386071654577 --pooled -s first=spread`
    """
    from jobs import campaign as job_module

    options: dict[str, Any] = {"examples": example, "pooled": pooled or None, "batch": batch}
    options |= {"raters_per_object": raters_per_object}
    config = load_job(CampaignConfig, None, overrides(options, set_))
    with _store(database) as store:
        job_module.create(store, name, release, config, RayConfig())


@campaign.command(name="next", epilog=EXIT_CODES)
def next_(
    name: NameArgument,
    rater: Rater = None,
    n: Annotated[
        int | None, typer.Option("-n", "--n", min=1, help="Galaxies; the campaign's batch by default.")
    ] = None,
    sheet: Annotated[str | None, typer.Option(help="PNG of their pictures to write.", show_default=False)] = None,
    database: Database = None,
) -> None:
    """Ask about the next galaxies; those that were asked about and not rated yet are asked about again.

    Example: `voorwerp campaign next odd --sheet batch.png`
    """
    from jobs import campaign as job_module

    with _store(database) as store:
        job_module.next_batch(store, store.campaign(name), rater or job_module.default_rater(), n, sheet)


@campaign.command(epilog=EXIT_CODES)
def rate(
    name: NameArgument,
    ratings: Annotated[list[str] | None, typer.Argument(help="ID=RATING ...", show_default=False)] = None,
    rater: Rater = None,
    scores: Annotated[
        str | None, typer.Option(help="Ratings of the batch in its order, a digit each; - leaves one out.")
    ] = None,
    request: Annotated[
        str | None, typer.Option(help="Name of this request, for scripts: sent again it changes nothing.")
    ] = None,
    database: Database = None,
) -> None:
    """Rate galaxies 0 to 5: the batch by its digits, any by their ids, or, with neither, one by one at the terminal.

    Example: `voorwerp campaign rate odd`

    Example: `voorwerp campaign rate odd --scores 0300105000`

    Example: `voorwerp campaign rate odd 587729386071654577=5 587729386071654578=0`
    """
    from engine.cluster import campaign as campaigning
    from jobs import campaign as job_module
    from jobs.report import note

    if ratings and scores:
        raise ConfigError("expected either ID=RATING ... or --scores, found both")
    with _store(database) as store:
        opened, who = store.campaign(name), rater or job_module.default_rater()
        if scores is not None:
            n_rated = len(campaigning.rate_batch(store, opened, who, scores))
        elif ratings:
            given = [_pair(text) for text in ratings]
            n_rated = len(campaigning.rate(store, opened, who, given, request))
        else:
            from jobs import campaign_session

            n_rated = campaign_session.run(store, opened, who)
        note("rated", f"{n_rated} by {who} in {name}")


@campaign.command(epilog=EXIT_CODES)
def undo(name: NameArgument, rater: Rater = None, database: Database = None) -> None:
    """Take back the last rating; again, the one before it.

    Example: `voorwerp campaign undo odd`
    """
    from engine.cluster import campaign as campaigning
    from jobs import campaign as job_module
    from jobs.report import note

    with _store(database) as store:
        taken = campaigning.undo(store, store.campaign(name), rater or job_module.default_rater())
        note("taken back", f"{taken.event.object_id}")


@campaign.command(epilog=EXIT_CODES)
def status(
    name: Annotated[str | None, typer.Argument(help="Name of the campaign; all when not given.")] = None,
    plots: Annotated[
        str | None, typer.Option(help="Folder for plots: calibration and hyper-parameters.", show_default=False)
    ] = None,
    database: Database = None,
) -> None:
    """Show who rated what, and what was learned.

    Example: `voorwerp campaign status odd --plots plots`
    """
    from jobs import campaign as job_module
    from jobs.report import output

    with _store(database) as store:
        if name is not None:
            job_module.status(store, store.campaign(name), plots)
        else:
            output.print(
                "\n".join(store.names()) or "no campaign yet: voorwerp campaign create NAME RELEASE", markup=False
            )


@campaign.command(name="import", epilog=EXIT_CODES)
def import_(
    name: NameArgument,
    file: Annotated[str, typer.Argument(help="CSV, Parquet, FITS or VOTable of ratings.", show_default=False)],
    rater: Rater = None,
    id_column: Annotated[str, typer.Option(help="Column of ids.")] = "object_id",
    rating_column: Annotated[str | None, typer.Option(help="rating, human_label or score when not given.")] = None,
    database: Database = None,
) -> None:
    """Record the ratings of a file; the same file again changes nothing.

    Example: `voorwerp campaign import odd ratings.csv --rater ann`
    """
    from engine.cluster import campaign as campaigning
    from jobs import campaign as job_module
    from jobs.report import note

    with _store(database) as store:
        who = rater or job_module.default_rater()
        n = campaigning.import_file(store, store.campaign(name), who, file, id_column, rating_column)
        note("imported", f"{n:,} ratings into {name}")


@campaign.command(epilog=EXIT_CODES)
def export(
    name: NameArgument,
    output: Annotated[str, typer.Option("--output", "-o", help=".csv, .parquet, .fits or .vot.", show_default=False)],
    rater: Annotated[str | None, typer.Option(help="Whose; everyone's when not given.")] = None,
    astronomaly: Annotated[bool, typer.Option("--astronomaly", help="As Astronomaly's CSV.")] = False,
    database: Database = None,
) -> None:
    """Write the ratings that hold, with what was expected of each when it was asked for.

    Example: `voorwerp campaign export odd -o ratings.csv`
    """
    from engine.cluster import campaign as campaigning
    from jobs.report import note

    with _store(database) as store:
        n = campaigning.export_file(store, store.campaign(name), output, rater, astronomaly)
        note("exported", f"{n:,} ratings to {output}")


@campaign.command(epilog=EXIT_CODES)
def simulate(
    release: ReleaseArgument,
    truth: Annotated[str, typer.Argument(help="CSV or Parquet of ids and answers.", show_default=False)],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder or s3:// URI for tables and figures.", show_default=False)
    ],
    fraction: Annotated[str | None, typer.Option(help="Column of a vote fraction.", show_default=False)] = None,
    rating: Annotated[str | None, typer.Option(help="Column of ratings 0 to 5.", show_default=False)] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Larger is interesting.", show_default="fraction 0.5, rating 4.5")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Campaigns of each method.", show_default="15")] = None,
    set_: Settings = None,
) -> None:
    """Let known answers stand for the person, and measure how much each method finds. Run it again to go on.

    Methods: gp, gp-believer, random, baseline, ellipse+gp, embedding+forest.

    Example: `voorwerp campaign simulate out votes.csv --fraction odd_fraction --threshold 0.9 -o odd-simulated`
    """
    options: dict[str, Any] = {"release": release, "truth": truth, "output": output, "fraction_column": fraction}
    options |= {"rating_column": rating, "threshold": threshold, "repeats": repeats}
    job = load_job(SimulatedCampaignJob, None, overrides(options, set_))
    from jobs import simulated_campaign as job_module

    job_module.run(job)


@contextmanager
def _store(database: str | None) -> Iterator[Any]:
    from jobs.campaign import open_store

    store = open_store(database)
    try:
        yield store
    finally:
        store.close()


def _pair(text: str) -> tuple[str, int]:
    object_id, separator, rating = text.rpartition("=")
    if not separator or not rating.lstrip("-").isdigit():
        raise ConfigError(f"expected ID=RATING with a whole number, found {text!r}")
    return object_id, int(rating)
