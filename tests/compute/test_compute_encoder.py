"""Encoders: the network without its head, from weights that must fit."""

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from engine.compute import encoder as encoders
from engine.compute.encoder import TOLERANCE, build_encoder, encode, encoder_dimension, encoder_tensors, load_encoder
from engine.compute.views import centre_view
from schemas.errors import ConfigError, DataError
from schemas.preset import load_preset
from tests.conftest import TINY_ARCHITECTURE

FIRST = "conv_stem.weight"


@pytest.fixture(scope="module")
def weights(tiny_weights: Path) -> dict[str, torch.Tensor]:
    return load_file(tiny_weights)


@pytest.fixture(scope="module")
def encoder(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    return build_encoder(TINY_ARCHITECTURE, 1, encoder_tensors(TINY_ARCHITECTURE, 1, weights))


def views(n: int, bands: int = 1, side: int = 64) -> np.ndarray:
    return np.random.default_rng(n).random((n, bands, side, side), dtype=np.float32)


def refuse(weights: Mapping[str, torch.Tensor], message: str, bands: int = 1) -> None:
    with pytest.raises(DataError, match=message):
        encoder_tensors(TINY_ARCHITECTURE, bands, weights)


def test_lite0_sees_a_cat_in_a_photograph_of_a_cat() -> None:
    # The package lists its tensors in timm's order; ImageNet classes 281, 282 and 285 are cats.
    from skimage.data import cat

    from engine.storage.weights import LITE0, read_weights

    preset, state = load_preset("imagenet-half"), read_weights(LITE0).tensors
    network = build_encoder(
        "tf_efficientnet_lite0", 3, encoder_tensors("tf_efficientnet_lite0", 3, state, by_order=True)
    )
    image = cat().transpose(2, 0, 1).astype(np.float32) / 255
    vector = encode(network, centre_view(image, preset)[None])
    weight, bias = list(state.values())[-2:]
    assert vector.shape == (1, 1280)
    assert weight.shape == (1000, 1280)
    assert int(torch.from_numpy(vector[0]).matmul(weight.T).add(bias).argmax()) in (281, 282, 285)


def test_an_encoder_is_the_timm_network_without_its_head(
    encoder: torch.nn.Module, weights: dict[str, torch.Tensor]
) -> None:
    network = timm.create_model(TINY_ARCHITECTURE, pretrained=False, in_chans=1)
    network.load_state_dict(weights)
    batch = views(3)
    with torch.inference_mode():
        network.eval()
        expected = network.forward_head(network.forward_features(torch.from_numpy(batch)), pre_logits=True).numpy()
    found = encode(encoder, batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert encoder_dimension(TINY_ARCHITECTURE, 1, encoder_tensors(TINY_ARCHITECTURE, 1, weights), 64) == found.shape[1]


def test_the_size_of_a_batch_does_not_change_a_vector(encoder: torch.nn.Module) -> None:
    batch = views(11)
    whole = encode(encoder, batch)
    for size in (1, 4):
        parts = np.concatenate([encode(encoder, batch[start : start + size]) for start in range(0, 11, size)])
        np.testing.assert_allclose(parts, whole, rtol=0, atol=1e-5 * np.abs(whole).max())


def test_encoding_twice_gives_the_same_and_teaches_nothing(encoder: torch.nn.Module) -> None:
    batch = views(4)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    np.testing.assert_array_equal(encode(encoder, batch), encode(encoder, batch))
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_no_views_give_no_vectors(encoder: torch.nn.Module) -> None:
    assert encode(encoder, views(0)).shape == (0, encode(encoder, views(1)).shape[1])


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "encoder.", "module.encoder."])
def test_names_with_the_prefixes_of_training_code_fit(weights: dict[str, torch.Tensor], prefix: str) -> None:
    found = encoder_tensors(TINY_ARCHITECTURE, 1, {prefix + key: tensor for key, tensor in weights.items()})
    assert torch.equal(found[FIRST], weights[FIRST])
    assert not any(key.startswith("classifier") for key in found)


