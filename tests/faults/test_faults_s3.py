"""A bad object store: bursts pass unnoticed, endless faults stop with a sentence, nothing is lost or done twice."""

import io
from collections.abc import Callable
from typing import NamedTuple

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from engine.storage.parquet import read_table, write_table
from engine.storage.s3_file import S3File
from engine.storage.store import Store, file_record
from schemas.errors import IntegrityError, StoreError
from tests.faults.conftest import ACCESS_KEY, OLD, PART_BYTES, SECRET_KEY, TRIES, Bad
from tests.faults.fault_proxy import (
    Fault,
    drip,
    flipped,
    hang,
    reset,
    reset_after,
    status,
    truncated,
)


def opened(store: Store) -> bytes:
    with store.open("old") as file:
        return file.read()


def replaced(store: Store) -> bytes:
    version = store.read_versioned("old")[1]
    assert store.replace("old", b"replaced", version)
    return store.read("old")


def written(store: Store) -> bytes:
    store.write("new", b"new")
    return store.read("new")


def created(store: Store) -> bytes:
    assert store.create("new", b"created")
    return store.read("new")


def streamed(store: Store) -> bytes:
    with store.writing("new") as file:
        file.write(b"x" * PART_BYTES)
        file.write(b"y")
    return store.read("new")[-2:]


def deleted(store: Store) -> bytes:
    store.delete("old")
    return b"there" if store.exists("old") else b"gone"


class Operation(NamedTuple):
    """Something done to a store that holds `old`, which request it makes, and what comes of it."""

    run: Callable[[Store], bytes]
    method: str
    path: str
    gives: bytes


OPERATIONS = {
    "read": Operation(lambda store: store.read("old"), "GET", "/old", OLD),
    "open": Operation(opened, "HEAD", "/old", OLD),
    "read what was opened": Operation(opened, "GET", "/old", OLD),
    "list": Operation(lambda store: " ".join(store.list()).encode(), "GET", "list-type", b"old"),
    "describe": Operation(lambda store: b"%d" % store.entry("old").size_bytes, "HEAD", "/old", b"10240"),
    "write": Operation(written, "PUT", "/new", b"new"),
    "create": Operation(created, "PUT", "/new", b"created"),
    "replace": Operation(replaced, "PUT", "/old", b"replaced"),
    "begin an upload": Operation(streamed, "POST", r"/new\?uploads", b"xy"),
    "send a part": Operation(streamed, "PUT", "partNumber=1", b"xy"),
    "complete an upload": Operation(streamed, "POST", r"/new\?uploadId", b"xy"),
    "delete": Operation(deleted, "DELETE", "/old", b"gone"),
}
BRIEF: dict[str, Fault] = {
    "500": status(500),
    "503": status(503),
    "429": status(429),
    "reset": reset,
    "reset after": reset_after,
}

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@pytest.mark.fault(8, "answers 500, 503, 429 of a proxy, at every kind of request")
@every_operation
@pytest.mark.parametrize("fault", BRIEF.values(), ids=BRIEF)
def test_a_burst_of_faults_passes(bad: Bad, operation: Operation, fault: Fault) -> None:
    rule = bad.proxy.add(fault, operation.method, operation.path, times=2)
    assert operation.run(bad.store) == operation.gives
    assert rule.fired == 2


@pytest.mark.fault(9, "a proxy that does not answer")
@pytest.mark.parametrize("name", ["read", "open", "list", "create", "send a part"])
def test_a_store_that_does_not_answer_is_asked_again(bad: Bad, name: str) -> None:
    operation = OPERATIONS[name]
    rule = bad.proxy.add(hang, operation.method, operation.path)
    assert operation.run(bad.store) == operation.gives
    assert rule.fired == 1


@pytest.mark.fault(8, "answers 503 without end")
@every_operation
@pytest.mark.parametrize("fault", [status(503), reset], ids=["503", "reset"])
def test_endless_faults_stop_after_so_many_tries_and_nothing_is_half_done(
    bad: Bad, operation: Operation, fault: Fault
) -> None:
    rule = bad.proxy.add(fault, operation.method, operation.path, times=None)
    with pytest.raises(StoreError, match=f"object store unavailable after {TRIES} tries on {bad.store.uri()}"):
        operation.run(bad.store)
    assert TRIES <= rule.fired <= 2 * TRIES  # aiohttp, and curl where a connection was kept, repeat what was reset.
    bad.proxy.heal()
    assert bad.store.list() == ["old"]
    assert operation.run(bad.store) == operation.gives


@pytest.mark.fault(12, "answers 403, at every kind of request")
@every_operation
def test_a_refusal_stops_at_once_and_names_key_and_principal(bad: Bad, operation: Operation) -> None:
    rule = bad.proxy.add(status(403), operation.method, operation.path, times=None)
    with pytest.raises(StoreError, match=f"access denied to access key {ACCESS_KEY} at {bad.store.uri()}") as raised:
        operation.run(bad.store)
    assert SECRET_KEY not in str(raised.value)
    assert rule.fired == 1


@pytest.mark.fault(9, "a proxy that answers in drops")
def test_a_slow_store_is_waited_for(bad: Bad) -> None:
    rule = bad.proxy.add(drip(pieces=4, pause_s=0.3), "GET", "/old", times=2)
    assert bad.store.read("old") == OLD  # Longer than the timeout, which is for a store that sends nothing.
    assert opened(bad.store) == OLD
    assert rule.fired == 2


