"""The encoder on a GPU: batches of one shape, copied while the batch before is encoded; the size found by trying.

    views ----> pinned buffer ----> buffer on the GPU ----> network ----> vectors
         (host)          (copying stream)          (working stream)  (one wait, at the end)

Two buffers take turns. Nothing here asks for a GPU: on a CPU, streams and events do nothing (`torch.cpu`).
"""

from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, Self

import numpy as np
import torch

MOST_BATCH = 256
"""A unit of work has up to 512 views, and copies overlap the work only where those are several batches."""
WORTHWHILE = 1.1
"""A batch twice as large has to be this much faster."""
REPEATS = 3

Encode = Callable[[np.ndarray], np.ndarray]
"""(n, bands, side, side) float32 views to (n, d) float32 vectors."""
Forward = Callable[[torch.Tensor], torch.Tensor]
"""The same for one batch, from and to new tensors on the device."""


def compile_encoder(
    network: torch.nn.Module,
    precision: str,
    batch: int,
    shape: tuple[int, ...],
    compiler: Callable[..., Any] = torch.compile,
) -> Encode:
    """Encode with a network compiled for batches of one size, on a GPU as a CUDA graph; see `batched_encoder`.

    May fail in any way; takes up to minutes. What it returns belongs to the thread that it was called from.
    """

    def fixed(views: torch.Tensor) -> torch.Tensor:
        return forward(network, precision, views)

    compiled = compiler(fixed, mode="reduce-overhead", dynamic=False, fullgraph=True)
    with torch.inference_mode():
        views = torch.zeros((batch, *shape), device=next(network.parameters()).device)
        for _ in range(3):  # Compiles, warms up, records: all that can fail fails now.
            compiled(views)
    return batched_encoder(network, precision, batch, compiled)


def batched_encoder(network: torch.nn.Module, precision: str, batch: int, compiled: Forward | None = None) -> Encode:
    """Encode with a network, or what was compiled from it for one batch, where its device is.

    The network itself takes fewer views than half a batch at once, and smaller batches where memory is short. Rows that
    half precision breaks are done again in float32.
    """
    device = next(network.parameters()).device.type
    plain, in_float32 = partial(forward, network, precision), partial(forward, network, "float32")
    fast = compiled or plain

    def encode(views: np.ndarray) -> np.ndarray:
        size = batch if 2 * len(views) >= batch else max(1, len(views))
        vectors = halving(lambda size: encode_batches(fast if size == batch else plain, views, size, device), size)
        broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if precision != "float32" and len(broken):
            again = views[broken]
            size = min(batch, len(broken))
            vectors[broken] = halving(lambda size: encode_batches(in_float32, again, size, device), size)
        return vectors

    return encode


def forward(network: torch.nn.Module, precision: str, views: torch.Tensor) -> torch.Tensor:
    """Encode one batch on its device with arithmetic in a precision: (n, bands, side, side) to (n, d), both float32."""
    with torch.autocast(views.device.type, getattr(torch, precision), enabled=precision != "float32"):
        return network(views.to(memory_format=torch.channels_last)).float()


@torch.inference_mode()
def encode_batches(forward: Forward, views: np.ndarray, batch: int, device: str) -> np.ndarray:
    """Encode views batch by batch, each batch copied to the device while the one before it is encoded.

    Parameters
    ----------
    forward : callable
        Sees batches of one shape, (batch, bands, side, side) float32 on the device; the last is filled up with zeros.
    views : (n, bands, side, side) float32
        Best several batches: one batch has nothing to overlap with. None give (0, d).
    batch : int
        Views that `forward` sees at once.
    device : str
        "cuda", or "cpu" for the same without streams.

    Returns
    -------
    (n, d) float32
    """
    gpu = torch.get_device_module(device)
    working, copying = gpu.current_stream(), gpu.Stream()
    buffers = [_Buffer.allocate((batch, *views.shape[1:]), device) for _ in range(2)]
    copying.wait_stream(working)  # The memory of the buffers may have had a use before.
    vectors = []
    try:
        for number, start in enumerate(range(0, max(1, len(views)), batch)):
            part, buffer = views[start : start + batch], buffers[number % 2]
            buffer.copied.synchronize()  # Its batch before last has left the host ...
            buffer.pinned.numpy()[: len(part)] = part
            buffer.pinned[len(part) :] = 0
            with gpu.stream(copying):
                copying.wait_event(buffer.encoded)  # ... and is encoded.
                buffer.device.copy_(buffer.pinned, non_blocking=True)
                buffer.copied.record()
            working.wait_event(buffer.copied)
            # No name for the result: a CUDA graph's is overwritten by the next.
            vectors.append(forward(buffer.device)[: len(part)].to("cpu", non_blocking=True))
            buffer.encoded.record()
    finally:
        gpu.synchronize()  # After an error too: memory must not be freed under a copy.
    return torch.cat(vectors).numpy()


def halving(encode: Callable[[int], np.ndarray], batch: int) -> np.ndarray:
    """Call `encode(batch)`; where memory is short, with half the batch, and so on.

    Raises
    ------
    torch.OutOfMemoryError
        There is not enough for a single view.
    """
    while True:
        try:
            return encode(batch)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        torch.cuda.empty_cache()  # Outside of `except`: the error holds on to the tensors of its frames.
        batch //= 2


def find_batch(first: int, rate: Callable[[int], float]) -> int:
    """Find how many views the network should see at once.

    Parameters
    ----------
    first : int
        Where to begin. It is doubled up to `MOST_BATCH` while that is `WORTHWHILE`, or halved until it fits.
    rate : callable
        Views per second with a batch; 0 where memory is short.
    """
    batch = min(first, MOST_BATCH)
    fastest = rate(batch)
    while fastest == 0 and batch > 1:
        batch //= 2
        fastest = rate(batch)
    while fastest > 0 and 2 * batch <= MOST_BATCH:
        doubled = rate(2 * batch)
        if doubled < WORTHWHILE * fastest:
            break
        batch, fastest = 2 * batch, doubled
    return batch


@torch.inference_mode()
def measure_rate(forward: Forward, shape: tuple[int, ...], device: str, batch: int) -> float:
    """Measure views per second with a batch of views of a shape; 0 where it takes over half of the free memory.

    The other half is for the graph, which keeps its memory, and for what is done again in float32.
    """
    gpu = torch.get_device_module(device)
    torch.cuda.empty_cache()
    free = _free_bytes(device)
    try:
        views = torch.zeros((batch, *shape), device=device)
        forward(views)  # Libraries start, kernels are chosen.
        gpu.synchronize()
        started = perf_counter()
        for _ in range(REPEATS):
            forward(views)
        gpu.synchronize()
    except torch.OutOfMemoryError:
        return 0.0
    rate = REPEATS * batch / (perf_counter() - started)
    return rate if 2 * _free_bytes(device) >= free else 0.0


class _Buffer(NamedTuple):
    pinned: torch.Tensor
    device: torch.Tensor
    copied: Any
    encoded: Any

    @classmethod
    def allocate(cls, shape: tuple[int, ...], device: str) -> Self:
        pinned = torch.empty(shape, pin_memory=device == "cuda")
        event = torch.get_device_module(device).Event
        return cls(pinned, torch.empty(shape, device=device), event(), event())


def _free_bytes(device: str) -> int:
    return torch.cuda.mem_get_info()[0] if device == "cuda" else 0
