"""Job: report. A report card of a release: what is in it, what stands out, how it was made; as JSON and as a page."""

import hashlib
import importlib.util
from contextlib import suppress
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from engine.cluster.dask_graph import THREADS
from engine.cluster.opened import OpenRelease, open_release
from engine.cluster.report_card import Compared, Tiles, count_repeats, measure_tiles, previous_of
from engine.cluster.session import cluster_address, connect
from engine.compute.report_tiles import (
    Judged,
    Rejects,
    change_by_object,
    change_by_tile,
    judge,
    tiles_of_positions,
)
from engine.compute.sky import healpix_29, is_position, pixel_centres
from engine.storage.artefacts import (
    current_release,
    decode,
    find,
    find_release,
    finish,
    library_versions,
    manifest_of,
    partitions_of,
    utc_now,
)
from engine.storage.lease import lease
from engine.storage.parquet import parse_table, write_table
from engine.storage.provenance import Made, lineage, provenance
from engine.storage.reports import encode_report, release_sha256, sign_report
from engine.storage.signing import read_private_key
from engine.storage.store import Store
from jobs import report_sections as sections
from jobs.report import note, progress, reused, warn
from jobs.report_page import page
from jobs.report_sky import sky_figures
from schemas import paths
from schemas.config import load_job
from schemas.errors import ConfigError, DataError, InputNotFoundError, StoreError
from schemas.manifest import Answer, Kind, Manifest, Release, identity_id
from schemas.price import PriceTable
from schemas.report import FLAGS, MEASURED, N_OBJECTS, TILE, Report, ReportJob, tiles_schema
from schemas.tables import DEC, RA, REASON

IN_PROCESS_UP_TO = 2_000_000
"""Objects that are read here, in the time in which a cluster would start."""
PACKAGES = ("cryptography", "jinja2", "openlineage", "prov")
_CODE = ("schemas", "engine", "jobs")


def run(job: ReportJob) -> Manifest:
    """Write the report card of a release, or confirm that it is there; sign it where a key is given.

    Raises
    ------
    ConfigError
        What reports need is not installed, the key is none, or a release is to be compared with itself.
    InputNotFoundError
        There is no finished release, no previous one, or no file of prices.
    DataError
        The previous release is of another encoder, or the near-duplicates are of another release.
    BusyError
        Another run works on the release.
    IntegrityError
        Something of the release is not what its manifest says.
    """
    check_installed()
    key = read_private_key(job.key) if job.key else None
    prices = load_job(PriceTable, job.prices, {}) if job.prices else None
    store = Store(job.release)
    opened = open_release(store, job.as_of)
    release = find_release(store, opened.id)
    manifests = {kind: manifest_of(store, release, kind) for kind in _kinds(release)}
    near = _near_duplicates(job, release)
    compared = _compared(job, store, release, manifests)
    identity = {
        "engine": library_versions()["voorwerp"],
        "release": release.id,
        "release_sha256": release_sha256(store, release.id),
        "against": None if compared is None else compared.sha256,
        "tile_objects": job.tile_objects,
        "duplicates": None if near is None else near.id,
        "prices": None if prices is None else prices.model_dump(mode="json"),
    }
    with lease(store) as held:
        done = find(store, "report", identity_id("report", identity))
        if done:
            made = reused(done)
        else:
            made = _made(job, store, opened, release, manifests, compared, near, prices, identity)
            held.check()
            made = finish(store, made)
    if key:
        note("report", f"signed by key {sign_report(store, made, key)}")
    note("report", store.uri(f"{paths.artefact('report', made.id)}/{paths.REPORT_PAGE}"))
    return made


