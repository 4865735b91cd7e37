"""Encoders: a timm network without its head, from named tensors, applied to a batch of views."""

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

import numpy as np
import timm
import torch

from schemas.errors import ConfigError, DataError

_COUNTER = "num_batches_tracked"
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.05}
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
    """`openvino` or `torch`."""
    encode: Callable[[np.ndarray], np.ndarray]
    """(n, bands, side, side) float32 views to (n, d) float32 vectors."""


def load_encoder(
    architecture: str,
    n_bands: int,
    tensors: Mapping[str, torch.Tensor],
    side_pixels: int,
    device: str,
    precision: str = "float32",
    runtime: str = "auto",
    threads: int = 1,
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
        "auto" takes OpenVINO on a CPU, where it is installed and agrees on `golden_views`, and PyTorch else.
    threads : int
        CPU threads that it may use.

    Raises
    ------
    ConfigError
        OpenVINO is asked for and not installed, or does not agree; or float16 on a CPU.
    """
    torch.set_num_threads(threads)
    network = build_encoder(architecture, n_bands, tensors, device)
    if device == "cuda":
        return Encoder("torch", partial(_encode_on_gpu, network, precision))
    if precision == "float16":
        raise ConfigError("embed.precision: expected float32 or bfloat16 on a CPU, found float16")
    if runtime != "torch":
        try:
            from engine.compute.openvino_encoder import compile_encoder
        except ImportError as error:
            if runtime == "openvino":
                raise ConfigError("embed.runtime: openvino needs the extra: pip install 'voorwerp[cpu]'") from error
        else:
            compiled = compile_encoder(network, n_bands, side_pixels, precision, threads)
            difference = _difference(compiled, network, n_bands, side_pixels)
            if difference <= TOLERANCE[precision]:
                return Encoder("openvino", compiled)
            if runtime == "openvino":
                raise ConfigError(
                    f"embed.runtime: expected OpenVINO to differ from PyTorch by at most {TOLERANCE[precision]:g} "
                    f"of the largest value, found {difference:.2g}; use embed.runtime: torch"
                )
    if precision == "bfloat16":
        return Encoder("torch", partial(_encode_in, torch.bfloat16, network))
    return Encoder("torch", partial(encode, network))


def golden_views(n_bands: int, side_pixels: int) -> np.ndarray:
    """Make views to compare runtimes on: noise of three strengths around grey, and plain grey; float32."""
    noise = np.random.default_rng(1280).standard_normal((4, n_bands, side_pixels, side_pixels), dtype=np.float32)
    return np.float32(0.5) + noise * np.array([0.0, 0.1, 0.5, 2.0], np.float32).reshape(4, 1, 1, 1)


def _difference(
    compiled: Callable[[np.ndarray], np.ndarray], network: torch.nn.Module, n_bands: int, side_pixels: int
) -> float:
    """Largest difference of the two on the golden views, relative to the largest value of each vector; or NaN."""
    views = golden_views(n_bands, side_pixels)
    expected = encode(network, views)
    return float((np.abs(compiled(views) - expected) / np.abs(expected).max(axis=1, keepdims=True)).max())


def _encode_in(dtype: torch.dtype, network: torch.nn.Module, views: np.ndarray) -> np.ndarray:
    device = next(network.parameters()).device
    with torch.autocast(device.type, dtype=dtype):
        return encode(network, views)


def _encode_on_gpu(network: torch.nn.Module, precision: str, views: np.ndarray) -> np.ndarray:
    """Encode, in halves where the GPU's memory is short; rows that half precision breaks are done in float32."""
    try:
        if precision == "float32":
            return encode(network, views)
        vectors = _encode_in(getattr(torch, precision), network, views)
    except torch.cuda.OutOfMemoryError:
        if len(views) == 1:
            raise
        torch.cuda.empty_cache()
        middle = len(views) // 2
        return np.concatenate([_encode_on_gpu(network, precision, half) for half in (views[:middle], views[middle:])])
    broken = ~np.isfinite(vectors).all(axis=1)
    if broken.any():
        vectors[broken] = encode(network, views[broken])
    return vectors


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
