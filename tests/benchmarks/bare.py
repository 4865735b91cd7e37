"""A stage of embedding on its own, in one process: what the machine can do at best.

    python -m tests.benchmarks.bare (openvino|torch|decode) PRECISION WEIGHTS FILES SECONDS

Waits for a line on its standard input, works for that long, and prints how many cutouts per second it did.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.compute.stretch import display_image
from engine.compute.views import make_views, seen
from engine.storage.images import decode_cutout
from schemas.config import CutoutConfig
from schemas.preset import Preset

BATCH = 32
PRESET = {"bands": "grey", "resize": 300, "crop": 224, "filter": "bicubic", "mean": [0.0], "std": [1.0]}
"""As zoobot's transforms make it, so that both encode the same pixels."""


def main() -> None:
    stage, precision, weights, files, seconds = sys.argv[1:]
    step = _decoding(files) if stage == "decode" else _encoding(stage, precision, weights)
    step()
    print("ready", flush=True)
    sys.stdin.readline()
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < float(seconds):
        count += step()
    print(f"rate {count / elapsed}", flush=True)


def _encoding(runtime: str, precision: str, weights: str) -> Callable[[], int]:
    from engine.compute.encoder import encoder_tensors, load_encoder
    from engine.storage.weights import read_weights

    tensors = encoder_tensors("efficientnet_b0", 1, read_weights(weights).tensors)
    encoder = load_encoder("efficientnet_b0", 1, tensors, 224, "cpu", precision, runtime)
    views = np.random.default_rng(0).random((BATCH, 1, 224, 224), dtype=np.float32)
    return lambda: len(encoder.encode(views))


def _decoding(files: str) -> Callable[[], int]:
    """From bytes to views, as the pipeline makes them."""
    data = [Path(name).read_bytes() for name in Path(files).read_text().split()[:BATCH]]
    limits, preset = CutoutConfig(), Preset.model_validate(PRESET)

    def view(cutout: bytes) -> np.ndarray:
        pixels = decode_cutout(cutout, limits)
        height, width = pixels.values.shape[1:]
        window = seen(height, width, preset, 1)
        image = display_image(*pixels, preset.bands, limits.stretch, *window)
        return make_views(image, preset, 1, 0, "", (height, width))

    return lambda: len([view(cutout) for cutout in data])


if __name__ == "__main__":
    main()
