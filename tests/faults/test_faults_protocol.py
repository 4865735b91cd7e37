"""The commit protocol under crashes at every write, rivals and garbage collection: exactly once, nothing lost.

No Ray: units are embedded and assembled by the functions that Ray carries. A crash is an exception that nothing
catches, before or after a write took effect; the process that it ended leaves everything as it is.
"""

import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from PIL import Image

from engine.cluster import assemble as assembling
from engine.cluster.loading import threaded
from engine.cluster.protocol import MOST_ATTEMPTS, begin, find_commit, read_commits
from engine.cluster.task import EmbedTask
from engine.cluster.unit import embed_objects, embed_unit
from engine.compute.digest import add_digests, id_digest
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix, write_table
from engine.storage.pins import locate_cutouts
from engine.storage.references import cells_of
from engine.storage.store import Store
from jobs.gc import left_over
from schemas import paths
from schemas.config import CutoutConfig
from schemas.errors import WorkersLostError
from schemas.manifest import Manifest
from schemas.partition import Unit
from schemas.preset import Preset
from schemas.tables import rejects_schema

PRESET = Preset(bands="grey", resize=8, crop=8, mean=(0.0,), std=(1.0,))
UNITS = [Unit(f"5-{pixel}-{group}", 5, pixel, group, 3) for pixel in (7, 4000) for group in range(2)]
BAD = {3, 10, 11, 12}
"""Object 3 alone, and a whole unit."""


class Crash(BaseException):
    """The process ends here."""


def images(ids: list[int]) -> list[bytes]:
    found = []
    for object_id in ids:
        sink = io.BytesIO()
        Image.fromarray(np.full((8, 8), 10 * object_id, np.uint8)).save(sink, "PNG")
        found.append(b"no image" if object_id in BAD else sink.getvalue())
    return found


def encoder(views: np.ndarray) -> np.ndarray:
    return views.reshape(len(views), -1)[:, :2] * np.float32([1, 2])


def write_plan(store: Store) -> Manifest:
    folder = store.below(paths.artefact("plan", "p"))
    for number, pixel in enumerate((7, 4000)):
        ids = list(range(1 + 6 * number, 7 + 6 * number))
        healpix = [(pixel << 48) + object_id for object_id in ids]
        write_table(store, f"cutouts-{pixel}.parquet", pa.table({"image": images(ids)}))
        columns = {"_healpix_29": healpix, "object_id": ids, "ra_deg": [0.0] * 6, "dec_deg": [0.0] * 6}
        columns["cutout"] = cells_of(store.uri(f"cutouts-{pixel}.parquet"), "image", 6)
        write_table(folder, paths.partition(5, pixel), locate_cutouts(pa.table(columns)), rows_per_group=3)
    write_table(folder, paths.REJECTS, rejects_schema(pa.int64()).empty_table())
    return Manifest(
        kind="plan",
        id="p",
        identity={},
        counts={"planned": 12},
        detail={"planned_digest": id_digest(range(1, 13))},
        files=[],
        versions={},
        durations_s={},
        created_utc="",
    )


def make_task(output: str) -> EmbedTask:
    return EmbedTask(
        output=output,
        objects="plan/p",
        encoder_id="c",
        run_id="e",
        holder="h",
        architecture="none",
        dimension=2,
        preset=PRESET,
        views=1,
        batch_size=2,
        precision="float32",
        runtime="torch",
        cutouts=CutoutConfig(),
        device="cpu",
    )


@contextmanager
def crashing(at: int | None, after: bool) -> Iterator[None]:
    """End the block with `Crash` at its write number `at`, before or after that took effect."""
    count = 0
    kept = {name: getattr(Store, name) for name in ("write", "create", "delete")}

    def wrapped(name: str) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count - 1 == at and not after:
                raise Crash
            result = kept[name](*arguments, **options)
            if count - 1 == at:
                raise Crash
            return result

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in kept:
            patch.setattr(Store, name, wrapped(name))
        with suppress(Crash):
            yield


