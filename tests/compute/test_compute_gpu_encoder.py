"""The encoder on a GPU. All of it also runs on a CPU, without streams; with a GPU every test runs on both."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.compute.encoder import (
    TOLERANCE,
    Encoder,
    Runtime,
    build_encoder,
    choose,
    encode,
    encoder_tensors,
    golden_views,
    gpu_runtime,
    load_encoder,
)
from engine.compute.gpu_encoder import (
    MOST_BATCH,
    WORTHWHILE,
    batched_encoder,
    compile_encoder,
    encode_batches,
    find_batch,
    halving,
    measure_rate,
)
from schemas.errors import ConfigError
from tests.conftest import TINY_ARCHITECTURE

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
SIDE = 32
GOLDEN = golden_views(1, SIDE)
SHAPE = GOLDEN.shape[1:]
quick = settings(deadline=None, max_examples=50)
on_each_device = pytest.mark.parametrize("device", DEVICES)
in_each_precision = pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])


@pytest.fixture(scope="module")
def tensors(tiny_weights: Path) -> dict[str, torch.Tensor]:
    return encoder_tensors(TINY_ARCHITECTURE, 1, load_file(tiny_weights))


@pytest.fixture(autouse=True)
def _forget_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


def captured(count: list[int] | None = None) -> partial[Any]:
    """`torch.compile` as far as it goes without a compiler for C: capture the network, run it as it is."""

    def backend(graph: torch.fx.GraphModule, inputs: object, **options: object) -> Any:
        if count is not None:
            count.append(1)
        return graph.forward

    return partial(torch.compile, backend=backend)


def views(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / np.abs(expected).max(axis=1, keepdims=True)).max())


class Sums(torch.nn.Module):
    """A network of one layer: its vector is the sum of a view's pixels, weighted and not."""

    def __init__(self, most: int = 10**6) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(SIDE * SIDE, 2, bias=False).requires_grad_(False)
        self.layer.weight[:] = torch.stack([torch.ones(SIDE * SIDE), torch.arange(SIDE * SIDE) / SIDE**2])
        self.most = most
        self.seen: list[int] = []

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        self.seen.append(len(batch))
        self.last = batch.cpu().clone()
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.layer(batch.flatten(1))


