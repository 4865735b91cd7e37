"""From manifests to answers. Deny by default: what is not listed here is not told, and neither is any place of a file.

A manifest names files, catalogues and weights, and places can hold secrets; so can what is added to it some day.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.manifest import Kind, Manifest, Release
from schemas.service_releases import (
    ManifestAnswer,
    ManifestsAnswer,
    ManifestSummary,
    PublishedRelease,
    ReleasesAnswer,
)

_TOLD = frozenset(
    {
        # Identities.
        *("objects_sha256", "rejects_sha256", "rows_per_partition", "rows_per_unit", "architecture", "bands"),
        *("weights_sha256", "engine", "plan", "encoder", "views", "precision", "embeddings", "space", "n_components"),
        *("unit_variance", "method", "components", "kind", "n_shards", "n_cells", "cutouts", "preset"),
        # Details.
        *("planned_digest", "dimension", "preset_sha256", "rejected_by_reason", "embedded_digest", "rejected_digest"),
        *("device", "workers", "runtimes", "attempts_lost", "explained_variance_ratio", "metric", "settings"),
        *("recall_k", "n_held_out"),
    }
)
"""Keys of identities and details, with all that they hold but places."""


def releases_answer(served: str, releases: Sequence[Release]) -> ReleasesAnswer:
    """Answer with the releases of an output, in their order."""
    published = tuple(
        PublishedRelease(
            release=one.id,
            index=one.artefacts["index"].id,
            created_utc=one.created_utc,
            architecture=one.architecture,
            counts=one.counts,
            is_served=one.id == served,
        )
        for one in releases
    )
    return ReleasesAnswer(served=served, releases=published)


def manifests_answer(release: str, manifests: Mapping[Kind, Manifest]) -> ManifestsAnswer:
    """Answer with what the artefacts of a release are."""
    return ManifestsAnswer(
        release=release, manifests=tuple(ManifestSummary(**_summary(one)) for one in manifests.values())
    )


def manifest_answer(release: str, manifest: Manifest) -> ManifestAnswer:
    """Answer with a manifest, but for places."""
    return ManifestAnswer(
        **_summary(manifest),
        release=release,
        format=manifest.format,
        identity=_told(manifest.identity),
        parents={kind: parent.id for kind, parent in manifest.parents.items()},
        versions=manifest.versions,
        durations_s=manifest.durations_s,
    )


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "kind": manifest.kind,
        "id": manifest.id,
        "created_utc": manifest.created_utc,
        "counts": manifest.counts,
        "detail": _told(manifest.detail),
        "n_files": len(manifest.files),
        "size_bytes": sum(file.size_bytes for file in manifest.files),
    }


def _told(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _placeless(value) for key, value in values.items() if key in _TOLD}


def _placeless(value: Any) -> Any:
    """Leave out texts that could be places."""
    if isinstance(value, str):
        return None if set(value) & set("/\\~") else value
    if isinstance(value, Mapping):
        return {key: _placeless(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_placeless(one) for one in value]
    return value
