"""The sections of a report card: what was measured and what manifests say, as `schemas.report` has it."""

from collections.abc import Mapping

import numpy as np

from engine.cluster.report_card import Compared, Repeated, Tiles
from engine.compute import tile_drift as rules
from engine.compute.digest import add_digests
from engine.compute.report_tiles import Judged, Rejects
from engine.compute.sky import pixel_centres
from engine.compute.tile_drift import Scores
from engine.storage.provenance import stages_of
from schemas.index import IndexDetail
from schemas.manifest import Answer, Kind, Manifest, Release
from schemas.price import PriceTable
from schemas.reject import RejectReason
from schemas.report import (
    FLAGS,
    MEASURED,
    Accounting,
    Artefact,
    Comparison,
    Cost,
    Drift,
    Encoder,
    Flag,
    NearDuplicates,
    Price,
    Recall,
    Rejected,
    Repeats,
    Report,
    Stage,
    Tile,
)

MOST_TILES = 50
"""That are listed; all are in the table of tiles."""
_HOUR_S = 3600.0
_BY: dict[Flag, str] = {
    "mean": "where the objects lie in component space: look at depth, seeing and calibration there",
    "spread": "how unlike each other the objects are",
    "rejects": "the number of rejects",
    "change": "how far the objects moved since the previous release",
}


def encoder(release: Release, weights: str) -> Encoder:
    """Say what the encoder is; of the weights only their name."""
    return Encoder(
        architecture=release.architecture,
        weights=weights,
        weights_sha256=release.weights_sha256,
        preset=release.preset,
        preset_sha256=release.preset_sha256,
    )


def artefacts(release: Release, manifests: Mapping[Kind, Manifest]) -> tuple[Artefact, ...]:
    """List what the release was made of."""
    return tuple(
        Artefact(
            kind=kind,
            id=manifest.id,
            manifest_sha256=release.artefacts[kind].manifest_sha256,
            created_utc=manifest.created_utc,
            counts=manifest.counts,
            n_files=len(manifest.files),
            size_bytes=sum(file.size_bytes for file in manifest.files),
        )
        for kind, manifest in manifests.items()
    )


def accounting(manifests: Mapping[Kind, Manifest], rejects: Rejects) -> Accounting:
    """Account for every row of the catalogue."""
    plan, embeddings = manifests["plan"], manifests["embeddings"]
    n_planned, n_embedded = plan.counts["planned"], embeddings.counts["embedded"]
    n_rejected, reasons = embeddings.counts["rejected"], embeddings.detail["rejected_by_reason"]
    both = add_digests([embeddings.detail["embedded_digest"], embeddings.detail["rejected_digest"]])
    found = sorted((one for one in RejectReason if reasons.get(one.value)), key=lambda one: -reasons[one.value])
    return Accounting(
        n_planned=n_planned,
        n_embedded=n_embedded,
        n_rejected=n_rejected,
        n_carried=embeddings.counts.get("carried", 0),
        before=embeddings.detail.get("onto", {}).get("release"),
        by_reason=tuple(Rejected(reason=one, meaning=one.meaning, n=reasons[one.value]) for one in found),
        n_without_position=rejects.n_without_position,
        n_outside_tiles=rejects.n_outside_tiles,
        is_balanced=n_planned == n_embedded + n_rejected and plan.detail["planned_digest"] == both,
    )


def drift(tiles: Tiles, judged: Judged, tile_objects: int) -> Drift:
    """Say how tiles compare, and which stand out."""
    worst = judged.worst_first
    return Drift(
        n_tiles=len(tiles.orders),
        n_judged=int(np.isfinite(judged.mean.z).sum()),
        tile_objects=tile_objects,
        fewest_objects=rules.FEWEST_OBJECTS,
        fewest_tiles=rules.FEWEST_TILES,
        threshold=rules.STANDS_OUT,
        n_components=tiles.sums.mean.shape[1],
        largest_z_mean=_largest(judged.mean),
        largest_z_spread=_largest(judged.spread),
        intrinsic_distance=_number(judged.mean.intrinsic),
        n_flagged=len(worst),
        n_by_flag={name: int(tiles_.sum()) for name, tiles_ in judged.flags.items() if tiles_.any()},
        flagged=tuple(_tile(tiles, judged, at) for at in worst[:MOST_TILES].tolist()),
    )


def comparison(compared: Compared, tiles: Tiles, judged: Judged, is_by_object: bool) -> Comparison:
    """Say what changed since a previous release."""
    assert tiles.changes is not None
    assert judged.change is not None
    sizes = judged.change.size[np.isfinite(judged.change.size)]
    return Comparison(
        release=compared.release.id,
        release_sha256=compared.sha256,
        created_utc=compared.release.created_utc,
        n_objects=compared.n_objects,
        n_matched=int(tiles.changes.matched.n.sum()),
        n_unchanged=int(tiles.changes.n_unchanged.sum()),
        is_by_object=is_by_object,
        is_same_basis=compared.vectors.pca is None,
        median_change=float(np.median(sizes)) if len(sizes) else None,
        largest_z_change=_largest(judged.change),
        n_flagged=int(judged.flags["change"].sum()),
    )