def test_counters_of_batches_may_be_absent_and_half_precision_is_widened(weights: dict[str, torch.Tensor]) -> None:
    given = {key: tensor.half() for key, tensor in weights.items() if not key.endswith("num_batches_tracked")}
    found = encoder_tensors(TINY_ARCHITECTURE, 1, given)
    assert found[FIRST].dtype == torch.float32
    assert build_encoder(TINY_ARCHITECTURE, 1, found)


def test_tensors_match_by_order_where_names_are_foreign() -> None:
    state = timm.create_model(TINY_ARCHITECTURE, pretrained=False, in_chans=1).state_dict()
    foreign = {f"layer{number}": tensor for number, (key, tensor) in enumerate(state.items()) if "num_" not in key}
    found = encoder_tensors(TINY_ARCHITECTURE, 1, foreign, by_order=True)
    assert all(torch.equal(found[key], state[key]) for key in found if "num_" not in key)


def test_missing_tensors_are_refused_by_name(weights: dict[str, torch.Tensor]) -> None:
    refuse({key: tensor for key, tensor in weights.items() if key != FIRST}, rf"without 1 of them \({FIRST}")
    refuse({}, "found 0 tensors")
    refuse({"0": torch.zeros(3)}, "found 1 tensors")


@pytest.mark.fault(24, "weights of another network")
def test_tensors_of_another_shape_are_refused(weights: dict[str, torch.Tensor]) -> None:
    refuse({**weights, "bn1.weight": torch.zeros(5)}, r"expects bn1\.weight as .* found \(5,\)")


def test_weights_for_another_number_of_bands_are_refused_with_the_preset_named(
    weights: dict[str, torch.Tensor],
) -> None:
    refuse(weights, rf"with 3 input band\(s\) expects {FIRST}.*check .*the preset's bands", bands=3)


@pytest.mark.fault(24, "weights with NaN")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(weights: dict[str, torch.Tensor], value: float) -> None:
    broken = weights[FIRST].clone()
    broken[0, 0, 0, 0] = value
    refuse({**weights, FIRST: broken}, f"NaN or infinity in {FIRST}")


def test_weights_under_names_that_are_no_text_are_refused() -> None:
    refuse({0: torch.zeros(3)}, "weights: expected")  # type: ignore[dict-item]


@pytest.mark.fault(24, "weights that overflow")
def test_finite_weights_that_overflow_are_found_before_any_cutout_is_read(weights: dict[str, torch.Tensor]) -> None:
    huge = {key: tensor * 1e30 if tensor.ndim == 4 else tensor for key, tensor in weights.items()}
    with pytest.raises(DataError, match="returns NaN or infinity for a plain grey view"):
        encoder_dimension(TINY_ARCHITECTURE, 1, encoder_tensors(TINY_ARCHITECTURE, 1, huge), 64)


@pytest.mark.parametrize(
    "architecture", ["efficientnet_b99", "zoobot", "", "test_efficientnet.no_such_tag", "local-dir:/nowhere"]
)
def test_an_unknown_architecture_is_refused(architecture: str) -> None:
    with pytest.raises(ConfigError, match=r"encoder\.architecture: expected a timm model"):
        encoder_tensors(architecture, 1, {})


@pytest.mark.parametrize("architecture", ["test_vit_relpos", "test_coatnet"])
def test_views_of_a_size_that_the_network_cannot_take_are_refused(architecture: str) -> None:
    # Both were made for 160 px; torch and timm say so in different ways.
    network = timm.create_model(architecture, pretrained=False, in_chans=1)
    tensors = encoder_tensors(architecture, 1, network.state_dict())
    with pytest.raises((ConfigError, DataError), match="192"):
        encoder_dimension(architecture, 1, tensors, 192)


def test_fitting_leaves_the_weights_as_they_were(weights: dict[str, torch.Tensor]) -> None:
    before = {key: tensor.clone() for key, tensor in weights.items()}
    encoder_tensors(TINY_ARCHITECTURE, 1, weights)
    assert all(torch.equal(tensor, before[key]) for key, tensor in weights.items())


