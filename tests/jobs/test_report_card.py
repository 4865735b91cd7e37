"""Report cards: a clean release is clean, a bad part of the sky is found, and what was signed cannot be changed."""

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from engine.compute.encoder import build_encoder, encode, encoder_tensors
from engine.storage.artefacts import current_release, find_release
from engine.storage.artefacts import encode as encode_record
from engine.storage.reports import read_report, reports_of
from engine.storage.store import Store
from jobs import gc, report_card, verify
from jobs.keygen import run as keygen
from schemas import paths
from schemas.errors import ConfigError, DataError, InputNotFoundError, IntegrityError
from schemas.manifest import Manifest, canonical
from schemas.reject import RejectReason
from schemas.report import Report, ReportJob, tiles_schema
from tests.conftest import TINY_ARCHITECTURE, galaxy_pixels
from tests.embedded import write_embedded
from tests.generated import clustered
from tests.jobs.conftest import command

N = 1200
SECRET = "survey-key"


class Drawn(NamedTuple):
    """A release of vectors, and where its objects are."""

    output: Path
    ids: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    embeddings: np.ndarray


def field(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Positions in ten by ten degrees across RA = 0."""
    random = np.random.default_rng(seed)
    return random.uniform(355, 365, n) % 360, random.uniform(-5, 5, n)


def in_patch(ra_deg: np.ndarray, dec_deg: np.ndarray) -> np.ndarray:
    """Objects of a tenth of the field."""
    return (np.abs((ra_deg + 180) % 360 - 181.2) < 1.6) & (np.abs(dec_deg - 1) < 1.6)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    """A release in which nothing is wrong but some rejects; not to be changed."""
    output = tmp_path_factory.mktemp("clean") / "out"
    ra_deg, dec_deg = field(N)
    ids, embeddings = np.arange(N) + 7000, clustered(N, 12, 3)
    rejected = {7010: RejectReason.DECODE_ERROR, 7500: RejectReason.NOT_FOUND, 7900: RejectReason.NOT_FOUND}
    objects = {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg}
    write_embedded(output, objects, embeddings, rejected, n_components=6)
    return Drawn(output, ids, ra_deg, dec_deg, embeddings)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / SECRET
    keygen(path)
    return path


@pytest.fixture(scope="module")
def carded(clean: Drawn, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The report card of the clean release, with prices, signed."""
    prices = tmp_path_factory.mktemp("prices") / "prices.yaml"
    prices.write_text("currency: EUR\nper_cpu_hour: 0.05\n")
    return report_card.run(ReportJob(release=str(clean.output), tile_objects=60, prices=prices, key=key))


def report_of(output: Path, made: Manifest) -> Report:
    return read_report(Store(str(output)), made).report


def test_a_clean_release_flags_no_tile_and_accounts_for_every_row(clean: Drawn, carded: Manifest) -> None:
    report = report_of(clean.output, carded)
    assert report.findings == ()
    assert report.drift.n_judged >= 20
    assert report.drift.n_flagged == 0
    accounting = report.accounting
    assert (accounting.n_planned, accounting.n_embedded, accounting.n_rejected) == (N, N - 3, 3)
    assert [(one.reason, one.n) for one in accounting.by_reason] == [("not_found", 2), ("decode_error", 1)]
    assert accounting.is_balanced
    assert report.repeats.n_objects == 0
    assert sum(report.explained_variance) == pytest.approx(1, abs=0.2)
    assert report.recall.settings[-1].recall > 0.9


def test_cost_is_what_was_recorded_times_what_it_costs(clean: Drawn, carded: Manifest) -> None:
    cost = report_of(clean.output, carded).cost
    assert (cost.cutouts_per_s, cost.cpu_s_per_million, cost.gpu_s_per_million) == (250.0, 7200.0, None)
    assert cost.price is not None
    assert cost.price.per_million == pytest.approx(2 * 0.05)
    assert cost.price.whole == pytest.approx(2 * 0.05 * N / 1e6)
    assert [stage.name for stage in cost.stages] == ["plan"]


def test_a_part_of_the_sky_that_is_calibrated_differently_is_found(clean: Drawn, tmp_path: Path) -> None:
    patch = in_patch(clean.ra_deg, clean.dec_deg)
    embeddings = clean.embeddings.copy()
    embeddings[patch] += 1.5 * embeddings.std(axis=0)
    objects = {"object_id": clean.ids, "ra_deg": clean.ra_deg, "dec_deg": clean.dec_deg}
    lost = {int(one): RejectReason.CHANGED for one in clean.ids[patch][:3]}
    write_embedded(tmp_path / "out", objects, embeddings, lost, n_components=6)
    made = report_card.run(ReportJob(release=str(tmp_path / "out"), tile_objects=60, against=str(clean.output)))
    report = report_of(tmp_path / "out", made)
    drift = report.drift
    assert 1 <= drift.n_by_flag["mean"] <= 6
    for tile in drift.flagged:
        assert np.hypot((tile.ra_deg + 180) % 360 - 181.2, tile.dec_deg - 1) < 3.5
    assert any("component space" in finding for finding in report.findings)
    # The release before has the same objects; what moved is what was planted.
    before = report.comparison
    assert before is not None
    assert before.is_by_object
    assert not before.is_same_basis
    assert before.n_matched == N - 6
    assert before.n_unchanged == pytest.approx(N - 6 - patch.sum() + 3, abs=3)
    assert before.n_flagged >= 1
    table = pq.read_table(tmp_path / "out" / paths.artefact("report", made.id) / paths.TILES)
    assert table.schema == tiles_schema()
    assert table["n_objects"].to_numpy().sum() == N - 3
    assert sum(bool(flags) for flags in table["flags"].to_pylist()) == drift.n_flagged


@pytest.mark.parametrize("harm", ["nothing", "bright", "blurred"])
def test_cutouts_of_one_tile_that_are_brighter_or_blurred_are_found_through_an_encoder(
    harm: str, tiny_weights: Path, tmp_path: Path
) -> None:
    n = 640
    ra_deg, dec_deg = field(n, 5)
    order = np.argsort(10 * np.floor(dec_deg) + ra_deg)
    own = order[300:340]
    low, high = ((2.0,), (1.0,)), ((2.4,), (1.4,))
    ra_deg[own], dec_deg[own] = np.random.default_rng(1).uniform(low, high, (2, 40))
    pixels = np.stack([galaxy_pixels(number) for number in range(n)]).astype(np.float32) / 255
    if harm == "bright":
        pixels[own] = np.minimum(pixels[own] * 1.6 + 0.1, 1)
    elif harm == "blurred":
        for axis in (1, 2):
            pixels[own] = sum(np.roll(pixels[own], shift, axis) for shift in range(-3, 4)) / 7
    network = build_encoder(TINY_ARCHITECTURE, 1, encoder_tensors(TINY_ARCHITECTURE, 1, load_file(tiny_weights)))
    views = pixels.mean(axis=3)[:, np.newaxis]
    embeddings = np.concatenate([encode(network, views[at : at + 64]) for at in range(0, n, 64)])
    objects = {"object_id": np.arange(n), "ra_deg": ra_deg, "dec_deg": dec_deg}
    write_embedded(tmp_path / "out", objects, embeddings, n_components=5)
    report = report_of(tmp_path / "out", report_card.run(ReportJob(release=str(tmp_path / "out"), tile_objects=45)))
    if harm == "nothing":
        assert report.drift.n_judged >= 8
        assert report.drift.n_flagged == 0
    else:
        assert report.drift.n_flagged >= 1
        worst = report.drift.flagged[0]
        assert abs(worst.ra_deg - 2.2) < 1
        assert abs(worst.dec_deg - 1.2) < 1


@pytest.mark.cluster
def test_a_release_that_was_really_embedded_has_all_that_a_report_tells(finished: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(finished, tmp_path / "out"))
    report = report_of(output, report_card.run(ReportJob(release=str(output))))
    stages = [stage.name for stage in report.cost.stages]
    assert stages == ["encoder", "plan", "embed", "assemble", "fit", "project", "index"]
    assert all(stage.seconds > 0 for stage in report.cost.stages)
    assert report.cost.cpu_s_per_million
    assert report.accounting.is_balanced
    assert report.encoder.weights == "tiny.safetensors"
    assert verify.run(str(output))


class _Loads(HTMLParser):
    """Collects what a page would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.styled = 0

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            self.styled += name == "style"
            assert not name.startswith("on")
            if name in ("src", "srcset", "href", "data", "action"):
                self.loads.append(str(value))


def test_the_page_loads_nothing_runs_nothing_and_says_so(clean: Drawn, carded: Manifest) -> None:
    page = read_report(Store(str(clean.output)), carded).page.decode()
    found = _Loads()
    found.feed(page)
    assert found.loads
    assert all(one.startswith("data:image/png;base64,") for one in found.loads)
    assert not found.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert found.styled == 0
    assert "@import" not in page
    assert "url(" not in page
    for data in found.loads:
        assert base64.b64decode(data.partition(",")[2]).startswith(b"\x89PNG")
    assert re.search(r"default-src 'none'; style-src &#39;sha256-|default-src 'none'; style-src 'sha256-", page)


def test_what_the_page_says_is_escaped(tmp_path: Path) -> None:
    ra_deg, dec_deg = field(60)
    ids = [f"<b>{number}</b>&" for number in range(60)]
    vectors = clustered(60, 6, 3)
    vectors[3] = vectors[4]
    write_embedded(tmp_path / "out", {"object_id": ids, "ra_deg": ra_deg, "dec_deg": dec_deg}, vectors)
    made = report_card.run(ReportJob(release=str(tmp_path / "out")))
    found = read_report(Store(str(tmp_path / "out")), made)
    assert found.report.repeats.examples == (("<b>3</b>&", "<b>4</b>&"),)
    assert b"&lt;b&gt;3&lt;/b&gt;&amp; = &lt;b&gt;4" in found.page
    assert b"<b>3" not in found.page
    assert any("No tile was judged" in finding for finding in found.report.findings)


def test_a_report_tells_no_place_of_a_file(clean: Drawn, carded: Manifest) -> None:
    folder = clean.output / paths.artefact("report", carded.id)
    for name in (paths.REPORT, paths.REPORT_PAGE, paths.PROVENANCE, paths.LINEAGE):
        told = (folder / name).read_text()
        assert str(clean.output.parent) not in told
        assert "/models" not in told
    report = report_of(clean.output, carded)
    assert (report.catalogue, report.encoder.weights) == ("catalogue.csv", "drawn.safetensors")


def test_the_same_report_is_found_again_and_another_one_lies_beside_it(clean: Drawn, carded: Manifest) -> None:
    identity = carded.identity
    assert identity["tile_objects"] == 60
    before = {path: path.stat().st_mtime_ns for path in clean.output.rglob("*") if path.is_file()}
    other = report_card.run(ReportJob(release=str(clean.output), tile_objects=80))
    assert other.id != carded.id
    assert report_card.run(ReportJob(release=str(clean.output), tile_objects=80)) == other
    assert {path: path.stat().st_mtime_ns for path in before} == before
    found = reports_of(Store(str(clean.output)), current_release(Store(str(clean.output))).id)
    assert {one.id for one in found} == {carded.id, other.id}
    assert verify.run(str(clean.output))
    assert gc.run(str(clean.output), 0, dry_run=True) == []


def test_another_encoder_and_the_same_release_are_refused(clean: Drawn, tmp_path: Path) -> None:
    rows = slice(0, 300)
    objects = {"object_id": clean.ids[rows], "ra_deg": clean.ra_deg[rows], "dec_deg": clean.dec_deg[rows]}
    write_embedded(tmp_path / "out", objects, clean.embeddings[rows], n_components=6, weights_sha256="f" * 64)
    with pytest.raises(DataError, match=r"of the same encoder and preset as .* of another .*weights ffffffffffff"):
        report_card.run(ReportJob(release=str(clean.output), against=str(tmp_path / "out")))
    with pytest.raises(ConfigError, match="expected another release than"):
        report_card.run(ReportJob(release=str(clean.output), against=str(clean.output)))
    own = current_release(Store(str(clean.output))).id
    with pytest.raises(ConfigError, match="expected another release than"):
        report_card.run(ReportJob(release=str(clean.output), against=own))
    with pytest.raises(InputNotFoundError, match="no finished release here"):
        report_card.run(ReportJob(release=str(clean.output), against=str(tmp_path / "none")))
    with pytest.raises(InputNotFoundError, match="expected one of its releases"):
        report_card.run(ReportJob(release=str(clean.output), as_of="none"))


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    """A small release whose report is signed; not to be changed."""
    ra_deg, dec_deg = field(200)
    output = tmp_path_factory.mktemp("signed") / "out"
    write_embedded(output, {"object_id": np.arange(200), "ra_deg": ra_deg, "dec_deg": dec_deg}, clustered(200, 8, 3))
    report_card.run(ReportJob(release=str(output), tile_objects=20, key=key))
    return output


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    """A small release of one's own, whose report is signed."""
    return Path(shutil.copytree(signed_once, tmp_path / "out"))


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_what_was_signed_is_verified_and_openly(signed: Path, key: Path) -> None:
    public = key.with_name(f"{SECRET}.pub")
    assert verify.run(str(signed), public)
    command("verify", signed, "--public-key", public)
    report_card.run(ReportJob(release=str(signed), tile_objects=20, key=key))  # Signing again changes nothing.
    assert verify.run(str(signed), public)
    assert len(list(signed.glob("report/*/signatures/*"))) == 1
    data = only(signed, "report/*/report.json").read_bytes()
    assert canonical(json.loads(data)) == data


def test_a_wrong_key_and_a_missing_signature_are_told_apart(signed: Path, key: Path, tmp_path: Path) -> None:
    keygen(tmp_path / "other")
    with pytest.raises(InputNotFoundError, match=r"by key [0-9a-f]{16}, found signatures of [0-9a-f]{16} alone"):
        verify.run(str(signed), tmp_path / "other.pub")
    # A signature that lies under another key's name is not that key's.
    theirs = only(signed, "report/*/signatures/*.sig")
    other_id = re.search("key ([0-9a-f]{16})", str(refused(signed, tmp_path / "other.pub")))
    assert other_id
    theirs.with_name(f"{other_id[1]}.sig").write_bytes(theirs.read_bytes())
    with pytest.raises(IntegrityError, match=r"not what key .* has signed"):
        verify.run(str(signed), tmp_path / "other.pub")
    for path in signed.glob("report/*/signatures/*.sig"):
        path.unlink()
    with pytest.raises(InputNotFoundError, match="found no signature"):
        verify.run(str(signed), key.with_name(f"{SECRET}.pub"))


def refused(output: Path, public: Path) -> Exception:
    with pytest.raises((InputNotFoundError, IntegrityError)) as caught:
        verify.run(str(output), public)
    return caught.value


def edit(pattern: str, old: str, new: str) -> Callable[[Path], None]:
    def change(output: Path) -> None:
        path = only(output, pattern)
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


CHANGES = {
    "report": (edit("report/*/report.json", '"n_planned":200', '"n_planned":201'), "not what key .* has signed"),
    "page": (
        edit("report/*/report.html", "<h2>Duplicates</h2>", "<h2>Faultless</h2>"),
        "report.html: expected SHA-256",
    ),
    "provenance": (edit("report/*/prov.json", "catalogue.csv", "other.csv"), "prov.json: expected SHA-256"),
    "record": (edit("releases/*.json", "drawn.safetensors", "other.safetensors"), None),
    "manifest": (edit("embeddings/*/manifest.json", '"embedded": 200', '"embedded": 199'), "changed after publication"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_of_what_was_signed_is_found(signed: Path, key: Path, name: str) -> None:
    change, message = CHANGES[name]
    change(signed)
    error = refused(signed, key.with_name(f"{SECRET}.pub"))
    assert isinstance(error, IntegrityError)
    assert re.search(message or "expected SHA-256", str(error))


def test_a_record_that_is_changed_with_what_points_to_it_is_found(signed: Path, key: Path) -> None:
    record = only(signed, "releases/*.json")
    record.write_text(record.read_text().replace("drawn.safetensors", "other.safetensors"))
    current = json.loads((signed / paths.CURRENT).read_text())
    current["sha256"] = hashlib.sha256(record.read_bytes()).hexdigest()
    (signed / paths.CURRENT).write_text(json.dumps(current))
    assert verify.run(str(signed))  # Without the key nothing is amiss.
    error = refused(signed, key.with_name(f"{SECRET}.pub"))
    assert re.search("expected the record that key .* has signed", str(error))


def test_a_byte_of_an_embedding_is_found_as_well(signed: Path, key: Path) -> None:
    path = sorted((signed / "embeddings").rglob("Npix=*.parquet"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not verify.run(str(signed), key.with_name(f"{SECRET}.pub"))


def test_keys_are_made_by_command_and_the_private_one_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command("keygen", tmp_path / "survey.key")
    shown = "".join(capfd.readouterr())
    secret = (tmp_path / "survey.key").read_text()
    assert "PRIVATE" not in shown
    assert not any(line in shown for line in secret.splitlines())


def test_near_duplicates_come_from_the_answer_of_their_command(clean: Drawn, tmp_path: Path) -> None:
    answer = {
        "kind": "duplicates",
        "id": "5" * 16,
        "identity": {"release": current_release(Store(str(clean.output))).id, "distance": 0.5, "radius_arcsec": 2.0},
        "counts": {"distance": 4, "sky": 3, "both": 2, "rows": 9},
        "files": [],
        "versions": {},
        "durations_s": {},
        "created_utc": "2026-01-01T00:00:00+00:00",
    }
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / paths.MANIFEST).write_text(json.dumps(answer))
    made = report_card.run(ReportJob(release=str(clean.output), tile_objects=70, duplicates=str(tmp_path / "pairs")))
    near = report_of(clean.output, made).near_duplicates
    assert near is not None
    assert (near.n_by_distance, near.n_by_sky, near.n_both, near.distance) == (4, 3, 2, 0.5)
    answer["identity"] = {"release": "another"}
    (tmp_path / "pairs" / paths.MANIFEST).write_text(json.dumps(answer))
    with pytest.raises(DataError, match="expected what `voorwerp duplicates` found in release"):
        report_card.run(ReportJob(release=str(clean.output), tile_objects=70, duplicates=str(tmp_path / "pairs")))


def test_the_record_of_a_release_is_hashed_as_it_is_stored(clean: Drawn, carded: Manifest) -> None:
    store = Store(str(clean.output))
    report = report_of(clean.output, carded)
    assert store.read(paths.release(report.release)) == encode_record(find_release(store, report.release))
    assert report.release_sha256 == hashlib.sha256(store.read(paths.release(report.release))).hexdigest()