def repeats(repeated: Repeated) -> Repeats:
    """Say how many objects have the components of another."""
    return Repeats(
        n_objects=repeated.n_objects,
        n_groups=repeated.n_groups,
        largest_group=repeated.largest,
        examples=tuple(repeated.examples),
    )


def near_duplicates(answer: Answer) -> NearDuplicates:
    """Say what was found to be near-duplicates."""
    return NearDuplicates(
        answer=answer.id,
        distance=answer.identity["distance"],
        radius_arcsec=answer.identity["radius_arcsec"],
        n_by_distance=answer.counts["distance"],
        n_by_sky=answer.counts["sky"],
        n_both=answer.counts["both"],
    )


def recall(detail: IndexDetail) -> Recall:
    """Say what approximate searches find."""
    return Recall(kind=detail.kind, k=detail.recall_k, n_held_out=detail.n_held_out, settings=tuple(detail.settings))


def cost(manifests: Mapping[Kind, Manifest], prices: PriceTable | None) -> Cost:
    """Say how long stages took, and what embedding cost."""
    stages = []
    for manifest in manifests.values():
        n = manifest.counts.get("planned") or manifest.counts.get("components") or manifest.counts.get("indexed")
        for name, seconds in stages_of(manifest).items():
            rate = n / seconds if n and seconds > 0 else None
            stages.append(Stage(name=name, seconds=seconds, objects_per_s=rate))
    embeddings = manifests["embeddings"]
    took = embeddings.detail.get("took") or {}
    gpu_s, cpu_s = ((took.get(name) or {}).get("allocated") for name in ("gpu_s_per_million", "cpu_s_per_million"))
    return Cost(
        stages=tuple(stages),
        cutouts_per_s=took.get("cutouts_per_s"),
        device=embeddings.detail.get("device"),
        workers=embeddings.detail.get("workers"),
        gpu_s_per_million=gpu_s,
        cpu_s_per_million=cpu_s,
        price=None if prices is None or cpu_s is None else _price(prices, gpu_s or 0.0, cpu_s, manifests),
    )


def findings(report: Report) -> tuple[str, ...]:
    """Say what a person should look at."""
    found, drift_, accounts = [], report.drift, report.accounting
    if not accounts.is_balanced:
        found.append("The accounts do not balance: planned is not embedded and rejected together. Run voorwerp verify.")
    if accounts.n_outside_tiles:
        found.append(
            f"{accounts.n_outside_tiles:,} rejects lie where nothing was embedded: is a part of the sky missing?"
        )
    if not drift_.n_judged:
        found.append(
            f"No tile was judged: at least {drift_.fewest_tiles} tiles of {drift_.fewest_objects} objects or more are "
            "needed; --tile-objects says how large they may be."
        )
    for flag, n in drift_.n_by_flag.items():
        stand = "stands" if n == 1 else "stand"
        found.append(f"{n:,} of {drift_.n_tiles:,} tiles {stand} out by {_BY[flag]}.")
    if report.repeats.n_objects:
        found.append(
            f"{report.repeats.n_objects:,} objects have the components of another, bit by bit: is one cutout there "
            "several times?"
        )
    return tuple(found)


def _price(prices: PriceTable, gpu_s: float, cpu_s: float, manifests: Mapping[Kind, Manifest]) -> Price:
    per_million = (gpu_s * prices.per_gpu_hour + cpu_s * prices.per_cpu_hour) / _HOUR_S
    return Price(
        currency=prices.currency,
        per_million=per_million,
        whole=per_million * manifests["plan"].counts["planned"] / 1e6,
        per_gpu_hour=prices.per_gpu_hour,
        per_cpu_hour=prices.per_cpu_hour,
    )


def _tile(tiles: Tiles, judged: Judged, at: int) -> Tile:
    order, pixel = tiles.orders[[at]], tiles.pixels[[at]]
    ra_deg, dec_deg = pixel_centres(order, pixel)
    flags = judged.flags
    return Tile(
        tile=f"{order[0]}/{pixel[0]}",
        ra_deg=float(ra_deg[0]),
        dec_deg=float(dec_deg[0]),
        n_objects=int(judged.n_objects[at]),
        n_rejected=int(judged.n_rejected[at]),
        flags=tuple(name for name in FLAGS if flags[name][at]),
        **{name: _number(judged.columns[name][at]) for name in MEASURED},
    )


def _largest(scores: Scores) -> float | None:
    sizes = np.abs(scores.z[np.isfinite(scores.z)])
    return float(sizes.max()) if len(sizes) else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
