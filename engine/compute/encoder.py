"""Encoders: a timm network without its head, from named tensors, applied to a batch of views."""

import difflib
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import timm
import torch

from engine.compute.gpu_encoder import Encode, batched_encoder, compile_encoder, find_batch, forward, measure_rate
from schemas.errors import ConfigError, DataError

_COUNTER = "num_batches_tracked"
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.05}
"""Largest difference of a runtime from PyTorch in float32, relative to the largest value of a vector."""


def encoder_tensors(
    architecture: str, n_bands: int, weights: Mapping[str, torch.Tensor], by_order: bool = False
) -> dict[str, torch.Tensor]:
    """Fit weights to an architecture: the encoder's own keys, shapes checked, the head dropped.

    Parameters
    ----------
    architecture : str
        A timm model name.
    n_bands : int
        Bands of the input.
    weights : mapping of str to tensor
        A state dict. Keys may start with `module.`, `model.` or `encoder.`; `num_batches_tracked` may be absent.
    by_order : bool
        Ignore the names and match tensors by position. Only for files known to list layers in timm's order: the four
        tensors of a batch normalisation have one shape, so a wrong order would not be noticed.

    Raises
    ------
    ConfigError
        timm knows no such architecture.
    DataError
        Tensors are missing, have other shapes (among them another number of input bands) or are not finite.
    """
    network = _network(architecture, n_bands)
    wanted = network.state_dict()
    needed = [key for key in wanted if not key.endswith(_COUNTER)]
    if by_order:
        ordered = (tensor for key, tensor in weights.items() if not key.endswith(_COUNTER))
        given = dict(zip(needed, ordered, strict=False))
    else:
        given = {key if key in wanted else _without_prefix(str(key)): value for key, value in weights.items()}
    missing = [key for key in needed if key not in given]
    if missing:
        raise DataError(
            f"weights: expected the {len(needed)} tensors of {architecture}, found {len(weights)} tensors without "
            f"{len(missing)} of them ({', '.join(missing[:3])} ...); check encoder.architecture"
        )
    tensors = {}
    for key in wanted:
        tensor = given.get(key, wanted[key])
        if tensor.shape != wanted[key].shape:
            raise DataError(
                f"weights: {architecture} with {n_bands} input band(s) expects {key} as {tuple(wanted[key].shape)}, "
                f"found {tuple(tensor.shape)}; check encoder.architecture and the preset's bands"
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"weights: expected finite numbers, found NaN or infinity in {key}")
        tensors[key] = tensor.to(wanted[key].dtype).contiguous()
    return tensors


def build_encoder(
    architecture: str, n_bands: int, tensors: Mapping[str, torch.Tensor], device: str = "cpu"
) -> torch.nn.Module:
    """Build an encoder in evaluation mode from tensors that `encoder_tensors` has fitted."""
    network = _network(architecture, n_bands)
    network.load_state_dict(dict(tensors), strict=True)
    network.requires_grad_(False)
    return network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def encoder_dimension(architecture: str, n_bands: int, tensors: Mapping[str, torch.Tensor], side_pixels: int) -> int:
    """Number of filters that an encoder returns for views of a given side.

    Raises
    ------
    DataError
        It cannot take views of this side, or returns NaN or infinity for a plain grey one: the weights do not fit.
    """
    view = np.full((1, n_bands, side_pixels, side_pixels), 0.5, np.float32)
    try:
        vector = encode(build_encoder(architecture, n_bands, tensors), view)
    except (RuntimeError, AssertionError) as error:
        raise DataError(f"{architecture} cannot take views of {side_pixels} pixels: {error}") from error
    if not np.isfinite(vector).all():
        raise DataError(f"weights: {architecture} returns NaN or infinity for a plain grey view")
    return int(vector.shape[1])


def encode(encoder: torch.nn.Module, views: np.ndarray) -> np.ndarray:
    """Encode a batch: (n, bands, height, width) float32 to pooled filters, (n, d) float32."""
    device = next(encoder.parameters()).device
    batch = torch.from_numpy(views).to(device=device, memory_format=torch.channels_last)
    with torch.inference_mode():
        return encoder(batch).float().cpu().numpy()


class Encoder(NamedTuple):
    """An encoder that is ready for work."""

    runtime: str
    """`openvino`, `torch-compiled` or `torch`."""
    encode: Encode
    """Best of many views at once; from any thread."""


class Runtime(NamedTuple):
    """A fast way of running a network, not yet tried, and the plain one behind it."""

    name: str
    compile: Callable[[], Encode]
    """May fail in any way: the compiler is absent, or does not know a layer."""
    batch: int
    """Views that the network sees at once."""
    plain: Encode
    """PyTorch as it is."""


