"""The serving commands of `voorwerp`: serve, and token with its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument, overrides
from schemas.config import load_job
from schemas.errors import ConfigError
from schemas.service import SCOPES, ServeConfig

NameArgument = Annotated[str, typer.Argument(help="Name of the token.", show_default=False)]
Database = Annotated[
    str | None,
    typer.Option(
        help="File or postgresql:// URL of tokens and campaigns; as of `voorwerp campaign` when not given.",
        show_default=False,
    ),
]

token = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Who may ask a service what: create tokens, list them, end them.",
)


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(epilog=EXIT_CODES)(serve)
    app.add_typer(token, name="token", epilog=EXIT_CODES)


def serve(
    release: ReleaseArgument,
    host: Annotated[str | None, typer.Option(help="Address to listen at.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="0 for any that is free.", show_default="8000")] = None,
    database: Database = None,
    anonymous_read: Annotated[
        bool, typer.Option("--anonymous-read", help="Let everyone ask about the release, without a token.")
    ] = False,
    groups: Annotated[
        int | None,
        typer.Option(help="Serve over Ray: shards in so many groups of processes.", show_default="this process alone"),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", "-s", help="Any other key: -s most_k=100.")] = None,
) -> None:
    """Serve a release over HTTP: neighbours, objects, cutouts, cone searches and campaigns, until Ctrl-C or SIGTERM.

    Each request is one JSON line on standard output. TLS is for a proxy in front of it.

    Example: `voorwerp serve out`

    Example: `RAY_ADDRESS=ray-head:6379 voorwerp serve s3://bucket/out --groups 8 -s replicas=2`

    Example: `voorwerp serve out --host 0.0.0.0 --port 80 --anonymous-read -s rate_per_minute=120`
    """
    options: dict[str, Any] = {"release": release, "host": host, "port": port, "database": database}
    options["groups"] = groups
    job = load_job(ServeConfig, None, overrides({**options, "anonymous_read": anonymous_read or None}, set_))
    try:
        from jobs import serve as job_module
    except ModuleNotFoundError as error:
        if error.name not in ("fastapi", "uvicorn"):
            raise
        raise ConfigError("serving needs a few more packages: pip install 'voorwerp[serve]'") from error
    job_module.run(job)


@token.command(epilog=EXIT_CODES)
def create(
    name: NameArgument,
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCOPES)}; may be given several times.", show_default="read")
    ] = None,
    rater: Annotated[
        str | None, typer.Option(help="In whose name it rates.", show_default="the token's name, with scope rate")
    ] = None,
    database: Database = None,
) -> None:
    """Create a token and print it, once: it is kept as a hash only.

    read asks about the release, rate is asked by campaigns and rates, admin sees what every rater did, metrics collects
    what the service counts.

    Example: `voorwerp token create ann-laptop --scope read --scope rate --rater ann`
    """
    scopes: Any = scope or ["read"]
    with _tokens(database) as store:
        typer.echo(store.create(name, scopes, rater or (name if "rate" in scopes else None)))


@token.command(name="list", epilog=EXIT_CODES)
def list_(database: Database = None) -> None:
    """List all tokens, ended ones too; the tokens themselves are not kept.

    Example: `voorwerp token list`
    """
    with _tokens(database) as store:
        for one in store.all():
            ended = f"revoked {one.revoked_utc}" if one.revoked_utc else "valid"
            rater = f"rates as {one.rater}" if one.rater else ""
            typer.echo("\t".join((one.name, " ".join(one.scopes), rater, f"created {one.created_utc}", ended)))


@token.command(epilog=EXIT_CODES)
def revoke(name: NameArgument, database: Database = None) -> None:
    """End a token, at once, also for services that run.

    Example: `voorwerp token revoke ann-laptop`
    """
    with _tokens(database) as store:
        store.revoke(name)
    typer.echo(f"{name} is revoked", err=True)


@contextmanager
def _tokens(database: str | None) -> Iterator[Any]:
    import os

    from engine.storage.tokens import open_tokens
    from jobs.campaign import DATABASE, DATABASE_VARIABLE

    store = open_tokens(database or os.environ.get(DATABASE_VARIABLE) or DATABASE)
    try:
        yield store
    finally:
        store.close()