def check_installed() -> None:
    """Check that what reports need is installed; ConfigError where it is not."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"a report needs more packages ({', '.join(missing)}): pip install 'voorwerp[report]'")


def _made(
    job: ReportJob,
    store: Store,
    opened: OpenRelease,
    release: Release,
    manifests: dict[Kind, Manifest],
    compared: Compared | None,
    near: Answer | None,
    prices: PriceTable | None,
    identity: dict[str, Any],
) -> Manifest:
    partitions = partitions_of(opened.components)
    scheduler = THREADS
    if opened.n_objects > IN_PROCESS_UP_TO or cluster_address(job.ray):
        connect(job.ray)
        scheduler = "ray"
    with progress("tiles", 2 * len(partitions), "partitions") as advance:
        previous = None if compared is None else compared.vectors
        tiles = measure_tiles(opened.components_folder, partitions, job.tile_objects, previous, scheduler, advance)
    with progress("repeats", len(opened.shards), "shards") as advance:
        repeated = count_repeats(store, opened.id, len(opened.shards), scheduler, advance)
    rejects = _rejects(store, manifests["embeddings"], tiles)
    is_by_object = compared is not None and _is_by_object(tiles, compared)
    judged = judge(tiles.sums, rejects.n_in_tiles, _change(tiles, is_by_object))
    report_id, at_utc = identity_id("report", identity), utc_now()
    report = Report(
        id=report_id,
        created_utc=at_utc,
        release=release.id,
        release_sha256=identity["release_sha256"],
        release_created_utc=release.created_utc,
        catalogue=_last_part(release.catalogue),
        encoder=sections.encoder(release, _last_part(release.weights)),
        artefacts=sections.artefacts(release, manifests),
        findings=(),
        accounting=sections.accounting(manifests, rejects),
        drift=sections.drift(tiles, judged, job.tile_objects),
        comparison=None if compared is None else sections.comparison(compared, tiles, judged, is_by_object),
        repeats=sections.repeats(repeated),
        near_duplicates=None if near is None else sections.near_duplicates(near),
        explained_variance=tuple(manifests["components"].detail["explained_variance_ratio"]),
        recall=sections.recall(opened.detail),
        cost=sections.cost(manifests, prices),
        versions=release.versions,
        code_sha256=code_sha256(),
    )
    report = report.model_copy(update={"findings": sections.findings(report)})
    folder = store.below(paths.artefact("report", report_id))
    figures = sky_figures(tiles, judged)
    made = Made(
        release,
        list(manifests.values()),
        report.catalogue,
        report.encoder,
        report_id,
        report.code_sha256,
        at_utc,
    )
    written = (
        folder.write(paths.REPORT_PAGE, page(report, figures).encode()),
        write_table(folder, paths.TILES, _tiles_table(tiles, judged)),
        folder.write(paths.PROVENANCE, provenance(made)),
        folder.write(paths.LINEAGE, lineage(made)),
    )
    report = report.model_copy(update={"files": written})
    _tell(report)
    return Manifest(
        kind="report",
        id=report_id,
        identity=identity,
        parents=release.artefacts,
        counts={"tiles": report.drift.n_tiles, "flagged": report.drift.n_flagged, "findings": len(report.findings)},
        files=[folder.write(paths.REPORT, encode_report(report)), *written],
        versions=library_versions(),
        durations_s={},
        created_utc=at_utc,
    )


def code_sha256() -> str:
    """Hash the code that runs: every Python file and template of the project, by name."""
    digest = hashlib.sha256()

    def add(folder: Traversable, name: str) -> None:
        for one in sorted(folder.iterdir(), key=lambda one: one.name):
            if one.is_dir() and one.name != "__pycache__":
                add(one, f"{name}/{one.name}")
            elif one.name.endswith((".py", ".html", ".css", ".yaml")):
                digest.update(f"{name}/{one.name}\0".encode() + hashlib.sha256(one.read_bytes()).digest())

    for package in _CODE:
        add(files(package), package)
    return digest.hexdigest()


def _kinds(release: Release) -> list[Kind]:
    kinds: list[Kind] = list(release.artefacts)  # type: ignore[arg-type]
    return kinds


def _compared(job: ReportJob, store: Store, release: Release, manifests: dict[Kind, Manifest]) -> Compared | None:
    found = _made_onto(store, manifests["embeddings"]) if job.against is None else _named(job.against, store, release)
    if found is None:
        return None
    place, other = found
    embeddings, components = manifest_of(place, other, "embeddings"), manifest_of(place, other, "components")
    own = (release.architecture, release.weights_sha256, release.preset_sha256)
    theirs = (other.architecture, other.weights_sha256, other.preset_sha256)
    if own != theirs:
        raise DataError(
            f"against: expected a release of the same encoder and preset as {release.id} ({_encoder(release)}), found "
            f"{other.id} of another ({_encoder(other)}): their embeddings mean different things"
        )
    folder = store.below(paths.artefact("components", manifests["components"].id))
    vectors = previous_of(place, components, embeddings, manifests["components"], folder)
    return Compared(other, release_sha256(place, other.id), components.counts["components"], vectors)


def _named(against: str, store: Store, release: Release) -> tuple[Store, Release]:
    """Find a release of this output by its id, or the current one of another output."""
    is_here = store.exists(paths.release(against)) if "/" not in against else False
    place = store if is_here else Store(against)
    other = find_release(store, against) if is_here else current_release(place)
    if other.id == release.id:
        raise ConfigError(f"against: expected another release than {release.id}, found the same")
    return place, other


def _made_onto(store: Store, embeddings: Manifest) -> tuple[Store, Release] | None:
    """Find the release that this one was made onto, here or where it was; None where none is to be had."""
    if (onto := embeddings.detail.get("onto")) is None:
        return None
    with suppress(InputNotFoundError, StoreError):
        for place in (store, Store(onto["output"])):
            if place.exists(paths.release(onto["release"])):
                return place, find_release(place, onto["release"])
    note("report", f"release {onto['release']}, onto which this one was made, is not to be had: compared with none")
    return None


def _encoder(release: Release) -> str:
    return f"{release.architecture}, weights {release.weights_sha256[:12]}, preset {release.preset_sha256[:12]}"


def _near_duplicates(job: ReportJob, release: Release) -> Answer | None:
    if job.duplicates is None:
        return None
    folder = Store(job.duplicates)
    answer = decode(Answer, folder.read(paths.MANIFEST), folder.uri(paths.MANIFEST))
    if answer.kind != "duplicates" or answer.identity.get("release") != release.id:
        raise DataError(
            f"{folder.uri()}: expected what `voorwerp duplicates` found in release {release.id}, found {answer.kind} "
            f"of release {answer.identity.get('release')}"
        )
    return answer


def _rejects(store: Store, embeddings: Manifest, tiles: Tiles) -> Rejects:
    record = next((file for file in embeddings.files if file.path == paths.REJECTS), None)
    if record is None:
        table = pa.table(
            {RA: pa.array([], pa.float64()), DEC: pa.array([], pa.float64()), REASON: pa.array([], pa.string())}
        )
    else:
        folder = store.below(paths.artefact("embeddings", embeddings.id))
        table = parse_table(folder.read_verified(record), folder.uri(paths.REJECTS), [RA, DEC, REASON])
    ra_deg, dec_deg = (table[name].to_numpy().astype(float) for name in (RA, DEC))
    has_place = is_position(ra_deg, dec_deg)
    healpix = healpix_29(ra_deg[has_place], dec_deg[has_place])
    tile = tiles_of_positions(healpix, tiles.orders, tiles.pixels)
    n_in_tiles = np.bincount(tile[tile >= 0], minlength=len(tiles.orders)).astype(np.int64)
    return Rejects(n_in_tiles, int((~has_place).sum()), int((tile < 0).sum()))


def _is_by_object(tiles: Tiles, compared: Compared) -> bool:
    """Whether so many objects are in both releases that their movements say more than the means of all."""
    assert tiles.changes is not None
    return bool(2 * tiles.changes.matched.n.sum() >= min(compared.n_objects, tiles.sums.n.sum()))


def _change(tiles: Tiles, is_by_object: bool) -> Any:
    if tiles.changes is None:
        return None
    return change_by_object(tiles.changes.matched) if is_by_object else change_by_tile(tiles.sums, tiles.changes.before)


def _tiles_table(tiles: Tiles, judged: Judged) -> pa.Table:
    ra_deg, dec_deg = pixel_centres(tiles.orders, tiles.pixels)
    names = list(FLAGS)
    flags = np.stack([judged.flags[name] for name in names], axis=1)
    measured = {name: pa.array(judged.columns[name], from_pandas=True) for name in MEASURED}
    columns = {
        TILE: [f"{order}/{pixel}" for order, pixel in zip(tiles.orders, tiles.pixels, strict=True)],
        RA: ra_deg,
        DEC: dec_deg,
        N_OBJECTS: judged.n_objects,
        "n_rejected": judged.n_rejected,
        **measured,
        "flags": [[name for name, is_set in zip(names, row, strict=True) if is_set] for row in flags],
    }
    return pa.table(columns, schema=tiles_schema())


def _tell(report: Report) -> None:
    drift = report.drift
    note("report", f"{drift.n_judged:,} of {drift.n_tiles:,} tiles were judged, {drift.n_flagged:,} stand out")
    for finding in report.findings:
        warn(finding)


def _last_part(name: str) -> str:
    """Leave out where something lies."""
    return PurePosixPath(name.rstrip("/")).name
