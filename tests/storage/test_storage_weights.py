"""Weights: read by name, hashed, and never executed."""

import hashlib
import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save

from engine.storage.store import Store
from engine.storage.weights import LITE0, check_source, read_tensors, read_weights, write_tensors
from schemas.errors import ConfigError, DataError, InputNotFoundError

TENSORS = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn.bias": torch.ones(3), "n": torch.tensor(5)}


def torch_file(content: object, legacy: bool = False) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=not legacy)
    return sink.getvalue()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


class Payload:
    """What a malicious checkpoint holds: unpickling it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.safetensors", save(TENSORS)),
        ("a.pt", torch_file(TENSORS)),
        ("a.pth", torch_file({"state_dict": TENSORS, "epoch": 3, "optimizer": {"lr": 0.1}})),
        ("old.pt", torch_file(TENSORS, legacy=True)),
    ],
)
def test_a_weights_file_gives_its_tensors_and_its_hash(store: Store, name: str, data: bytes) -> None:
    store.write(name, data)
    check_source(store.uri(name))
    weights = read_weights(store.uri(name))
    assert_same(weights.tensors, TENSORS)
    assert weights.sha256 == hashlib.sha256(data).hexdigest()


def test_tensors_are_written_and_read_back(store: Store) -> None:
    record = write_tensors(store, "encoder/weights.safetensors", TENSORS)
    assert record.path == "encoder/weights.safetensors"
    assert_same(read_tensors(store, record.path), TENSORS)


def test_the_tiny_encoder_of_the_tests_is_read_whole(tiny_weights: Path) -> None:
    assert_same(read_weights(str(tiny_weights)).tensors, load_file(tiny_weights))


def test_the_lite0_package_holds_the_tensors_that_the_encoder_needs() -> None:
    check_source(LITE0)
    tensors = read_weights(LITE0).tensors
    assert len([key for key in tensors if not key.endswith("num_batches_tracked")]) == 247


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_its_name_and_size(tmp_path: Path, name: str, fraction: float) -> None:
    data = save(TENSORS) if name.endswith("safetensors") else torch_file(TENSORS)
    kept = data[: int(fraction * len(data))]
    (tmp_path / name).write_bytes(kept)
    with pytest.raises(DataError, match=rf"{name}: not a whole .* \({len(kept)} bytes\)"):
        read_weights(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
def test_a_file_of_the_other_kind_and_noise_are_refused(tmp_path: Path, name: str) -> None:
    other = torch_file(TENSORS) if name.endswith("safetensors") else save(TENSORS)
    for data in (other, bytes(1000), b"<html>404</html>"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            read_weights(str(tmp_path / name))


@pytest.mark.fault(25, "a .pt file with a payload, which would run elsewhere")
@pytest.mark.parametrize("wrap", ["plain pickle", "torch file", "legacy torch file", "inside a state dict"])
def test_a_malicious_pickle_is_refused_and_never_runs(tmp_path: Path, wrap: str) -> None:
    mark, path = tmp_path / "ran", tmp_path / "evil.pt"
    payload = Payload(mark)
    contents = {
        "plain pickle": lambda: pickle.dumps(payload, protocol=2),
        "torch file": lambda: torch_file(payload),
        "legacy torch file": lambda: torch_file(payload, legacy=True),
        "inside a state dict": lambda: torch_file({**TENSORS, "extra": payload}),
    }
    path.write_bytes(contents[wrap]())
    with pytest.raises(DataError, match=r"evil\.pt: not a whole file of plain tensors"):
        read_weights(str(path))
    assert not mark.exists()


def test_the_payload_of_these_tests_would_run_if_it_were_let(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))  # noqa: S301
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [None, [torch.zeros(2)], {"epoch": 3}, {"model": TENSORS}, torch.nn.Linear(2, 2)])
def test_anything_but_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_file(content))
    with pytest.raises(DataError, match=r"a\.pt"):
        read_weights(str(path))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("weights.bin", r"expected \.safetensors, \.pt, \.pth or a model, found 'weights\.bin'"),
        ("weights", r"expected \.safetensors"),
        ("", r"expected \.safetensors"),
        ("package:unknown", r"expected package:lite0, a file or hf-hub:NAME, found 'package:unknown'"),
        ("https://example.org/a.pt", "found the scheme 'https'"),
    ],
)
def test_a_source_of_no_known_kind_is_refused_before_reading(source: str, message: str) -> None:
    for look in (check_source, read_weights):
        with pytest.raises(ConfigError, match=message):
            look(source)


def test_a_missing_file_is_told_apart(store: Store) -> None:
    for look in (check_source, read_weights):
        with pytest.raises(InputNotFoundError, match=r"encoder\.weights: expected a weights file, found nothing at"):
            look(store.uri("nope.safetensors"))


def test_a_hub_name_is_checked_only_when_it_is_read() -> None:
    check_source("hf-hub:timm/efficientnet_b0.ra_in1k")
