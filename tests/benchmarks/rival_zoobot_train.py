"""Runs in zoobot's own environment: fine-tunes on JPEG files; prints seconds and the best validation loss.

python rival_zoobot_train.py WEIGHTS.safetensors CATALOGUE.csv N_TRAINING EPOCHS BATCH
"""

import sys
import tempfile
import time

import pandas as pd
import timm
import torch
from galaxy_datasets.pytorch.galaxy_datamodule import CatalogDataModule
from safetensors.torch import load_file
from torchvision.transforms import v2
from zoobot.pytorch.training import finetune


def transform(train: bool) -> v2.Compose:
    turns = [v2.RandomHorizontalFlip(), v2.RandomVerticalFlip(), v2.RandomRotation(180)] if train else []
    crop = v2.RandomCrop(56) if train else v2.CenterCrop(56)
    return v2.Compose(
        [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), *turns, crop, v2.Normalize([0.5] * 3, [0.5] * 3)]
    )


def main() -> None:
    weights, catalogue, n_training, epochs, batch = sys.argv[1:]
    torch.set_num_threads(2)
    encoder = timm.create_model("efficientnet_lite0", num_classes=0)
    encoder.load_state_dict(load_file(weights))
    table = pd.read_csv(catalogue)
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        data = CatalogDataModule(
            label_cols=["ring"],
            train_transform=transform(True),
            test_transform=transform(False),
            train_catalog=table[: int(n_training)],
            val_catalog=table[int(n_training) :],
            test_catalog=table[int(n_training) :],
            batch_size=int(batch),
            num_workers=2,
        )
        model = finetune.FinetuneableZoobotClassifier(encoder=encoder, num_classes=2, label_col="ring", prog_bar=False)
        trainer = finetune.get_trainer(
            folder, accelerator="cpu", devices=1, max_epochs=int(epochs), enable_progress_bar=False
        )
        trainer.fit(model, data)
        seconds = time.perf_counter() - started
        best = trainer.checkpoint_callback.best_model_score.item()
    print(f"seconds {seconds}")
    print(f"loss {best}")


if __name__ == "__main__":
    main()