@on_each_device
@quick
@given(n=st.integers(0, 23), batch=st.integers(1, 9))
def test_every_view_gets_its_own_vector_however_views_fall_into_batches(device: str, n: int, batch: int) -> None:
    network, given_views = Sums().to(device), views(n)
    given_views.flags.writeable = False
    found = encode_batches(network, given_views, batch, device)
    assert found.dtype == np.float32
    assert network.seen == [batch] * max(1, -(-n // batch))
    assert not network.last[n - batch * (len(network.seen) - 1) :].any()
    np.testing.assert_allclose(found, encode(network, views(n)), rtol=1e-5)


@on_each_device
@in_each_precision
def test_the_size_of_a_batch_does_not_change_a_vector(
    tensors: dict[str, torch.Tensor], device: str, precision: str
) -> None:
    network = build_encoder(TINY_ARCHITECTURE, 1, tensors, device)
    expected = encode(network, views(11))
    for batch in (1, 4, 11, 16):
        found = batched_encoder(network, precision, batch)(views(11))
        assert found.dtype == np.float32
        assert largest_difference(found, expected) <= TOLERANCE[precision]


class Device:
    """Stands for `torch.cuda` and writes down who waits for what: a CPU cannot tell a missing wait."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.events = 0
        self.current: Any = self.Stream("working")

    def Stream(self, name: str = "copying") -> Any:  # noqa: N802
        return _Stream(name, self.log)

    def Event(self) -> Any:  # noqa: N802
        self.events += 1
        return _Event(["copied 0", "encoded 0", "copied 1", "encoded 1"][self.events - 1], self)

    def current_stream(self) -> Any:
        return self.current

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before

    def synchronize(self) -> None:
        self.log.append("host waits for all")


class _Stream:
    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_event(self, event: "_Event") -> None:
        self.log.append(f"{self.name} waits for {event.name}")

    def wait_stream(self, other: "_Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class _Event:
    def __init__(self, name: str, device: Device) -> None:
        self.name, self.device = name, device

    def record(self) -> None:
        self.device.log.append(f"{self.device.current.name}: {self.name}")

    def synchronize(self) -> None:
        self.device.log.append(f"host waits for {self.name}")


def test_no_buffer_is_written_before_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda name: device)

    def network(batch: torch.Tensor) -> torch.Tensor:
        device.log.append("working: encodes")
        return batch.flatten(1).sum(1, keepdim=True)

    encode_batches(network, views(5), 2, "cpu")
    turns = [
        [
            f"host waits for copied {turn}",
            f"copying waits for encoded {turn}",
            f"copying: copied {turn}",
            f"working waits for copied {turn}",
            "working: encodes",
            f"working: encoded {turn}",
        ]
        for turn in (0, 1, 0)
    ]
    assert device.log == ["copying waits for working", *turns[0], *turns[1], *turns[2], "host waits for all"]


def test_after_an_error_memory_is_freed_only_when_all_copies_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setattr(torch, "get_device_module", lambda name: device)
    with pytest.raises(torch.OutOfMemoryError):
        encode_batches(Sums(most=1), views(5), 2, "cpu")
    assert device.log[-1] == "host waits for all"


@pytest.mark.fault(26, "a device of simulated memory")
@quick
@given(capacity=st.integers(1, 40), batch=st.integers(1, 64))
def test_a_batch_that_is_too_large_is_halved_until_it_fits(capacity: int, batch: int) -> None:
    network = Sums(most=capacity)
    found = batched_encoder(network, "float32", batch)(views(9))
    first, fits = network.seen[0], network.seen[-1]
    assert first == (batch if batch <= 18 else 9)
    assert fits == next(first >> power for power in range(7) if first >> power <= capacity)
    np.testing.assert_allclose(found, encode(Sums(), views(9)), rtol=1e-5)


def test_memory_too_small_for_one_view_is_an_error() -> None:
    tried = []

    def never(batch: int) -> np.ndarray:
        tried.append(batch)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        halving(never, 10)
    assert tried == [10, 5, 2, 1]


def test_a_compiled_network_is_left_for_the_plain_one_where_memory_is_short() -> None:
    network = Sums()
    encoder = compile_encoder(network, "float32", 4, SHAPE, lambda function, **options: function)
    assert network.seen == [4, 4, 4]
    network.most, network.seen[:] = 3, []
    np.testing.assert_allclose(encoder(views(5)), encode(Sums(), views(5)), rtol=1e-5)
    assert network.seen == [4, 2, 2, 2]


def test_few_views_do_not_pay_for_a_whole_batch() -> None:
    network = Sums()
    encoder = compile_encoder(network, "float32", 8, SHAPE, lambda function, **options: function)
    network.seen[:] = []
    for n, seen in {0: 1, 1: 1, 3: 3, 4: 8, 9: 8}.items():
        np.testing.assert_allclose(encoder(views(n)), encode(Sums(), views(n)), rtol=1e-5)
        assert network.seen.pop() == seen


@pytest.mark.fault(26, "views that overflow in half precision")
@on_each_device
def test_rows_that_half_precision_breaks_are_done_again_in_float32(device: str) -> None:
    network, some = Sums().to(device), views(7)
    some[[2, 5]] *= 1000  # Their sums are about 500,000, and float16 ends at 65,504.
    some[4, 0, 0, 0] = np.nan
    expected = encode(network, some)
    found = batched_encoder(network, "float16", 3)(some)
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(found[[2, 5]], expected[[2, 5]], rtol=1e-5)
    others = [0, 1, 3, 6]
    np.testing.assert_allclose(found[others], expected[others], rtol=2e-3)
    assert not np.array_equal(found[others], expected[others])


@pytest.mark.parametrize(
    ("first", "rates", "expected"),
    [
        (32, {32: 900.0, 64: 1700.0, 128: 2000.0, 256: 2100.0}, 128),
        (32, {32: 900.0, 64: 1700.0, 128: 2000.0, 256: 2900.0}, 256),
        (32, {32: 900.0, 64: 800.0}, 32),
        (32, {32: 900.0, 64: 1700.0, 128: 0.0}, 64),
        (32, {32: 0.0, 16: 0.0, 8: 300.0}, 8),
        (2, {2: 0.0, 1: 0.0}, 1),
        (4096, {256: 900.0}, 256),
        (100, {100: 10.0, 200: 20.0}, 200),
    ],
)
def test_the_batch_grows_while_that_pays_and_shrinks_until_it_fits(
    first: int, rates: dict[int, float], expected: int
) -> None:
    assert find_batch(first, rates.__getitem__) == expected


@quick
@given(first=st.integers(1, 1000), data=st.data())
def test_the_batch_found_was_measured_and_fits_and_every_doubling_paid(first: int, data: st.DataObject) -> None:
    measured: dict[int, float] = {}

    def rate(batch: int) -> float:
        assert batch not in measured or measured[batch] == 0
        return measured.setdefault(batch, data.draw(st.just(0.0) | st.floats(1, 1e6)))

    found = find_batch(first, rate)
    assert 1 <= found <= MOST_BATCH
    assert measured[found] > 0 or (found == 1 and not any(measured.values()))
    start = min(first, MOST_BATCH)
    steps = [start << power for power in range(10) if start << power <= found]
    assert all(measured[large] >= WORTHWHILE * measured[small] for small, large in pairwise(steps))


@on_each_device
def test_a_rate_is_measured_and_is_none_where_memory_is_short(device: str) -> None:
    network = Sums(most=8).to(device)
    assert measure_rate(network, SHAPE, device, 8) > 0
    assert measure_rate(network, SHAPE, device, 9) == 0
    assert set(network.seen) == {8, 9}


@on_each_device
@in_each_precision
def test_a_compiled_network_is_captured_whole_and_once_and_agrees(
    tensors: dict[str, torch.Tensor], device: str, precision: str
) -> None:
    network = build_encoder(TINY_ARCHITECTURE, 1, tensors, device)
    count: list[int] = []
    runtime = gpu_runtime(network, precision, SHAPE, 4, captured(count))
    encoder = choose(runtime, network, precision, "auto", GOLDEN)
    assert encoder.runtime == "torch-compiled"
    for n in (0, 1, runtime.batch + 1):
        assert len(encoder.encode(views(n))) == n
    assert largest_difference(encoder.encode(views(5)), encode(network, views(5))) <= TOLERANCE[precision]
    assert len(count) == 1
    assert not torch.backends.cudnn.allow_tf32


def failing(function: object, **options: object) -> Any:
    def fail(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("Failed to find C compiler")

    return fail


def wrong(function: Any, **options: object) -> Any:
    return lambda batch: function(batch) * 1.001


def too_large(function: object, **options: object) -> Any:
    def fail(batch: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory during capture")

    return fail


def broken(function: Any, **options: object) -> Any:
    return lambda batch: function(batch) * float("nan")


def late(function: Any, **options: object) -> Any:
    """What a copy that is not waited for does, once three calls have compiled and one was right."""
    before: list[torch.Tensor] = []

    def encode_late(batch: torch.Tensor) -> torch.Tensor:
        before.append(function(batch))
        return before[-2] if len(before) > 4 else before[-1]

    return encode_late


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        (failing, "found RuntimeError: Failed to find C compiler"),
        (too_large, "found OutOfMemoryError"),
        (wrong, r"by at most 1e-05 .* found 0\.001"),
        (broken, "by at most 1e-05 .* found nan"),
        (late, "by at most 1e-05"),
    ],
)
def test_a_compiled_network_that_fails_or_disagrees_is_not_used(
    tensors: dict[str, torch.Tensor], compiler: Any, message: str
) -> None:
    network = build_encoder(TINY_ARCHITECTURE, 1, tensors)
    runtime = gpu_runtime(network, "float32", SHAPE, 4, compiler)
    with pytest.warns(UserWarning, match=f"plain PyTorch, which is slower: expected torch-compiled to .*{message}"):
        encoder = choose(runtime, network, "float32", "auto", GOLDEN)
    assert encoder.runtime == "torch"
    assert largest_difference(encoder.encode(views(9)), encode(network, views(9))) <= 1e-5


def test_a_runtime_that_is_not_wanted_is_not_tried(tensors: dict[str, torch.Tensor]) -> None:
    network = build_encoder(TINY_ARCHITECTURE, 1, tensors)

    def never() -> Any:
        raise AssertionError("compiled")

    plain = partial(encode, network)
    assert choose(Runtime("torch-compiled", never, 4, plain), network, "float32", "torch", GOLDEN) == ("torch", plain)


@on_each_device
def test_an_encoder_runs_in_one_thread_of_its_own_whoever_calls(
    tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch, device: str
) -> None:
    # CUDA graphs belong to a thread. The real modules run; only who runs them is written down.
    names: list[str] = []
    real = torch.nn.Module.__call__

    def noted(self: torch.nn.Module, *arguments: Any) -> Any:
        names.append(threading.current_thread().name)
        return real(self, *arguments)

    monkeypatch.setattr(torch.nn.Module, "__call__", noted)
    encoder = load_encoder(TINY_ARCHITECTURE, 1, tensors, SIDE, device, runtime="torch")
    found: list[np.ndarray] = []
    caller = threading.Thread(target=lambda: found.append(encoder.encode(views(3))))
    caller.start()
    caller.join()
    np.testing.assert_array_equal(encoder.encode(views(3)), found[0])
    assert len(set(names)) == 1
    assert names[0].startswith("encoder")


def test_openvino_is_refused_on_a_gpu(tensors: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="openvino runs on CPUs"):
        load_encoder(TINY_ARCHITECTURE, 1, tensors, SIDE, "cuda", runtime="openvino")


if torch.cuda.is_available():

    @pytest.fixture(scope="module", params=["float32", "bfloat16", "float16"])
    def loaded(request: pytest.FixtureRequest, tensors: dict[str, torch.Tensor]) -> tuple[str, Encoder]:
        return request.param, load_encoder(TINY_ARCHITECTURE, 1, tensors, SIDE, "cuda", request.param)

    def test_a_gpu_gives_the_vectors_of_the_cpu(loaded: tuple[str, Encoder], tensors: dict[str, torch.Tensor]) -> None:
        precision, encoder = loaded
        expected = encode(build_encoder(TINY_ARCHITECTURE, 1, tensors), views(1500))
        for _ in range(3):
            assert largest_difference(encoder.encode(views(1500)), expected) <= TOLERANCE[precision]

    def test_a_gpu_with_a_compiler_runs_the_compiled_network(loaded: tuple[str, Encoder]) -> None:
        assert loaded[1].runtime == "torch-compiled"
