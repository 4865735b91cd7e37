"""The `voorwerp` command. Options build a job, the job runs, errors become one message and an exit code."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from jobs import (
    cli_ask,
    cli_deploy,
    cli_doctor,
    cli_hats,
    cli_map,
    cli_rank,
    cli_releases,
    cli_report,
    cli_search,
    cli_serve,
)
from jobs.cli_options import EXIT_CODES, overrides
from schemas.config import PackJob, ReleaseJob, load_job
from schemas.errors import ConfigError, VoorwerpError
from schemas.experiment import ExperimentJob
from schemas.log import LOG_VARIABLE, LogFormat
from schemas.model import FinetuneJob, PredictJob, PretrainJob
from schemas.simulation import SimulateJob

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
        from jobs.report import failed

        failed(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _terminate(signum: int, frame: Any) -> None:
    sys.exit(128 + signum)


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
    log_format: Annotated[
        str, typer.Option(envvar=LOG_VARIABLE, help="text, or json: one JSON line for each event on standard error.")
    ] = "text",
) -> None:
    if log_format not in get_args(LogFormat):
        raise ConfigError(f"--log-format: expected {' or '.join(get_args(LogFormat))}, found {log_format!r}")
    if log_format == "json" or LOG_VARIABLE in os.environ:
        from jobs.report import log_as

        log_as("json" if log_format == "json" else "text")
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

        run: Callable[[ReleaseJob], Any] = getattr(release, f"run_{name}")
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
    return load_job(ReleaseJob, job, overrides(options, settings))


@app.command(epilog=EXIT_CODES)
def release(
    job: JobFile = None,
    catalogue: Catalogue = None,
    output: Output = None,
    architecture: Architecture = None,
    weights: WeightsOption = None,
    preset: PresetOption = None,
    components: Components = None,
    onto: Annotated[
        str | None,
        typer.Option(help="Output of the release before: embed only what differs from it.", show_default=False),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(help="Release every catalogue in this folder or s3:// prefix, in order.", show_default=False),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(
            min=1, help="Seconds until --watch looks again; it looks once when not given.", show_default=False
        ),
    ] = None,
    set_: Settings = None,
) -> None:
    """Plan, embed, reduce and index a catalogue; run it again to resume or to confirm.

    Onto the release before (--onto, which may be the same output) cutouts that are the same are not embedded again.

    Example: `voorwerp release job.yaml --output s3://bucket/dr1`

    Example: `voorwerp release job.yaml --catalogue dr2.parquet --output s3://bucket/out --onto s3://bucket/out`

    Example: `voorwerp release job.yaml --output s3://bucket/out --watch s3://bucket/inbox --every 600`
    """
    if every is not None and watch is None:
        raise ConfigError("--every: expected --watch with it, found none")
    settings = [*(set_ or []), *([f"onto.release={onto}"] if onto else [])]
    path = catalogue or watch
    config = _release_job(job, path, output, architecture, weights, preset, components, settings)
    if watch:
        from jobs import watch as watching

        watching.run(config, watch, every)
    else:
        from jobs import release as job_module

        job_module.run(config)


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
    config = load_job(PackJob, job, overrides(options, set_))
    from jobs import pack as job_module

    job_module.run(config)


cli_search.add_to(app)


@app.command(epilog=EXIT_CODES)
def finetune(
    release: Annotated[str, typer.Argument(help="Output of a release.", show_default=False)],
    labels: Annotated[str, typer.Argument(help="CSV or Parquet of ids and labels.", show_default=False)],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Folder or s3:// URI for the model and scores.", show_default=False)
    ],
    label_column: Annotated[str | None, typer.Option(help="The only other one when not given.")] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids.", show_default="object_id")] = None,
    positive: Annotated[str | None, typer.Option(help="The label that is the positive class.")] = None,
    head: Annotated[str | None, typer.Option(help="paper or linear.", show_default="paper")] = None,
    depth: Annotated[
        str | None, typer.Option(help="head, or from where the encoder learns: top, 7 ... 1, all.", show_default="head")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits, weights and order.", show_default="0")] = None,
    set_: Settings = None,
) -> None:
    """Train on a few labels, measure on labels kept apart, and score every object of a release.

    The encoder stays as it is: its embeddings are there, so that this takes seconds. With --depth its last blocks
    learn as well, from the cutouts.

    Example: `voorwerp finetune out rings.csv --label-column ring -o rings`

    Example: `voorwerp finetune out rings.csv --label-column ring --depth 6 -o rings-6`
    """
    options: dict[str, Any] = {"release": release, "labels": labels, "output": output, "label_column": label_column}
    options |= {"id_column": id_column, "positive": positive, "head": head, "depth": depth, "seed": seed}
    job = load_job(FinetuneJob, None, overrides(options, set_))
    from jobs import finetune as job_module

    job_module.run(job)


@app.command(epilog=EXIT_CODES)
def pretrain(
    job: JobFile = None,
    catalogue: Catalogue = None,
    votes: Annotated[str | None, typer.Option(help="Table of votes per answer: Parquet, CSV, FITS or VOTable.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Folder or s3:// URI for the model.")] = None,
    tree: Annotated[str | None, typer.Option(help="gz_decals, gz2, euclid, or a .yaml file.")] = None,
    architecture: Architecture = None,
    weights: Annotated[str | None, typer.Option(help="Weights to begin with; random when not given.")] = None,
    preset: PresetOption = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs at most.", show_default="200")] = None,
    seed: Annotated[int | None, typer.Option(help="Of splits, weights, order and views.", show_default="0")] = None,
    set_: Settings = None,
) -> None:
    """Train an encoder to predict what volunteers answer about cutouts. Run it again to go on where it stopped.

    The result is a folder that `voorwerp release --weights` takes.

    Example: `voorwerp pretrain --catalogue survey/catalogue.parquet --votes survey/votes.parquet -o model`

    Example: `voorwerp pretrain job.yaml -s training.precision=bfloat16 -s training.workers=4`
    """
    options: dict[str, Any] = {"catalogue.path": catalogue, "votes": votes, "output": output, "tree": tree}
    options |= {"architecture": architecture, "weights": weights, "preset": preset}
    options |= {"training.most_epochs": epochs, "training.seed": seed}
    config = load_job(PretrainJob, job, overrides(options, set_))
    from jobs import pretrain as job_module

    job_module.run(config)


@app.command(epilog=EXIT_CODES)
def experiment(
    job: JobFile = None,
    output: Output = None,
    set_: Settings = None,
) -> None:
    """Compare encoders on a question: frozen and fine-tuned, with few labels and many, again and again.

    Every training is kept: run it again to go on where it stopped, or with more encoders, depths or repeats.

    Example: `voorwerp experiment rings.yaml -o rings-experiment -s repeats=5`
    """
    config = load_job(ExperimentJob, job, overrides({"output": output}, set_))
    from jobs import experiment as job_module

    job_module.run(config)


@app.command(epilog=EXIT_CODES)
def predict(
    model: Annotated[str, typer.Argument(help="Folder of a model.", show_default=False)],
    release: Annotated[str, typer.Argument(help="Output of a release that it embedded.", show_default=False)],
) -> None:
    """Write what a model says of every object of a release: vote fractions and concentrations, or scores.

    The table is a HATS catalogue below `predictions` of the release's output.

    Example: `voorwerp release --catalogue c.parquet --weights model -o out`, then `voorwerp predict model out`
    """
    job = load_job(PredictJob, None, {"model": model, "release": release})
    from jobs import predict as job_module

    job_module.run(job)


@app.command(epilog=EXIT_CODES)
def simulate(
    output: Annotated[str, typer.Argument(help="Folder or s3:// URI for the survey.", show_default=False)],
    n: Annotated[int | None, typer.Option("-n", "--n", help="Galaxies.", show_default="1000")] = None,
    side: Annotated[int | None, typer.Option(help="Side of a cutout in pixels.", show_default="64")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed makes the same survey.", show_default="0")] = None,
    format_: Annotated[str | None, typer.Option("--format", help="jpeg or fits.", show_default="jpeg")] = None,
    tar: Annotated[bool, typer.Option("--tar", help="Put the cutouts into tars of 1,000.")] = False,
    set_: Settings = None,
) -> None:
    """Simulate a survey: cutouts of galaxies of known morphology, a catalogue, volunteer votes, and the truth.

    Example: `voorwerp simulate survey -n 10000 --side 96 --seed 7 --tar`
    """
    options = {
        "output": output,
        "n": n,
        "side": side,
        "seed": seed,
        "format": format_,
        "container": "tar" if tar else None,
    }
    job = load_job(SimulateJob, None, overrides(options, set_))
    from jobs import simulate as job_module

    job_module.run(job)


@app.command(epilog=EXIT_CODES)
def verify(
    release: Annotated[str, typer.Argument(help="Output of a release.", show_default=False)],
    public_key: Annotated[
        Path | None,
        typer.Option(help="Check as well that its report card is signed by this key.", show_default=False),
    ] = None,
) -> None:
    """Recompute every hash, count and id digest of a release; list what is wrong, missing or left over.

    Example: `voorwerp verify out`

    Example: `voorwerp verify out --public-key survey.key.pub`
    """
    from jobs import verify as job_module

    if not job_module.run(release, public_key):
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


cli_map.add_to(app)
cli_hats.add_to(app)
cli_rank.add_to(app)
cli_report.add_to(app)
cli_serve.add_to(app)
cli_ask.add_to(app)
cli_releases.add_to(app)
cli_deploy.add_to(app)
cli_doctor.add_to(app)
