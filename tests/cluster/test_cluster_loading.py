"""Cutouts to views: each row has its own, or its reject, however many threads decode and however few are at once."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from engine.cluster import loading
from engine.cluster.loading import StuckError, threaded
from engine.cluster.task import EmbedTask, LoadTask
from engine.compute.rejects import Reject
from engine.storage.pins import locate_cutouts
from schemas.config import CutoutConfig
from schemas.preset import Preset
from schemas.reject import RejectReason

N = 23
PRESET = Preset(bands="grey", resize=20, crop=16, filter="bilinear", mean=(0.0,), std=(1.0,))


@pytest.fixture
def objects(tmp_path: Path) -> pa.Table:
    """Cutouts of one grey each, of which the third is damaged and the last is not there."""
    for number in range(N - 1):
        Image.new("RGB", (24, 24), (10 * number,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "2.png").write_bytes(b"damaged")
    files = [str(tmp_path / f"{number}.png") for number in range(N)]
    return locate_cutouts(pa.table({"object_id": np.arange(N), "cutout": files}))


def task(views: int = 1, max_seconds: float = 60) -> LoadTask:
    return LoadTask(preset=PRESET, views=views, cutouts=CutoutConfig(max_seconds=max_seconds), encoder_id="e")


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("decoders", [1, 2, 5, N + 1])
def test_every_row_has_its_views_or_its_reject(objects: pa.Table, decoders: int, views: int) -> None:
    with threaded(task(views), decoders) as loader:
        ahead = [loader(objects), loader(objects.slice(1, 2)), loader(objects.slice(0, 0))]
        found, part, nothing = (decoded() for decoded in ahead)
    good = [row for row in range(N) if row not in (2, N - 1)]
    assert found.good == good
    assert {row: reject.reason for row, reject in found.rejects.items()} == {
        2: RejectReason.DECODE_ERROR,
        N - 1: RejectReason.NOT_FOUND,
    }
    assert found.views.shape == (N, views, 1, 16, 16)
    for row in range(N):
        wanted = 10 * row / 255 if row in good else 0
        np.testing.assert_allclose(found.views[row], np.full((views, 1, 16, 16), wanted, np.float32), atol=1e-6)
    np.testing.assert_array_equal(found.flat(), np.concatenate([found.views[row] for row in good]))
    assert (part.good, list(part.rejects)) == ([0], [1])
    assert nothing.flat().shape == (0, 1, 16, 16)


def test_where_nothing_is_rejected_the_views_are_not_copied(objects: pa.Table) -> None:
    with threaded(task(2)) as loader:
        found = loader(objects.slice(3, 5))()
    assert found.flat().shape == (10, 1, 16, 16)
    assert np.shares_memory(found.flat(), found.views)


@pytest.mark.parametrize("decoders", [1, 2])
def test_what_a_cutout_raises_comes_out(objects: pa.Table, decoders: int, monkeypatch: pytest.MonkeyPatch) -> None:
    load = loading.load

    def hungry(objects: pa.Table, row: int, *arguments: object) -> np.ndarray | Reject:
        if row == 7:
            raise MemoryError
        return load(objects, row, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load", hungry)
    with threaded(task(), decoders) as loader, pytest.raises(MemoryError):
        loader(objects)()


@pytest.mark.parametrize("decoders", [1, 3])
def test_slow_cutouts_are_waited_for_and_one_that_does_not_end_is_not(
    objects: pa.Table, decoders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    load, let_go, endless = loading.load, threading.Event(), set[int]()

    def slow(objects: pa.Table, row: int, *arguments: object) -> np.ndarray | Reject:
        let_go.wait(30 if row in endless else 0.15)
        return load(objects, row, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loading, "load", slow)
    with threaded(task(max_seconds=1.0), decoders) as loader:
        assert len(loader(objects)().good) == N - 2  # 3.5 s of one thread: longer than one may take, but one by one.
        endless.add(11)
        with pytest.raises(StuckError, match=r"longer than 1\.0 s"):
            loader(objects)()
        let_go.set()


@pytest.mark.parametrize(
    ("device", "batch_size", "views", "expected"),
    [
        ("cpu", 32, 1, 8),
        ("cpu", 32, 2, 4),
        ("cpu", 32, 5, 4),
        ("cpu", 32, 64, 4),
        ("cpu", 3, 1, 3),
        ("cpu", 1, 5, 1),
        ("cuda", 32, 1, 32),
        ("cuda", 32, 5, 6),
        ("cuda", 32, 64, 1),
    ],
)
def test_a_cpu_is_given_few_objects_at_once(device: str, batch_size: int, views: int, expected: int) -> None:
    given = EmbedTask(
        **task(views).model_dump(exclude={"preset"}),
        preset=PRESET,
        output="",
        objects="",
        run_id="",
        holder="",
        architecture="",
        dimension=1,
        batch_size=batch_size,
        precision="float32",
        runtime="auto",
        device=device,
    )
    assert given.objects_at_once == expected
