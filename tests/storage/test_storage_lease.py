"""Leases: one holder at a time, whatever dies."""

import os
import subprocess
import threading
import time

import pytest

from engine.storage.artefacts import decode, encode
from engine.storage.lease import lease
from engine.storage.store import Store
from schemas import paths
from schemas.errors import BusyError
from schemas.manifest import Lease


def left_by(host: str, pid: int, lifetime_s: float = 60.0) -> bytes:
    """The lease of a run that was killed."""
    record = Lease(
        holder="x", host=host, pid=pid, command="voorwerp release", since_utc="2026-01-01", lifetime_s=lifetime_s
    )
    return encode(record)


def test_a_second_run_is_refused_with_the_first_one_named_and_enters_when_it_ends(store: Store) -> None:
    with lease(store), pytest.raises(BusyError, match=rf"in use by .* process {os.getpid()}, since"), lease(store):
        raise AssertionError
    assert not store.exists(paths.LEASE)
    with lease(store):
        assert store.exists(paths.LEASE)


@pytest.mark.fault(28, "many runs at once")
def test_of_many_runs_at_once_exactly_one_enters(store: Store) -> None:
    entered, barrier, leave = [], threading.Barrier(6), threading.Event()

    def enter() -> None:
        barrier.wait()
        try:
            with lease(store) as held:
                entered.append(held.holder)
                leave.wait(20)
        except BusyError:
            refused.release()

    refused = threading.Semaphore(0)
    threads = [threading.Thread(target=enter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert refused.acquire(timeout=20)
    leave.set()
    for thread in threads:
        thread.join()
    assert len(entered) == 1


@pytest.mark.fault(29, "a run that is killed")
def test_the_lease_of_a_killed_run_on_this_machine_is_taken_over_at_once(store: Store) -> None:
    with lease(store):
        mine = decode(Lease, store.read(paths.LEASE), "")
    gone = subprocess.Popen(["true"])
    gone.wait()
    store.write(paths.LEASE, left_by(mine.host, gone.pid))
    with lease(store) as held:
        assert decode(Lease, store.read(paths.LEASE), "").holder == held.holder


@pytest.mark.fault(29, "a lease that nobody renews")
def test_the_lease_of_another_machine_is_taken_over_when_it_is_no_longer_renewed(store: Store) -> None:
    store.write(paths.LEASE, left_by("elsewhere boot", 1, lifetime_s=2.0))
    with pytest.raises(BusyError, match="on elsewhere, process 1"), lease(store):
        raise AssertionError
    time.sleep(4)  # S3 tells times in whole seconds.
    with lease(store) as held:
        assert decode(Lease, store.read(paths.LEASE), "").holder == held.holder


def test_a_held_lease_is_renewed_and_does_not_expire(store: Store) -> None:
    with lease(store, lifetime_s=2.0):
        time.sleep(4)
        assert decode(Lease, store.read(paths.LEASE), "").renewals >= 2
        with pytest.raises(BusyError), lease(store, lifetime_s=2.0):
            raise AssertionError


@pytest.mark.fault(29, "a lease that is taken from its run")
def test_a_run_whose_lease_was_taken_knows_and_leaves_the_new_one_alone(store: Store) -> None:
    with lease(store, lifetime_s=1.0) as held:
        store.write(paths.LEASE, left_by("elsewhere boot", 1))
        assert held.lost.wait(10)
        with pytest.raises(BusyError, match="lost its lease"):
            held.check()
    assert decode(Lease, store.read(paths.LEASE), "").holder == "x"


def test_a_file_is_replaced_only_in_the_version_that_was_read(store: Store) -> None:
    store.write("a", b"1")
    data, version = store.read_versioned("a")
    assert data == b"1"
    assert store.replace("a", b"2", version)
    assert not store.replace("a", b"3", version)
    assert store.read("a") == b"2"
    store.delete("a")
    assert not store.replace("a", b"4", version)
    assert not store.exists("a")