@pytest.mark.fault(3, "a crash before or after any write, in any order of workers, rivals and drivers")
class Protocol(RuleBasedStateMachine):
    @initialize()
    def plan(self) -> None:
        self.folder = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        self.store = Store(self.folder)
        self.manifest = write_plan(self.store)
        self.first_commits: dict[str, bytes] = {}
        self.task = make_task(self.folder)

    def attempt(self, unit: Unit, during: Callable[[], None] = lambda: None) -> None:
        def encode(views: np.ndarray) -> np.ndarray:
            during()
            return encoder(views)

        def one_by_one(objects: pa.Table, task: EmbedTask):  # type: ignore[no-untyped-def]
            with threaded(task) as loader:
                return embed_objects(objects, task.model_copy(update={"batch_size": 1}), encode, loader)

        with threaded(self.task) as loader:
            embed_unit(unit, self.task, encode, loader, one_by_one)

    @rule(unit=st.sampled_from(UNITS), at=st.none() | st.integers(0, 5), after=st.booleans())
    def a_worker_takes_a_unit(self, unit: Unit, at: int | None, after: bool) -> None:
        with crashing(at, after):
            self.attempt(unit)

    @rule(unit=st.sampled_from(UNITS))
    def two_workers_take_the_same_unit(self, unit: Unit) -> None:
        """The second one starts and ends while the first, which Ray took for dead, is still encoding."""
        self.attempt(unit, during=lambda: self.attempt(unit))

    @rule(at=st.none() | st.integers(0, 3), after=st.booleans())
    def garbage_is_collected(self, at: int | None, after: bool) -> None:
        with crashing(at, after):
            for entry in list(left_over(self.store)):
                if not entry.path.startswith("plan/"):  # The plan of this test has no manifest.
                    self.store.delete(entry.path)

    @rule(at=st.none() | st.integers(0, 4), after=st.booleans())
    def a_driver_finishes_if_all_is_done(self, at: int | None, after: bool) -> None:
        if all(find_commit(self.store, "e", unit.name) for unit in UNITS):
            with crashing(at, after):
                self.assemble()

    @invariant()
    def commits_never_change_and_account_for_their_rows(self) -> None:
        if not hasattr(self, "store"):
            return
        work = self.store.below(paths.work("e"))
        for commit in read_commits(self.store, "e"):
            data = self.store.read(paths.commit("e", commit.unit))
            assert self.first_commits.setdefault(commit.unit, data) == data
            assert commit.n_planned == commit.n_ok + sum(commit.rejected.values()) == 3
            first = 1 + 3 * [unit.name for unit in UNITS].index(commit.unit)
            planned = id_digest(range(first, first + 3))
            assert add_digests([commit.ok_digest, commit.rejected_digest]) == planned
            for file in commit.files:
                work.read_verified(file)
        assert self.first_commits.keys() == {commit.unit for commit in read_commits(self.store, "e")}

    def assemble(self) -> assembling.Assembled:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembling, "stream", lambda records, stage: map(stage["fn"], records))
            return assembling.assemble(self.store, self.manifest, "e", "e", UNITS, None, lambda n: None)

    def teardown(self) -> None:
        if not hasattr(self, "store"):
            return
        for unit in UNITS:
            if not find_commit(self.store, "e", unit.name):
                self.attempt(unit)
        found = self.assemble()
        assert (found.n_embedded, found.rejected) == (12 - len(BAD), {"decode_error": len(BAD)})
        table = read_columns(self.store.below(paths.artefact("embeddings", "e")), ["object_id", "embedding"])
        vectors = dict(zip(table["object_id"].to_pylist(), as_matrix(table["embedding"]), strict=True))
        assert len(table) == len(vectors)
        assert vectors.keys() == set(range(1, 13)) - BAD
        for object_id, vector in vectors.items():
            np.testing.assert_allclose(vector, np.float32([1, 2]) * object_id * 10 / 255, rtol=1e-6)
        shutil.rmtree(self.folder)


TestProtocol = Protocol.TestCase
TestProtocol.settings = settings(
    max_examples=60, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)


def test_a_unit_at_which_every_worker_dies_stops_the_run_in_the_end(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert [begin(store, "e", "u") for _ in range(MOST_ATTEMPTS)] == list(range(1, MOST_ATTEMPTS + 1))
    with pytest.raises(WorkersLostError, match="workers were lost at unit u"):
        begin(store, "e", "u")
