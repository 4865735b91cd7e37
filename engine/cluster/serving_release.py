"""What a release is and was made of, as the service tells it: read when first asked, and kept. Starts no cluster."""

import threading
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from engine.cluster.opened import OpenRelease
from engine.storage.artefacts import all_releases, parent_of, partitions_of, release_chain
from engine.storage.parquet import parse_table, read_table
from engine.storage.reports import ReportFiles, read_report, reports_of
from schemas import paths
from schemas.manifest import Kind, Manifest, Release
from schemas.reject import RejectReason
from schemas.service_releases import RejectedFor, RejectsAnswer
from schemas.tables import HEALPIX, OBJECT_ID, REASON

FOOTPRINT_ORDER = 9
"""HEALPix order of the footprint's cells: 7 arcmin."""
_EXAMPLES = 10
_REASONS = {reason.value: reason for reason in RejectReason}


class ReleaseFacts:
    """Facts of an open release, for several threads at once.

    Parameters
    ----------
    release : OpenRelease
    """

    def __init__(self, release: OpenRelease) -> None:
        self._release = release
        self._one = threading.RLock()

    def releases(self) -> list[Release]:
        """Read the records of all finished releases of the output, the newest first."""
        return all_releases(self._release.store)

    def manifests(self) -> dict[Kind, Manifest]:
        """Give the manifests of the release's artefacts, each after those that it was made from."""
        with self._one:
            return self._chain

    def report(self, release: str) -> ReportFiles | None:
        """Read the newest report card of a release of the output, which may be written while it is served."""
        found = reports_of(self._release.store, release)
        return read_report(self._release.store, found[0]) if found else None

    def rejects(self) -> RejectsAnswer:
        """Count what was rejected, by reason."""
        with self._one:
            return self._rejects

    def footprint(self) -> bytes:
        """Draw where the release has objects, as a MOC in FITS."""
        with self._one:
            return self._footprint

    @cached_property
    def _chain(self) -> dict[Kind, Manifest]:
        return release_chain(self._release.store, self._release.index)

    @cached_property
    def _rejects(self) -> RejectsAnswer:
        release = self._release
        embeddings = parent_of(release.store, release.components, "embeddings")
        folder = release.store.below(paths.artefact("embeddings", embeddings.id))
        record = next((file for file in embeddings.files if file.path == paths.REJECTS), None)
        if record is None:
            return RejectsAnswer(release=release.id, n_rejected=0, by_reason=())
        data = folder.read_verified(record)
        table = parse_table(data, folder.uri(record.path), [OBJECT_ID, REASON])
        return RejectsAnswer(release=release.id, n_rejected=len(table), by_reason=_by_reason(table))

    @cached_property
    def _footprint(self) -> bytes:
        from engine.storage.coverage import write_moc  # Its library takes a third of a second to load.

        release, shift = self._release, 2 * (29 - FOOTPRINT_ORDER)
        cells = [np.empty(0, np.int64)]
        for part in partitions_of(release.components):
            healpix = read_table(release.components_folder, part.partition.path, [HEALPIX])[HEALPIX].to_numpy()
            cells.append(np.unique(healpix >> shift))
        return write_moc(np.unique(np.concatenate(cells)), FOOTPRINT_ORDER)


def _by_reason(table: pa.Table) -> tuple[RejectedFor, ...]:
    found = []
    for row in pc.value_counts(table[REASON]).to_pylist():
        reason = _REASONS[row["values"]]
        ids = table[OBJECT_ID].filter(pc.equal(table[REASON], reason.value)).slice(0, _EXAMPLES)
        examples = tuple("" if one is None else str(one) for one in ids.to_pylist())
        found.append(RejectedFor(reason=reason, meaning=reason.meaning, n=row["counts"], examples=examples))
    return tuple(sorted(found, key=lambda one: (-one.n, one.reason)))
