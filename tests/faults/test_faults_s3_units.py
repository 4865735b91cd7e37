"""Units and cutouts over a bad object store: the same commit as ever, or none; a fault of the store rejects no row."""

import io
import tarfile
from collections.abc import Callable
from typing import Any, NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pytest

from engine.cluster.loading import threaded
from engine.cluster.protocol import find_commit, read_commits
from engine.cluster.task import EmbedTask
from engine.cluster.unit import Embedded, embed_objects, embed_unit
from engine.storage.cutouts import CutoutReader
from engine.storage.images import CutoutError
from engine.storage.parquet import write_table
from engine.storage.pins import Pin, locate_cutouts, pin_catalogue, pin_file, pin_files, pin_of
from engine.storage.references import cell_of
from engine.storage.store import Store
from schemas import paths
from schemas.config import CutoutConfig
from schemas.errors import StoreError
from schemas.manifest import Commit
from schemas.reject import RejectReason
from tests.faults.conftest import ACCESS_KEY, OLD, TRIES, Bad
from tests.faults.fault_proxy import Fault, altered, flipped, hang, reset, reset_after, status, truncated
from tests.faults.test_faults_protocol import UNITS, encoder, make_task, write_plan
from tests.storage.boxes import column_of, stack_of, tar_of

REQUESTS = {
    "the mark": ("PUT", "/attempts/"),
    "the plan": ("GET|HEAD", "/plan/"),
    "a container": ("GET|HEAD", "/cutouts-"),
    "the files": ("PUT", "/parts/"),
    "the commit": ("PUT", "/commits/"),
}
FAULTS: dict[str, Fault] = {
    "500": status(500),
    "503": status(503),
    "429": status(429),
    "reset": reset,
    "reset after": reset_after,
}


def embed(store: Store, run_id: str = "e") -> Commit:
    """Embed the first unit, of which one object is bad."""

    def one_by_one(objects: pa.Table, task: EmbedTask) -> Embedded:
        with threaded(task) as loader:
            return embed_objects(objects, task, encoder, loader)

    task = make_task(store.uri()).model_copy(update={"run_id": run_id})
    with threaded(task) as loader:
        return embed_unit(UNITS[0], task, encoder, loader, one_by_one)


def content(commit: Commit) -> dict[str, Any]:
    """What a commit says of the rows: all but names of files, number of the attempt and times."""
    hashes = [file.sha256 for file in commit.files]
    return commit.model_dump(exclude={"attempt", "files", "durations_s"}) | {"hashes": hashes}


def assert_done_once(store: Store, record: Commit, expected: dict[str, Any]) -> None:
    assert content(record) == expected
    assert list(read_commits(store, "e")) == [record]
    for file in record.files:
        store.below(paths.work("e")).read_verified(file)


@pytest.fixture
def planned(bad: Bad) -> Store:
    write_plan(bad.store)
    return bad.store


@pytest.fixture
def expected(planned: Store) -> dict[str, Any]:
    """What a run commits in which nothing happens."""
    return content(embed(planned, "calm"))


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_a_burst_during_a_unit_changes_nothing(
    bad: Bad, planned: Store, expected: dict[str, Any], request_of: tuple[str, str], fault: Fault
) -> None:
    rule = bad.proxy.add(fault, *request_of, times=2)
    assert_done_once(planned, embed(planned), expected)
    assert rule.fired == 2


@pytest.mark.fault(8, "faults at every request of a unit")
def test_bursts_at_every_request_of_a_unit_change_nothing(bad: Bad, planned: Store, expected: dict[str, Any]) -> None:
    rules = [
        bad.proxy.add(fault, *request_of, times=times)
        for request_of in REQUESTS.values()
        for fault, times in ((status(503), 1), (reset_after, 1), (status(429), 1))
    ]
    before = bad.proxy.n_requests
    assert_done_once(planned, embed(planned), expected)
    assert [rule.fired for rule in rules] == [1] * len(rules)
    assert bad.proxy.n_requests - before < 80


@pytest.mark.parametrize("request_of", REQUESTS.values(), ids=REQUESTS)
def test_endless_faults_commit_nothing_and_the_unit_goes_through_later(
    bad: Bad, planned: Store, expected: dict[str, Any], request_of: tuple[str, str]
) -> None:
    rule = bad.proxy.add(status(503), *request_of, times=None)
    with pytest.raises(StoreError, match=f"unavailable after {TRIES} tries on {planned.uri()}"):
        embed(planned)
    assert TRIES <= rule.fired <= 3 * TRIES
    bad.proxy.heal()
    assert find_commit(planned, "e", UNITS[0].name) is None
    assert_done_once(planned, embed(planned), expected)


@pytest.mark.fault(12, "answers 403 for a container")
def test_a_refusal_during_a_unit_stops_it_at_once_and_rejects_nothing(bad: Bad, planned: Store) -> None:
    rule = bad.proxy.add(status(403), "HEAD", "/cutouts-", times=None)
    with pytest.raises(StoreError, match=f"access denied to access key {ACCESS_KEY} at {planned.uri()}/cutouts-"):
        embed(planned)
    assert 1 <= rule.fired <= UNITS[0].n_rows  # Once per row: threads may have asked before the first refusal.
    bad.proxy.heal()
    assert list(read_commits(planned, "e")) == []


