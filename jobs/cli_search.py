"""The searching commands of `voorwerp`: neighbours, similar-image, graph, duplicates."""

from typing import Annotated, Any

import typer

from jobs.cli_options import EXIT_CODES, ReleaseArgument
from schemas.config import DuplicatesJob, GraphJob, NeighboursJob, SimilarImageJob, load_job
from schemas.errors import ConfigError

K = Annotated[int, typer.Option("-k", "--k", help="Neighbours per query, 1 to 1000.")]
Exclude = Annotated[
    float, typer.Option(help="Leave out objects within this many arcsec of the query; 100 in the paper.")
]
Cone = Annotated[
    str | None, typer.Option(help='Only objects in "RA DEC RADIUS" (degrees, degrees, arcsec).', show_default=False)
]
Moc = Annotated[str | None, typer.Option(help="Only objects that this MOC file covers.", show_default=False)]
Where = Annotated[
    str | None, typer.Option(help='Only objects for which this holds, for example "mag_r < 18".', show_default=False)
]
AsOf = Annotated[
    str | None, typer.Option(help="Ask this release record of the output, not the current one.", show_default=False)
]
Approximate = Annotated[
    float | None,
    typer.Option(
        help="Recall that is enough, as measured for this index; answers are exact otherwise.", show_default=False
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, or cuda: compare everything on GPUs. Same answers.")]
AnswerOutput = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        help="Write .parquet, .csv, .fits, .vot or .hats, or parts into a folder (ends in /).",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None, typer.Option(help="Ray cluster to use; RAY_ADDRESS, else this machine.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for name, command in (
        ("neighbours", neighbours),
        ("similar-image", similar_image),
        ("graph", graph),
        ("duplicates", duplicates),
    ):
        app.command(name, epilog=EXIT_CODES)(command)


def neighbours(
    release: ReleaseArgument,
    id_: Annotated[list[str] | None, typer.Option("--id", help="Object id to search around; may be repeated.")] = None,
    position: Annotated[
        list[str] | None, typer.Option(help='"RA Dec" in degrees, for example "180.2 -1.3"; may be repeated.')
    ] = None,
    queries: Annotated[
        str | None,
        typer.Option(
            help="Parquet, CSV, FITS or VOTable of object_id, of ra_deg and dec_deg, or of components.",
            show_default=False,
        ),
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of ids in that file.", show_default=False)] = None,
    ra_column: Annotated[str | None, typer.Option(help="Column of RA in degrees.", show_default=False)] = None,
    dec_column: Annotated[str | None, typer.Option(help="Column of Dec in degrees.", show_default=False)] = None,
    vector_column: Annotated[str | None, typer.Option(help="Column of vectors.", show_default=False)] = None,
    match_radius: Annotated[float, typer.Option(help="A position matches an object within this many arcsec.")] = 20.0,
    k: K = 16,
    exclude: Exclude = 0.0,
    include_self: Annotated[bool, typer.Option("--include-self", help="Also list the query object.")] = False,
    cone: Cone = None,
    moc: Moc = None,
    where: Where = None,
    as_of: AsOf = None,
    approximate: Approximate = None,
    device: DeviceOption = "auto",
    output: AnswerOutput = None,
    ray_address: RayAddress = None,
) -> None:
    """List the most similar galaxies (smallest L1 distance) to some objects, positions or vectors.

    A file of many queries is answered in units of work; run the same command again to resume.

    Example: `voorwerp neighbours out --id 587724198820577450 -k 10 --exclude 100`

    Example: `voorwerp neighbours s3://bucket/dr1 --position "177.02 -1.87" -o neighbours.vot`

    Example: `voorwerp neighbours out --queries supernovae.csv --match-radius 5 --where "mag_r < 18" -o near.parquet`
    """
    settings = {
        "ids": id_ or [],
        "positions_deg": [_position(text) for text in position or []],
        "queries.path": queries,
        "queries.id_column": id_column,
        "queries.ra_column": ra_column,
        "queries.dec_column": dec_column,
        "queries.vector_column": vector_column,
        "match_radius_arcsec": match_radius,
        "include_self": include_self,
    }
    shared = _shared(release, k, exclude, cone, moc, where, as_of, approximate, device, output, ray_address)
    job = load_job(NeighboursJob, None, _given(shared | settings))
    from jobs import neighbours as job_module

    job_module.run(job)


def similar_image(
    release: ReleaseArgument,
    images: Annotated[list[str], typer.Argument(help="JPEG, PNG or FITS files, local or s3://.", show_default=False)],
    k: K = 16,
    cone: Cone = None,
    moc: Moc = None,
    where: Where = None,
    as_of: AsOf = None,
    approximate: Approximate = None,
    device: DeviceOption = "auto",
    output: AnswerOutput = None,
) -> None:
    """List the galaxies most similar to new images, embedded with the release's own encoder and preset.

    Example: `voorwerp similar-image out voorwerp.jpg -k 10`

    Example: `voorwerp similar-image out cutouts/*.fits --where "z < 0.1" -o similar.csv`
    """
    shared = _shared(release, k, 0.0, cone, moc, where, as_of, approximate, device, output, None)
    job = load_job(SimilarImageJob, None, _given(shared | {"images": images}))
    from jobs import similar_image as job_module

    job_module.run(job)


def graph(
    release: ReleaseArgument,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the parts.", show_default=False)],
    k: Annotated[int, typer.Option("-k", "--k", help="Neighbours per object, 1 to 1000.")] = 10,
    as_of: AsOf = None,
    device: DeviceOption = "auto",
    ray_address: RayAddress = None,
) -> None:
    """Find the nearest neighbours of every object: Parquet parts and a manifest. Run it again to resume.

    Example: `voorwerp graph out -k 10 -o graph/`
    """
    settings = {"release": release, "k": k, "as_of": as_of, "device": device, "output": output}
    job = load_job(GraphJob, None, _given(settings | {"ray.address": ray_address}))
    from jobs import graph as job_module

    job_module.run(job)


def duplicates(
    release: ReleaseArgument,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Write .parquet, .csv, .fits, .vot or .hats, or parts into a folder (ends in /).",
            show_default=False,
        ),
    ],
    distance: Annotated[
        float | None,
        typer.Option(
            help="L1 distance of near-duplicates; a tenth of the median to the nearest neighbour when not given.",
            show_default=False,
        ),
    ] = None,
    radius: Annotated[float, typer.Option(help="Separation of near-duplicates in arcsec.")] = 100.0,
    as_of: AsOf = None,
    device: DeviceOption = "auto",
    ray_address: RayAddress = None,
) -> None:
    """Report pairs of objects that are close in component space, or on the sky: each once, with both measures.

    Example: `voorwerp duplicates out -o duplicates.csv`

    Example: `voorwerp duplicates s3://bucket/dr1 --distance 0.5 --radius 10 -o duplicates.fits`
    """
    settings = {"release": release, "distance": distance, "radius_arcsec": radius, "as_of": as_of}
    settings |= {"device": device, "output": output, "ray.address": ray_address}
    job = load_job(DuplicatesJob, None, _given(settings))
    from jobs import duplicates as job_module

    job_module.run(job)


def _shared(
    release: str,
    k: int,
    exclude: float,
    cone: str | None,
    moc: str | None,
    where: str | None,
    as_of: str | None,
    approximate: float | None,
    device: str,
    output: str | None,
    ray_address: str | None,
) -> dict[str, Any]:
    return {
        "release": release,
        "k": k,
        "exclusion_radius_arcsec": exclude,
        "filter.cone": _cone(cone),
        "filter.moc": moc,
        "filter.where": where,
        "as_of": as_of,
        "approximate": approximate,
        "device": device,
        "output": output,
        "ray.address": ray_address,
    }


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _position(text: str) -> tuple[float, float]:
    return tuple(_numbers("--position", text, "RA Dec", "in degrees"))  # type: ignore[return-value]


def _cone(text: str | None) -> list[float] | None:
    return None if text is None else _numbers("--cone", text, "RA DEC RADIUS", "in degrees, degrees and arcsec")


def _numbers(option: str, text: str, expected: str, units: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != len(expected.split()):
        raise ConfigError(f'{option}: expected "{expected}" {units}, found {text!r}')
    return numbers
