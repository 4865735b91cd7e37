"""The `voorwerp` command. Options build a job, the job runs, errors become one message and an exit code."""

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from schemas.config import NeighboursJob, PackJob, ReleaseJob, load_job
from schemas.errors import ConfigError, VoorwerpError

EXIT_CODES = """
Exit codes: 0 success; 2 wrong option or config; 65 unusable input data; 66 input not found; 69 `plan --preflight` found
that the release does not fit; 71 workers die again and again; 73 the output belongs to another run; 74 the store failed
(run again to resume); 75 another run works on this output now; 76 an artefact is not what its manifest says; 1 `verify`
found problems; 130 interrupted; 143 terminated.
"""

app = typer.Typer(
    name="voorwerp",
    help="Turn a galaxy catalogue and its cutouts into embeddings, components and searchable neighbours.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path | None, typer.Argument(help="YAML file of the job; options override it.", show_default=False)]
Catalogue = Annotated[str | None, typer.Option(help="Catalogue: Parquet, CSV, FITS, VOTable or HATS; local or s3://.")]
Output = Annotated[str | None, typer.Option("--output", "-o", help="Folder or s3:// URI that holds the results.")]
Architecture = Annotated[str | None, typer.Option(help="timm model name, for example efficientnet_b0.")]
WeightsOption = Annotated[
    str | None, typer.Option(help=".safetensors or .pt, local or s3://; hf-hub:NAME; package:lite0.")
]
PresetOption = Annotated[str | None, typer.Option(help="Preprocessing preset by name, or a .yaml file.")]
Components = Annotated[int | None, typer.Option(help="Principal components to keep.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="Any key of the job: -s embed.views=4 -s catalogue.id_column=id")
]


def main() -> None:
    """Run the command line; the entry point of the `voorwerp` script."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        app(standalone_mode=True)
    except VoorwerpError as error:
        from jobs.report import console

        console.print("[bold red]error:[/bold red]", end=" ")
        console.print(str(error), markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(f"voorwerp {installed('voorwerp')}")
        raise typer.Exit


def _stage(name: str, summary: str, example: str) -> None:
    """Add a command that runs one stage of a release job."""

    def command(
        job: JobFile = None,
        catalogue: Catalogue = None,
        output: Output = None,
        architecture: Architecture = None,
        weights: WeightsOption = None,
        preset: PresetOption = None,
        components: Components = None,
        set_: Settings = None,
    ) -> None:
        config = _release_job(job, catalogue, output, architecture, weights, preset, components, set_)
        from jobs import release

        run: Callable[[ReleaseJob], Any] = getattr(release, "run" if name == "release" else f"run_{name}")
        run(config)

    command.__doc__ = f"{summary}\n\nExample: `{example}`"
    app.command(name, epilog=EXIT_CODES)(command)


def _release_job(
    job: Path | None,
    catalogue: str | None,
    output: str | None,
    architecture: str | None,
    weights: str | None,
    preset: str | None,
    components: int | None,
    settings: list[str] | None,
) -> ReleaseJob:
    options = {
        "catalogue.path": catalogue,
        "output": output,
        "encoder.architecture": architecture,
        "encoder.weights": weights,
        "embed.preset": preset,
        "reduce.n_components": components,
    }
    return load_job(ReleaseJob, job, _overrides(options, settings))


_stage(
    "release",
    "Plan, embed, reduce and index a catalogue; run it again to resume or to confirm.",
    "voorwerp release job.yaml --output s3://bucket/dr1",
)


@app.command(epilog=EXIT_CODES)
def plan(
    job: JobFile = None,
    catalogue: Catalogue = None,
    output: Output = None,
    architecture: Architecture = None,
    weights: WeightsOption = None,
    preset: PresetOption = None,
    components: Components = None,
    set_: Settings = None,
    preflight: Annotated[
        bool,
        typer.Option("--preflight", help="Measure a sample, predict what embedding takes, refuse what cannot fit."),
    ] = False,
    sample: Annotated[int, typer.Option(min=1, help="Cutouts that --preflight reads.")] = 64,
    prices: Annotated[
        Path | None, typer.Option(help="YAML file of prices, to have --preflight predict the cost.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write what --preflight found as JSON.", show_default=False)
    ] = None,
    most_hours: Annotated[
        float | None, typer.Option(min=0, help="Let --preflight refuse a longer run.", show_default=False)
    ] = None,
    most_cost: Annotated[
        float | None, typer.Option(min=0, help="Let --preflight refuse a dearer run.", show_default=False)
    ] = None,
) -> None:
    """Check a catalogue and cut it into units of work. First stage of a release.

    Example: `voorwerp plan job.yaml`

    Example: `voorwerp plan job.yaml --preflight --prices prices.yaml --most-hours 12 --report preflight.json`
    """
    config = _release_job(job, catalogue, output, architecture, weights, preset, components, set_)
    from jobs import release

    if preflight:
        from jobs.preflight import Options

        options = Options(sample=sample, prices=prices, report=report, most_hours=most_hours, most_cost=most_cost)
        release.run_preflight(config, options)
    elif (prices, report, most_hours, most_cost) != (None, None, None, None):
        raise ConfigError(
            "--prices, --report, --most-hours and --most-cost: expected --preflight with them, found none"
        )
    else:
        release.run_plan(config)


_stage(
    "embed",
    "Turn every planned cutout into an embedding or a reject. Second stage; resumes where it stopped.",
    "voorwerp embed job.yaml -s embed.batch_size=64",
)
_stage(
    "reduce",
    "Fit a PCA to the embeddings and project them. Third stage.",
    "voorwerp reduce job.yaml --components 40",
)
_stage(
    "index",
    "Build the search index and publish the release. Last stage.",
    "voorwerp index job.yaml",
)


@app.command(epilog=EXIT_CODES)
def pack(
    job: JobFile = None,
    catalogue: Catalogue = None,
    output: Output = None,
    set_: Settings = None,
) -> None:
    """Write the cutouts of a catalogue into one HATS catalogue that holds them, for surveys of millions of small files.

    The result is a catalogue like any other: name its folder as `catalogue.path`. Run it again to resume.

    Example: `voorwerp pack --catalogue s3://survey/catalogue.parquet --output s3://survey/packed`
    """
    options = {"catalogue.path": catalogue, "output": output}
    config = load_job(PackJob, job, _overrides(options, set_))
    from jobs import pack as job_module

    job_module.run(config)


@app.command(epilog=EXIT_CODES)
def neighbours(
    release: Annotated[str, typer.Argument(help="Output of a release.", show_default=False)],
    id_: Annotated[list[str] | None, typer.Option("--id", help="Object id to search around; may be repeated.")] = None,
    position: Annotated[
        list[str] | None, typer.Option(help='"RA Dec" in degrees, for example "180.2 -1.3"; may be repeated.')
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", help="Neighbours per query, 1 to 1000.")] = 16,
    exclude: Annotated[
        float, typer.Option(help="Leave out objects within this many arcsec of the query; the paper used 100.")
    ] = 0.0,
    include_self: Annotated[bool, typer.Option(help="Also list the query object.")] = False,
    output: Annotated[
        str | None, typer.Option("--output", "-o", help="Write .parquet, .csv or .vot instead of a table here.")
    ] = None,
) -> None:
    """List the most similar galaxies (smallest L1 distance) to some objects or positions.

    Example: `voorwerp neighbours out --id 587724198820577450 -k 10 --exclude 100`

    Example: `voorwerp neighbours s3://bucket/dr1 --position "177.02 -1.87" -o neighbours.vot`
    """
    job = load_job(
        NeighboursJob,
        None,
        {
            "release": release,
            "ids": id_ or [],
            "positions_deg": [_position(text) for text in position or []],
            "k": k,
            "exclusion_radius_arcsec": exclude,
            "include_self": include_self,
            "output": output,
        },
    )
    from jobs import neighbours as job_module

    job_module.run(job)


@app.command(epilog=EXIT_CODES)
def verify(
    release: Annotated[str, typer.Argument(help="Output of a release.", show_default=False)],
) -> None:
    """Recompute every hash, count and id digest of a release; list what is wrong, missing or left over.

    Example: `voorwerp verify out`
    """
    from jobs import verify as job_module

    if not job_module.run(release):
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def gc(
    output: Annotated[str, typer.Argument(help="Output of a release.", show_default=False)],
    grace_hours: Annotated[float, typer.Option(min=0, help="Keep files younger than this.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would go, delete nothing.")] = False,
) -> None:
    """Delete what lost attempts and unfinished artefacts left behind; what a manifest or a commit names stays.

    Example: `voorwerp gc s3://bucket/dr1 --dry-run`
    """
    from jobs import gc as job_module

    job_module.run(output, grace_hours, dry_run)


@app.command(epilog=EXIT_CODES)
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the page and the release.")] = Path(
        "voorwerp-demo"
    ),
) -> None:
    """Find the galaxies of the Hubble Deep Field and make a page of their neighbours; a first run in a few minutes.

    Example: `voorwerp demo --output voorwerp-demo`
    """
    from jobs import demo as job_module

    job_module.run(output)


def _overrides(options: dict[str, Any], assignments: list[str] | None) -> dict[str, Any]:
    """Collect what the command line sets of a job: options that were given, then every --set."""
    settings = {key: value for key, value in options.items() if value is not None}
    for assignment in assignments or []:
        key, separator, value = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set: expected key=value, found {assignment!r}")
        try:
            settings[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}: not a YAML value: {value!r}") from error
    return settings


def _position(text: str) -> tuple[float, float]:
    try:
        ra_deg, dec_deg = (float(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise ConfigError(f'--position: expected "RA Dec" in degrees, found {text!r}') from error
    return ra_deg, dec_deg
