"""The lease of an output: one run works on it at a time, and a run that died gives way.

Commit records keep a run correct even if two work at once; the lease keeps them from doing the work twice. It is made
by a create-only write, renewed by compare-and-set, and its age is judged by the store's clock.
"""

import os
import socket
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from engine.storage.artefacts import decode, encode, utc_now
from engine.storage.store import Store
from schemas import paths
from schemas.errors import BusyError, InputNotFoundError, VoorwerpError
from schemas.log import RUN
from schemas.manifest import Lease

LIFETIME_S = 60.0
"""After this long without renewal a lease may be taken over. Four renewals fit into it."""


@dataclass
class Held:
    """A lease that this process holds."""

    holder: str
    lost: threading.Event = field(default_factory=threading.Event)
    """Set when another run has taken over; this one must not publish."""

    def check(self) -> None:
        """Stop a run that lost its lease.

        Raises
        ------
        BusyError
            Another run has taken over, because this one did not renew in time.
        """
        if self.lost.is_set():
            raise BusyError("this run lost its lease: it did not renew in time and another run has taken over")


@contextmanager
def lease(store: Store, lifetime_s: float = LIFETIME_S) -> Iterator[Held]:
    """Hold the lease of an output for the length of a block; a thread renews it.

    Raises
    ------
    BusyError
        Another run holds it.
    StoreError
        The store failed, or cannot keep two writers apart.
    """
    store.check_conditional()
    mine = Lease(
        holder=uuid.uuid4().hex,
        host=_host(),
        pid=os.getpid(),
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:2]]),
        since_utc=utc_now(),
        lifetime_s=lifetime_s,
    )
    _acquire(store, mine)
    held, stop = Held(mine.holder), threading.Event()
    renewal = threading.Thread(target=_renew, args=(store, mine, held, stop), name="lease", daemon=True)
    renewal.start()
    outer = RUN.get()
    RUN.set(mine.holder)
    try:
        yield held
    finally:
        if outer:  # Else what is said of how the run ended still names it.
            RUN.set(outer)
        stop.set()
        renewal.join()
        _free(store, mine)


def _acquire(store: Store, mine: Lease) -> None:
    while not store.create(paths.LEASE, encode(mine)):
        try:
            data, version = store.read_versioned(paths.LEASE)
            age_s = store.now() - store.entry(paths.LEASE).modified_s
        except InputNotFoundError:
            continue  # Freed in between.
        other = decode(Lease, data, store.uri(paths.LEASE))
        if not _is_dead(other) and age_s <= other.lifetime_s:
            raise BusyError(
                f"{store.uri()} is in use by `{other.command}` on {other.host.partition(' ')[0]}, process {other.pid}, "
                f"since {other.since_utc}, last heard of {max(0.0, age_s):.0f} s ago. Wait for it to end; if it died, "
                f"the same command takes over {other.lifetime_s:.0f} s after its last sign of life."
            )
        if store.replace(paths.LEASE, encode(mine), version):
            return


def _renew(store: Store, mine: Lease, held: Held, stop: threading.Event) -> None:
    """Renew until told to stop. A store that fails is tried again: the lease is lost only if another run takes it."""
    current = mine
    while not stop.wait(mine.lifetime_s / 4):
        with suppress(VoorwerpError):
            try:
                data, version = store.read_versioned(paths.LEASE)
                renewed = current.model_copy(update={"renewals": current.renewals + 1})
                is_mine = decode(Lease, data, paths.LEASE).holder == mine.holder
            except InputNotFoundError:
                is_mine = False
            if not is_mine or not store.replace(paths.LEASE, encode(renewed), version):
                held.lost.set()
                return
            current = renewed


def _free(store: Store, mine: Lease) -> None:
    with suppress(VoorwerpError):  # The run has ended either way, and an unrenewed lease expires.
        if decode(Lease, store.read(paths.LEASE), paths.LEASE).holder == mine.holder:
            store.delete(paths.LEASE)


def _host() -> str:
    """Name this machine and its boot, so that a process id means something."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}".strip()


def _is_dead(other: Lease) -> bool:
    """Whether the holder ran on this very machine and is gone: no need to wait for its lease to expire."""
    if other.host != _host():
        return False
    try:
        os.kill(other.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # It lives, as another user.
        pass
    return False
