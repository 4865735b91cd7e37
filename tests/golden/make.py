"""Keeps what this version writes, so that later ones are tested with it: python -m tests.golden.make

Writes `tests/golden/VERSION.tar.xz`: a release of two dozen galaxies with its map space, a model trained on it, an
answer, and a database of campaigns and tokens. What is kept is never made again, unless no version was given to anyone.
"""

import sqlite3
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import timm
from safetensors.numpy import save_file

from engine.cluster import campaign as campaigning
from engine.storage.campaigns import open_campaigns
from engine.storage.tokens import open_tokens
from jobs import campaign, finetune, neighbours, release
from schemas.campaign import CampaignConfig
from schemas.config import NeighboursJob, RayConfig, ReleaseJob
from schemas.model import FinetuneJob
from tests.conftest import TINY_ARCHITECTURE, write_survey
from tests.golden import FOLDER

N = 24
SIDE = 40
TOKEN = "token.txt"


def settings(folder: Path) -> ReleaseJob:
    """The job of the release in a folder."""
    return ReleaseJob.model_validate(
        {
            "catalogue": {"path": str(folder / "survey" / "catalogue.csv")},
            "encoder": {"architecture": TINY_ARCHITECTURE, "weights": str(folder / "weights.safetensors")},
            "plan": {"rows_per_partition": 10, "rows_per_unit": 6},
            "embed": {"batch_size": 4, "workers": 1},
            "reduce": {"n_components": 4},
            "index": {"rows_per_shard": 12},
            "output": str(folder / "release"),
        }
    )


def questions(folder: Path) -> NeighboursJob:
    """The questions whose answer is kept."""
    return NeighboursJob.model_validate(
        {
            "release": str(folder / "release"),
            "queries": {"path": str(folder / "queries.parquet")},
            "k": 5,
            "output": f"{folder / 'answer'}/",
        }
    )


def labels_job(folder: Path) -> FinetuneJob:
    """The model that is kept."""
    return FinetuneJob.model_validate(
        {
            "release": str(folder / "release"),
            "labels": str(folder / "labels.csv"),
            "output": str(folder / "model"),
            "head": "linear",
            "most_epochs": 3,
            "split": {"validation": 0.25, "test": 0.25},
        }
    )


def write_weights(path: Path) -> None:
    """Weights that pack well: seven values, one after the other."""
    network = timm.create_model(TINY_ARCHITECTURE, pretrained=False, in_chans=1)
    tensors = {}
    for name, value in network.state_dict().items():
        numbers = value.numpy()
        if name.endswith("weight") and numbers.ndim > 1:
            values = ((np.arange(numbers.size) % 7) - 3) / np.float32(2 * np.sqrt(numbers[0].size))
            numbers = values.reshape(numbers.shape).astype(np.float32)
        tensors[name] = numbers
    save_file(tensors, path)


def make(folder: Path) -> None:
    """Write everything that is kept, below a folder."""
    write_survey(folder / "survey", N)
    write_weights(folder / "weights.safetensors")
    release.run(settings(folder))
    ids = list(range(1000, 1000 + N))
    pq.write_table(pa.table({"object_id": [ids[0], ids[5], 1]}), folder / "queries.parquet")
    neighbours.run(questions(folder))
    (folder / "labels.csv").write_text("object_id,kind\n" + "".join(f"{one},{'ab'[one % 2]}\n" for one in ids))
    finetune.run(labels_job(folder))
    database = folder / "campaigns.sqlite"
    store = open_campaigns(str(database))
    configured = CampaignConfig(space="search", batch=4)
    made = campaign.create(store, "odd", str(folder / "release"), configured, RayConfig())
    space = campaign.open_space(made)
    for scores in ("5031", "42-0"):
        campaigning.next_batch(store, made, "ann", space)
        campaigning.rate_batch(store, made, "ann", scores)
    campaigning.undo(store, made, "ann")
    store.close()
    tokens = open_tokens(str(database))
    (folder / TOKEN).write_text(tokens.create("ann", ("read", "rate"), "ann"))
    tokens.close()
    with sqlite3.connect(database) as connection:
        (folder / "campaigns.sql").write_text("\n".join(connection.iterdump()) + "\n")
    for path in folder.glob("campaigns.sqlite*"):
        path.unlink()


def keep(folder: Path, target: Path) -> None:
    """Pack a folder: the same bytes for the same files."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        member.mtime = 0
        return member

    with tarfile.open(target, "w:xz", preset=9) as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix != ".tmp" and not path.name.startswith("."):
                tar.add(path, str(path.relative_to(folder)), filter=plain)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="voorwerp-golden-") as name:
        make(Path(name))
        target = FOLDER / f"{version('voorwerp')}.tar.xz"
        keep(Path(name), target)
        print(f"{target}: {target.stat().st_size:,} bytes")
