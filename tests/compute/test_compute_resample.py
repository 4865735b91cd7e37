"""The compiled loops over pixels, against the same in plain numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.compute.resample import resize, sum_of_bytes
from engine.compute.views import KERNELS, resize_weights

quick = settings(deadline=None, max_examples=40)


def as_decoded(bands: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    """(bands, height, width) bytes, whose bands lie side by side."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, bands), np.uint8)
    return pixels.transpose(2, 0, 1)


@quick
@given(
    bands=st.sampled_from([1, 2, 3, 4]),
    rows=st.tuples(st.integers(0, 20), st.integers(1, 30)),
    columns=st.tuples(st.integers(0, 20), st.integers(1, 30)),
    layout=st.sampled_from(["as decoded", "planes", "mirrored", "every other", "transposed", "one line repeated"]),
    seed=st.integers(0, 99),
)
def test_bands_are_summed_exactly_however_they_lie_in_memory(
    bands: int, rows: tuple[int, int], columns: tuple[int, int], layout: str, seed: int
) -> None:
    values = as_decoded(bands, 50, 50, seed)
    values = {
        "as decoded": values,
        "planes": np.ascontiguousarray(values),
        "mirrored": values[:, ::-1, ::-1],
        "every other": values[:, :, ::2],
        "transposed": values.transpose(0, 2, 1),
        "one line repeated": np.broadcast_to(values[:, :1], values.shape),
    }[layout][:, slice(rows[0], sum(rows)), slice(columns[0], sum(columns))]
    scale = np.float32(1 / (bands * 255))
    found = sum_of_bytes(values, scale)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values.sum(axis=0, dtype=np.int64).astype(np.float32) * scale)


def test_the_sum_of_257_bands_is_not_cut_off() -> None:
    assert sum_of_bytes(np.full((257, 1, 2), 255, np.uint8), np.float32(1)).tolist() == [[65535.0, 65535.0]]


@quick
@given(
    n_in=st.integers(1, 90),
    n_out=st.integers(1, 40),
    cut=st.tuples(st.integers(0, 39), st.integers(1, 40)),
    kernel=st.sampled_from(sorted(KERNELS)),
    extra=st.integers(0, 3),
)
def test_a_resize_is_the_product_with_its_weights_on_both_sides(
    n_in: int, n_out: int, cut: tuple[int, int], kernel: str, extra: int
) -> None:
    first = min(cut[0], n_out - 1)
    count = min(cut[1], n_out - first)
    axis = resize_weights(n_in, n_out, first, count, kernel)
    whole = np.zeros((count, axis.n_seen))
    for row, start in enumerate(axis.firsts.astype(int)):
        whole[row, start : start + axis.weights.shape[1]] = axis.weights[row]
    np.testing.assert_allclose(whole.sum(axis=1), 1, atol=1e-6)
    # Of an image whose lines are parts of longer ones.
    image = np.random.default_rng(0).random((axis.n_seen, axis.n_seen + extra), dtype=np.float32)[:, extra:]
    found = resize(image, axis.firsts, axis.weights)
    assert (found.shape, found.dtype, found.flags.c_contiguous) == ((count, count), np.float32, True)
    np.testing.assert_allclose(found, whole @ image @ whole.T, atol=2e-6)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_weights_are_of_the_pixels_that_pillow_weighs(kernel: str) -> None:
    # A single bright pixel shows every weight that it has.
    from PIL import Image

    axis = resize_weights(50, 20, 3, 9, kernel)
    resampling = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
    for bright in range(50):
        line = np.zeros((1, 50), np.float32)
        line[0, bright] = 1
        wanted = Image.fromarray(line).resize((20, 1), resampling.get(kernel, Image.Resampling.LANCZOS))
        found = [
            weights[bright - axis.start - first] if 0 <= bright - axis.start - first < len(weights) else 0
            for first, weights in zip(axis.firsts.astype(int), axis.weights, strict=True)
        ]
        np.testing.assert_allclose(found, np.asarray(wanted)[0, 3:12], atol=1e-6)