@pytest.mark.fault(14, "the same, at every try of a commit")
def test_a_commit_whose_every_answer_is_lost_is_found_by_the_next_attempt(
    bad: Bad, planned: Store, expected: dict[str, Any]
) -> None:
    rule = bad.proxy.add(reset_after, "PUT", "/commits/", times=None)
    with pytest.raises(StoreError, match="unavailable after"):
        embed(planned)
    assert rule.fired >= TRIES
    bad.proxy.heal()
    assert_done_once(planned, embed(planned), expected)


def located(uri: str) -> tuple[str, Pin | None]:
    objects = locate_cutouts(pa.table({"cutout": [uri]}))
    return objects["cutout"][0].as_py(), pin_of(objects, 0)


def read(uri: str, check_md5: bool = True) -> bytes | np.ndarray:
    return CutoutReader(CutoutConfig(check_md5=check_md5)).read(*located(uri))


def refused(uri: str) -> RejectReason:
    with pytest.raises(CutoutError) as caught:
        read(uri)
    return caught.value.reason


@pytest.mark.parametrize("fault", [truncated(100), status(503), status(429), reset, hang, flipped(7)])
def test_a_cutout_is_read_although_one_answer_was_bad(bad: Bad, fault: Fault) -> None:
    rule = bad.proxy.add(fault, "GET", "/old")
    assert read(bad.store.uri("old")) == OLD
    assert rule.fired == 1


@pytest.mark.fault(10, "other bytes of the same and of another length, without end")
@pytest.mark.parametrize("fault", [flipped(7), altered(lambda body: b"x" * len(body)), altered(lambda body: body[99:])])
def test_a_cutout_of_wrong_bytes_is_a_reject(bad: Bad, fault: Fault) -> None:
    rule = bad.proxy.add(fault, "GET", "/old", times=None)
    assert refused(bad.store.uri("old")) is RejectReason.INTEGRITY
    assert rule.fired == 2


@pytest.mark.fault(11, "an object that is written again, then deleted")
def test_a_cutout_that_was_replaced_or_deleted_since_is_a_reject(bad: Bad) -> None:
    uri = bad.store.uri("old")
    pin = pin_file(uri)
    reader = CutoutReader(CutoutConfig())
    assert reader.read(uri, pin) == OLD
    bad.store.write("old", OLD[::-1])
    with pytest.raises(CutoutError) as caught:
        reader.read(uri, pin)
    assert caught.value.reason is RejectReason.CHANGED
    bad.store.delete("old")
    with pytest.raises(CutoutError) as caught:
        reader.read(uri, pin)
    assert caught.value.reason is RejectReason.NOT_FOUND


def test_a_listing_for_pins_is_asked_for_again(bad: Bad) -> None:
    uris = [bad.store.uri(f"folder/{number}") for number in range(40)]
    for number in range(40):
        bad.store.write(f"folder/{number}", b"x")
    rule = bad.proxy.add(status(503), "GET", "list-type=2.*folder", times=2)
    assert pin_files(uris).keys() == set(uris)
    assert rule.fired == 2


@pytest.fixture(params=["file", "tar", "parquet", "hdf5"])
def cutout(request: pytest.FixtureRequest, bad: Bad) -> str:
    """URI of a cutout, in a file called box."""
    if request.param == "file":
        bad.store.write("box", OLD)
        return bad.store.uri("box")
    if request.param == "tar":
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as tar:
            member = tarfile.TarInfo("a.jpg")
            member.size = len(OLD)
            tar.addfile(member, io.BytesIO(OLD))
        bad.store.write("box.tar", sink.getvalue())
        return bad.store.uri("box.tar/a.jpg")
    if request.param == "parquet":
        write_table(bad.store, "box.parquet", pa.table({"image": [OLD]}))
        return cell_of(bad.store.uri("box.parquet"), "image", 0)
    sink = io.BytesIO()
    with h5py.File(sink, "w") as stack:
        stack["images"] = np.arange(8 * 64 * 64, dtype=np.uint8).reshape(8, 64, 64)
    bad.store.write("box.h5", sink.getvalue())
    return bad.store.uri("box.h5/3")


@pytest.mark.parametrize("fault", [status(503), reset, truncated(10)], ids=["503", "reset", "cut short"])
def test_a_store_that_fails_for_good_while_a_cutout_is_read_rejects_nothing(
    bad: Bad, cutout: str, fault: Fault
) -> None:
    reference, pin = located(cutout)
    rule = bad.proxy.add(fault, "GET", "/box", times=None)
    with pytest.raises(StoreError):
        CutoutReader(CutoutConfig()).read(reference, pin)
    assert rule.fired >= TRIES


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_store_that_refuses_while_a_cutout_is_read_rejects_nothing(bad: Bad, cutout: str, method: str) -> None:
    reference, pin = located(cutout)
    rule = bad.proxy.add(status(403), method, "/box", times=None)
    with pytest.raises(StoreError, match=f"access denied to access key {ACCESS_KEY} at {bad.store.uri()}/box"):
        CutoutReader(CutoutConfig()).read(reference, pin)
    assert rule.fired == 1