@pytest.mark.fault(10, "bodies cut short, and a bit flipped")
@pytest.mark.parametrize("fault", [truncated(1000), flipped(1000)], ids=["cut short", "one bit flipped"])
def test_a_body_that_was_damaged_on_the_way_is_read_again(bad: Bad, fault: Fault) -> None:
    rule = bad.proxy.add(fault, "GET", "/old", times=2)
    assert bad.store.read("old") == OLD
    assert rule.fired == 2
    rule = bad.proxy.add(fault, "GET", "/old", times=None)
    with pytest.raises(StoreError, match="unavailable after"):
        bad.store.read("old")
    assert rule.fired == TRIES


def test_what_is_opened_is_read_again_where_it_ends_early(bad: Bad) -> None:
    rule = bad.proxy.add(truncated(1000), "GET", "/old", times=2)
    assert opened(bad.store) == OLD
    assert rule.fired == 2


def test_other_bytes_than_those_recorded_are_noticed(bad: Bad) -> None:
    record = file_record("old", OLD)
    for data in (bytes(len(OLD)), OLD[:-1], OLD + b"more"):
        bad.store.write("old", data)
        with pytest.raises(IntegrityError, match=f"expected SHA-256 {record.sha256}"):
            bad.store.read_verified(record)


def test_a_damaged_table_fails_a_checksum(bad: Bad) -> None:
    table = pa.table({"a": range(1000)})
    write_table(bad.store, "table.parquet", table)
    rule = bad.proxy.add(flipped(60), "GET", "/table.parquet", times=None)
    with pytest.raises(IntegrityError, match="not a whole Parquet file"):
        read_table(bad.store, "table.parquet")
    assert rule.fired
    bad.proxy.heal()
    assert read_table(bad.store, "table.parquet") == table


@pytest.mark.parametrize("fault", [status(503), status(429)], ids=["503", "429"])
def test_reads_shorter_than_the_text_of_an_error_are_made_again(bad: Bad, fault: Fault) -> None:
    # Arrow by itself fails at once: the text does not fit where the bytes should go.
    rule = bad.proxy.add(fault, "GET", "/old", times=2)
    assert bad.store.reading("old", lambda file: file.read(3)) == OLD[:3]
    assert rule.fired == 2


def as_parquet(file: S3File) -> object:
    return pq.ParquetFile(file).read_row_group(0).to_pylist()


def as_hdf5(file: S3File) -> object:
    return h5py.File(file, "r")["images"][3].tolist()


@pytest.mark.parametrize("read", [as_parquet, as_hdf5, lambda file: file.read_at(3, 100), io.RawIOBase.readall])
def test_a_file_that_stays_open_reads_through_bursts_and_says_what_the_store_said(
    bad: Bad, read: Callable[[S3File], object]
) -> None:
    content = io.BytesIO()
    if read is as_hdf5:
        with h5py.File(content, "w") as stack:
            stack["images"] = np.arange(8 * 64 * 64, dtype=np.uint16).reshape(8, 64, 64)
    else:
        pq.write_table(pa.table({"image": [OLD, OLD]}), content)
    bad.store.write("box", content.getvalue())

    def opened() -> S3File:
        file = bad.store.keep_open("box")
        assert isinstance(file, S3File)
        return file

    expected = read(content) if read in (as_parquet, as_hdf5) else read(opened())
    for fault in (status(503), status(429), reset, truncated(1)):
        file = opened()
        rule = bad.proxy.add(fault, "GET", "/box", times=2)
        assert read(file) == expected
        assert rule.fired == 2
    for fault, said in ((status(503), f"unavailable after {TRIES} tries on"), (status(403), f"{ACCESS_KEY} at")):
        file = opened()
        rule = bad.proxy.add(fault, "GET", "/box", times=None)
        with pytest.raises(StoreError, match=f"{said} {bad.store.uri('box')}"):
            read(file)
        assert rule.fired
        bad.proxy.heal()


@pytest.mark.fault(14, "a store that does what is asked and resets the connection")
def test_of_rivals_whose_answers_are_lost_one_wins(bad: Bad) -> None:
    def lost(write: Callable[[], bool]) -> bool:
        rule = bad.proxy.add(reset_after, "PUT", "/commit", times=3)
        done = write()
        assert rule.fired == 3
        return done

    assert lost(lambda: bad.store.create("commit", b"first"))
    assert not lost(lambda: bad.store.create("commit", b"second"))
    version = bad.store.read_versioned("commit")[1]
    assert lost(lambda: bad.store.replace("commit", b"third", version))
    assert not lost(lambda: bad.store.replace("commit", b"fourth", version))
    assert bad.store.read("commit") == b"third"


@pytest.mark.fault(14, "the same, when an upload is completed")
def test_an_upload_that_was_completed_unheard_counts_as_written(bad: Bad) -> None:
    rules = [bad.proxy.add(fault, "POST", r"/new\?uploadId") for fault in (reset_after, status(404))]
    assert streamed(bad.store) == b"xy"
    assert [rule.fired for rule in rules] == [1, 1]


def test_an_upload_that_the_store_forgot_is_not_written(bad: Bad) -> None:
    rule = bad.proxy.add(status(404), "POST", r"/new\?uploadId")
    with pytest.raises(StoreError, match=f"the store failed at {bad.store.uri('new')}"):
        streamed(bad.store)
    assert rule.fired == 1
    assert bad.store.list() == ["old"]


@pytest.mark.fault(8, "120 bursts, one after the other")
def test_retries_do_not_run_dry(bad: Bad) -> None:
    # A strategy of the AWS SDK, used by Arrow, lives on a quota: after 100 retries it gave up at every first fault.
    with bad.store.filesystem.open_input_file(bad.store.full_path("old")) as file:
        for _ in range(120):
            rule = bad.proxy.add(status(503), "GET", "/old")
            assert file.read_at(1000, 0) == OLD[:1000]
            assert rule.fired == 1