def load_encoder(
    architecture: str,
    n_bands: int,
    tensors: Mapping[str, torch.Tensor],
    side_pixels: int,
    device: str,
    precision: str = "float32",
    runtime: str = "auto",
    threads: int = 1,
    batch_size: int = 32,
) -> Encoder:
    """Build an encoder in the fastest runtime that gives PyTorch's vectors on this machine.

    Parameters
    ----------
    architecture, n_bands, tensors, device
        As of `build_encoder`.
    side_pixels : int
        Side of the views.
    precision : str
        Of the arithmetic: "float32", "bfloat16" or, on a GPU, "float16". Vectors are float32 in any case.
    runtime : str
        "auto" takes OpenVINO on a CPU and `torch.compile` on a GPU, where they work and agree on `golden_views`, and
        PyTorch as it is else, with a warning.
    threads : int
        CPU threads that it may use.
    batch_size : int
        Views at once from which a GPU's own number is searched. CPUs take what they are given.

    Raises
    ------
    ConfigError
        OpenVINO is asked for and not installed, fails, does not agree, or is to run on a GPU; or float16 on a CPU.
    """
    if device == "cuda" and runtime == "openvino":
        raise ConfigError("embed.runtime: openvino runs on CPUs; use embed.device: cpu, or embed.runtime: auto")
    if device == "cpu" and precision == "float16":
        raise ConfigError("embed.precision: expected float32 or bfloat16 on a CPU, found float16")

    def load() -> Encoder:
        torch.set_num_threads(threads)
        network = build_encoder(architecture, n_bands, tensors, device)
        golden = golden_views(n_bands, side_pixels)
        if device == "cuda":
            fast = gpu_runtime(network, precision, golden.shape[1:], batch_size)
        else:
            fast = cpu_runtime(network, precision, golden, threads)
        return choose(fast, network, precision, runtime, golden)

    # CUDA graphs belong to the thread that made them; Ray constructs an actor in one thread and calls it in another.
    thread = ThreadPoolExecutor(1, thread_name_prefix="encoder")
    loaded = thread.submit(load).result()
    return Encoder(loaded.runtime, lambda views: thread.submit(loaded.encode, views).result())


def cpu_runtime(network: torch.nn.Module, precision: str, golden: np.ndarray, threads: int) -> Runtime:
    """OpenVINO, and PyTorch behind it."""

    def compiled() -> Encode:
        try:
            from engine.compute.openvino_encoder import compile_encoder
        except ImportError as error:
            raise ConfigError("it is not installed: pip install 'voorwerp[cpu]'") from error
        return compile_encoder(network, golden.shape[1], golden.shape[2], precision, threads)

    plain = partial(encode if precision == "float32" else _encode_in_bfloat16, network)
    return Runtime("openvino", compiled, len(golden), plain)


def gpu_runtime(
    network: torch.nn.Module,
    precision: str,
    shape: tuple[int, ...],
    batch_size: int,
    compiler: Callable[..., Any] = torch.compile,
) -> Runtime:
    """PyTorch compiled for the batch that is fastest here, and as it is behind that."""
    # Else convolutions in float32 are done in TF32, which is off by 1e-3.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    device = next(network.parameters()).device.type
    rate = partial(measure_rate, partial(forward, network, precision), shape, device)
    batch = find_batch(batch_size, rate)
    compiled = partial(compile_encoder, network, precision, batch, shape, compiler)
    return Runtime("torch-compiled", compiled, batch, batched_encoder(network, precision, batch))


def choose(fast: Runtime, network: torch.nn.Module, precision: str, wanted: str, golden: np.ndarray) -> Encoder:
    """Try a fast runtime against the network in float32; take the plain one where it fails or disagrees.

    Raises
    ------
    ConfigError
        The fast one is wanted by its name and cannot be had.
    """
    if wanted == "torch":
        return Encoder("torch", fast.plain)
    try:
        compiled = fast.compile()
        difference = _difference(compiled, network, golden, fast.batch)
    except Exception as error:
        problem = f"expected {fast.name} to work, found {type(error).__name__}: {error}"
    else:
        if difference <= TOLERANCE[precision]:
            return Encoder(fast.name, compiled)
        problem = (
            f"expected {fast.name} to differ from PyTorch by at most {TOLERANCE[precision]:g} of the largest value, "
            f"found {difference:.2g}"
        )
    if wanted == fast.name:
        raise ConfigError(f"embed.runtime: {problem}; use embed.runtime: torch")
    warnings.warn(f"encoding with plain PyTorch, which is slower: {problem}", stacklevel=2)
    return Encoder("torch", fast.plain)


def golden_views(n_bands: int, side_pixels: int) -> np.ndarray:
    """Make views to compare runtimes on: noise of three strengths around grey, and plain grey; float32."""
    noise = np.random.default_rng(1280).standard_normal((4, n_bands, side_pixels, side_pixels), dtype=np.float32)
    return np.float32(0.5) + noise * np.array([0.0, 0.1, 0.5, 2.0], np.float32).reshape(4, 1, 1, 1)


def _difference(compiled: Encode, network: torch.nn.Module, golden: np.ndarray, batch: int) -> float:
    """Largest difference of the two, relative to the largest value of each vector; or NaN.

    Over two full batches and a part of one, each with another view at the same place: one taken for another shows.
    """
    rows = np.arange(2 * batch + 1)
    rows = (rows % batch + rows // batch) % len(golden)
    expected = encode(network, golden)[rows]
    return float((np.abs(compiled(golden[rows]) - expected) / np.abs(expected).max(axis=1, keepdims=True)).max())


def _encode_in_bfloat16(network: torch.nn.Module, views: np.ndarray) -> np.ndarray:
    with torch.autocast("cpu", torch.bfloat16):
        return encode(network, views)


def check_architecture(architecture: str) -> None:
    """Refuse what timm does not know; errors as of `encoder_tensors`."""
    _network(architecture, 1)


def _network(architecture: str, n_bands: int) -> torch.nn.Module:
    # timm would take some other names for folders or hub entries to fetch.
    if timm.is_model(architecture):
        with suppress(RuntimeError):  # The name is known, its tag after the dot is not.
            return timm.create_model(architecture, pretrained=False, num_classes=0, in_chans=n_bands)
    near = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.0)
    raise ConfigError(
        f"encoder.architecture: expected a timm model, found {architecture!r}; near it are {', '.join(near)}"
    )


def _without_prefix(key: str) -> str:
    for prefix in ("module.", "model.", "encoder."):
        key = key.removeprefix(prefix)
    return key