PIXELS = np.arange(9 * 64 * 64).reshape(9, 64, 64) % 251
BOXES = {
    "box.tar": (tar_of({f"{number}.jpg": OLD + bytes([number]) for number in range(9)}), "box.tar/{}.jpg"),
    "box.parquet": (column_of([OLD + bytes([number]) for number in range(9)]), "box.parquet#image[{}]"),
    "box.h5": (stack_of(PIXELS, chunks=(1, 64, 64), fletcher32=True), "box.h5/{}"),
}
"""Containers, and how their cutouts are called."""


class Box(NamedTuple):
    """A container that a reader has open, and a cutout that it has not read yet."""

    name: str
    reader: CutoutReader
    reference: str
    pin: Pin | None


@pytest.fixture(params=BOXES)
def box(request: pytest.FixtureRequest, bad: Bad) -> Box:
    data, name = BOXES[request.param]
    bad.store.write(request.param, data)
    reader = CutoutReader(CutoutConfig())
    reader.read(*located(bad.store.uri(name.format(0))))
    return Box(request.param, reader, *located(bad.store.uri(name.format(8))))


@pytest.mark.parametrize("fault", [status(403), status(503), reset], ids=["403", "503", "reset"])
def test_a_store_that_fails_behind_an_open_container_rejects_nothing(bad: Bad, box: Box, fault: Fault) -> None:
    rule = bad.proxy.add(fault, path="/box", times=None)
    with pytest.raises(StoreError, match=bad.store.uri(box.name)):
        box.reader.read(box.reference, box.pin)
    assert rule.fired
    bad.proxy.heal()
    expected = CutoutReader(CutoutConfig()).read(box.reference, box.pin)
    np.testing.assert_array_equal(box.reader.read(box.reference, box.pin), expected)


@pytest.mark.fault(13, "a container that is deleted while it is open")
def test_a_container_deleted_while_it_is_open_is_no_damage_and_not_found_at_the_next_attempt(
    bad: Bad, box: Box
) -> None:
    bad.store.delete(box.name)
    with pytest.raises(StoreError, match=r"AWS Error (NO_SUCH_KEY|RESOURCE_NOT_FOUND)"):
        box.reader.read(box.reference, box.pin)
    with pytest.raises(CutoutError, match="deleted since it was planned") as caught:
        CutoutReader(CutoutConfig()).read(box.reference, box.pin)
    assert caught.value.reason is RejectReason.NOT_FOUND


@pytest.mark.fault(10, "bodies cut short or ending in zeros")
def test_bytes_of_a_container_that_are_bad_on_their_way_are_read_again(bad: Bad, box: Box) -> None:
    expected = CutoutReader(CutoutConfig()).read(box.reference, box.pin)
    # A tar has no checksums of its members; the others are read twice where theirs fail.
    fault = truncated(100) if box.name == "box.tar" else altered(lambda body: body[:-700] + bytes(700))
    rule = bad.proxy.add(fault, "GET", "/box")
    np.testing.assert_array_equal(box.reader.read(box.reference, box.pin), expected)
    assert rule.fired == 1


def test_a_refusal_is_no_missing_file_however_files_are_pinned(bad: Bad) -> None:
    rule = bad.proxy.add(status(403), path="refused", times=None)
    uri = bad.store.uri("refused")
    actions: list[Callable[[], object]] = [
        lambda: pin_file(uri),
        lambda: pin_files([uri]),
        lambda: pin_files(f"{uri}/{number}" for number in range(40)),
        lambda: pin_catalogue(Store(uri)),
        lambda: located(f"{uri}.tar/a.jpg"),
    ]
    for action in actions:
        before = rule.fired
        with pytest.raises(StoreError, match=f"access denied to access key {ACCESS_KEY} at {uri}"):
            action()
        assert rule.fired > before


def test_files_are_asked_for_one_by_one_where_listing_is_refused(bad: Bad) -> None:
    names = [f"folder/{number:02}" for number in range(45)]
    for name in names[:40]:
        bad.store.write(name, name.encode())
    expected = {bad.store.uri(name): pin_file(bad.store.uri(name)) for name in names[:40]}
    rule = bad.proxy.add(status(403), "GET", "list-type=2", times=None)
    assert pin_files(map(bad.store.uri, names)) == expected
    assert rule.fired == 1


@pytest.mark.fault(9, "connections that are reset without end")
def test_a_store_that_is_gone_rejects_nothing(bad: Bad) -> None:
    rule = bad.proxy.add(reset, times=None)
    for piece in ("", "#bytes=0-1", "#image[0]", ".h5#images[0]"):
        before = rule.fired
        with pytest.raises(StoreError, match="unavailable after"):
            CutoutReader(CutoutConfig()).read(bad.store.uri(f"a{piece}"), Pin(6, "1"))
        assert rule.fired > before