def load(weights: Mapping[str, torch.Tensor], **options: str) -> encoders.Encoder:
    tensors = encoder_tensors(TINY_ARCHITECTURE, 1, weights)
    return load_encoder(TINY_ARCHITECTURE, 1, tensors, side_pixels=64, device="cpu", **options)


def largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / np.abs(expected).max(axis=1, keepdims=True)).max())


def test_openvino_returns_the_vectors_of_pytorch(weights: dict[str, torch.Tensor], encoder: torch.nn.Module) -> None:
    fast = load(weights)
    assert fast.runtime == "openvino"
    found = fast.encode(views(11))
    assert found.dtype == np.float32
    assert largest_difference(found, encode(encoder, views(11))) <= 1e-5


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_a_row_has_the_same_vector_whatever_the_batch(weights: dict[str, torch.Tensor], runtime: str) -> None:
    fast = load(weights, runtime=runtime).encode
    together = fast(views(9))
    for size in (1, 2, 4, 5):
        parts = [fast(views(9)[start : start + size]) for start in range(0, 9, size)]
        assert largest_difference(np.concatenate(parts), together) <= 1e-5


@pytest.mark.parametrize("runtime", ["openvino", "torch"])
def test_bfloat16_differs_by_less_than_its_tolerance(
    weights: dict[str, torch.Tensor], encoder: torch.nn.Module, runtime: str
) -> None:
    found = load(weights, precision="bfloat16", runtime=runtime).encode(views(8))
    assert found.dtype == np.float32
    assert largest_difference(found, encode(encoder, views(8))) <= TOLERANCE["bfloat16"]


def test_a_runtime_that_disagrees_on_the_golden_views_is_not_used(
    weights: dict[str, torch.Tensor], encoder: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine.compute import openvino_encoder

    real = openvino_encoder.compile_encoder

    def wrong(*arguments: object):  # type: ignore[no-untyped-def]
        compiled = real(*arguments)
        return lambda views: compiled(views) * np.float32(1.001)

    monkeypatch.setattr(openvino_encoder, "compile_encoder", wrong)
    with pytest.warns(UserWarning, match="plain PyTorch, which is slower: expected openvino to differ"):
        fallback = load(weights)
    assert fallback.runtime == "torch"
    np.testing.assert_allclose(fallback.encode(views(3)), encode(encoder, views(3)), rtol=1e-5, atol=1e-6)
    with pytest.raises(ConfigError, match="expected openvino to differ from PyTorch by at most 1e-05"):
        load(weights, runtime="openvino")


class Eigenvalues(torch.nn.Module):
    """A network with a layer that OpenVINO does not know."""

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(in_chans, 1, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(self.conv(batch)[:, 0])


def test_a_network_that_openvino_cannot_convert_is_encoded_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "_network", lambda architecture, n_bands: Eigenvalues(n_bands))
    tensors = Eigenvalues(1).state_dict()
    with pytest.warns(UserWarning, match="expected openvino to work, found OpConversionFailure"):
        loaded = load_encoder("eigenvalues", 1, tensors, 16, "cpu")
    assert loaded.runtime == "torch"
    expected = encode(build_encoder("eigenvalues", 1, tensors), views(3, side=16))
    assert largest_difference(loaded.encode(views(3, side=16)), expected) <= 1e-5
    with pytest.raises(ConfigError, match=r"linalg_eigvalsh[\s\S]*use embed\.runtime: torch"):
        load_encoder("eigenvalues", 1, tensors, 16, "cpu", runtime="openvino")


def test_without_openvino_pytorch_encodes(weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "engine.compute.openvino_encoder", None)
    with pytest.warns(UserWarning, match=r"pip install 'voorwerp\[cpu\]'"):
        assert load(weights).runtime == "torch"
    with pytest.raises(ConfigError, match=r"pip install 'voorwerp\[cpu\]'"):
        load(weights, runtime="openvino")


def test_float16_is_refused_on_a_cpu(weights: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="expected float32 or bfloat16 on a CPU"):
        load(weights, precision="float16")
