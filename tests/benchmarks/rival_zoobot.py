"""Runs in zoobot's own environment: its predict on a catalogue of JPEG files; prints the seconds that it took.

python rival_zoobot.py WEIGHTS.safetensors FILES.txt VECTORS.npy
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import timm
import torch
from lightning import LightningModule
from safetensors.torch import load_file
from torchvision.transforms import v2
from zoobot.pytorch.predictions.predict_on_catalog import predict


class Embed(LightningModule):
    """The encoder, fed with what zoobot's loader makes."""

    def __init__(self, weights: str) -> None:
        super().__init__()
        self.encoder = timm.create_model("efficientnet_b0", in_chans=1, num_classes=0)
        self.encoder.load_state_dict(
            {key: value for key, value in load_file(weights).items() if not key.startswith("classifier.")}
        )
        self.dimension = self.encoder.num_features

    def predict_step(self, batch: dict[str, torch.Tensor], index: int) -> torch.Tensor:
        return self.encoder(batch["image"])


def main() -> None:
    weights, files, vectors = sys.argv[1:]
    names = Path(files).read_text().split()
    catalogue = pd.DataFrame({"id_str": names, "file_loc": names})
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Lambda(lambda image: image.mean(dim=0, keepdim=True)),
            v2.Resize(300, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
        ]
    )
    model = Embed(weights)
    columns = [f"f{number}" for number in range(model.dimension)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        found = predict(
            catalogue,
            model,
            f"{folder}/predictions.csv",
            columns,
            transform,
            datamodule_kwargs={"batch_size": 32, "num_workers": 2},
            trainer_kwargs={"accelerator": "cpu", "logger": False, "enable_progress_bar": False},
        )
        seconds = time.perf_counter() - started
    np.save(vectors, found[columns].to_numpy(np.float32))
    print(f"seconds {seconds}")


if __name__ == "__main__":
    main()
