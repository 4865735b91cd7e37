"""Report cards of releases in an output: found, read, signed, and their signatures checked."""

import hashlib
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from engine.storage.artefacts import decode, manifest_of, read_manifest
from engine.storage.signing import id_of, is_signed
from engine.storage.store import Store
from schemas import paths
from schemas.errors import InputNotFoundError, IntegrityError
from schemas.manifest import Manifest, Release, canonical
from schemas.report import Report

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


class ReportFiles(NamedTuple):
    """A report card as it is stored."""

    report: Report
    data: bytes
    """Of `report.json`, which are signed."""
    page: bytes
    """Of `report.html`."""
    signed_by: tuple[str, ...]
    """Ids of keys whose signatures lie there; nobody has checked them."""


def encode_report(report: Report) -> bytes:
    """Encode a report as canonical JSON."""
    return canonical(report.model_dump(mode="json"))


def release_sha256(store: Store, release_id: str) -> str:
    """Hash a release's record as it is stored."""
    return hashlib.sha256(store.read(paths.release(release_id))).hexdigest()


def reports_of(store: Store, release_id: str) -> list[Manifest]:
    """Read the manifests of the finished reports of a release, the newest first."""
    found = []
    for path in store.list("report"):
        report_id, _, rest = path.removeprefix("report/").partition("/")
        if rest == paths.MANIFEST:
            manifest = read_manifest(store, "report", report_id)
            if manifest.identity["release"] == release_id:
                found.append(manifest)
    return sorted(found, key=lambda one: (one.created_utc, one.id), reverse=True)


def read_report(store: Store, manifest: Manifest) -> ReportFiles:
    """Read a report and its page.

    Raises
    ------
    IntegrityError
        A file is missing or not the one that the manifest names, or the report is of another version of voorwerp.
    """
    folder = store.below(paths.artefact("report", manifest.id))
    files = {file.path: file for file in manifest.files}
    data, page = (folder.read_verified(files[name]) for name in (paths.REPORT, paths.REPORT_PAGE))
    report = decode(Report, data, folder.uri(paths.REPORT))
    return ReportFiles(report, data, page, _signed_by(folder))


def sign_report(store: Store, manifest: Manifest, key: "Ed25519PrivateKey") -> str:
    """Sign a report; return the key's id. The same key signs the same report with the same bytes.

    Raises
    ------
    IntegrityError
        The report is missing or not the one that its manifest names, or another signature of this key is there.
    """
    folder = store.below(paths.artefact("report", manifest.id))
    data, key_id = read_report(store, manifest).data, id_of(key.public_key())
    if not folder.create(paths.signature(key_id), key.sign(data)):
        raise IntegrityError(
            f"{folder.uri(paths.signature(key_id))}: found a signature of this key that is not one of this report; "
            "delete it if you know why, and sign again"
        )
    return key_id


def check_signature(store: Store, release_id: str, key: "Ed25519PublicKey") -> Report:
    """Check that a release is the one whose report a key has signed, and that report and manifests are as they were.

    Hashes of the release's other files are not looked at: manifests name them.

    Returns
    -------
    Report
        The newest that the key has signed.

    Raises
    ------
    InputNotFoundError
        The release has no report, or none with a signature of this key.
    IntegrityError
        The signature is not one of this report by this key; or the release, a manifest or a file of the report is not
        the one that was signed.
    """
    key_id, found = id_of(key), reports_of(store, release_id)
    if not found:
        raise InputNotFoundError(f"{store.uri()}: release {release_id} has no report; voorwerp report makes one")
    folders = [store.below(paths.artefact("report", manifest.id)) for manifest in found]
    folder = next((one for one in folders if one.exists(paths.signature(key_id))), None)
    if folder is None:
        others = sorted({other for one in folders for other in _signed_by(one)})
        raise InputNotFoundError(
            f"{store.uri()}: expected a report of release {release_id} that is signed by key {key_id}, found "
            + (f"signatures of {', '.join(others)} alone" if others else "no signature")
        )
    data, where = folder.read(paths.REPORT), folder.uri(paths.REPORT)
    if not is_signed(key, folder.read(paths.signature(key_id)), data):
        raise IntegrityError(f"{where}: this is not what key {key_id} has signed: report or signature were changed")
    report = decode(Report, data, where)
    record = store.read(paths.release(release_id))
    found_sha256 = hashlib.sha256(record).hexdigest()
    if (report.release, report.release_sha256) != (release_id, found_sha256):
        raise IntegrityError(
            f"{store.uri(paths.release(release_id))}: expected the record that key {key_id} has signed, with SHA-256 "
            f"{report.release_sha256}, found {found_sha256}"
        )
    release = decode(Release, record, store.uri(paths.release(release_id)))
    for kind in release.artefacts:
        manifest_of(store, release, kind)  # type: ignore[arg-type]
    for file in report.files:
        folder.read_verified(file)
    return report


def _signed_by(folder: Store) -> tuple[str, ...]:
    return tuple(PurePosixPath(path).stem for path in folder.list(paths.SIGNATURES))
