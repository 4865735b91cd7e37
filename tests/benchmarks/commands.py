"""The commands that are measured, run as a user runs them, and what they wrote, read back."""

import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.storage.artefacts import current_release
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import read_table
from engine.storage.store import Store
from schemas import paths
from schemas.manifest import Release
from schemas.tables import EMBEDDING, OBJECT_ID, QUERY_ID, RANK
from tests.benchmarks.galaxies import Galaxies
from tests.benchmarks.process import Measured, run

VOORWERP = Path(sys.executable).with_name("voorwerp")


class Released(NamedTuple):
    """What `voorwerp release` made of a set."""

    record: Release
    cost: Measured
    vectors: np.ndarray
    """(n, d) float32 in the order of the set; NaN where a cutout was rejected."""


class Searched(NamedTuple):
    """What `voorwerp neighbours` found for every galaxy of a set."""

    rows: np.ndarray
    """(n, k) rows of the set, nearest first."""
    cost: Measured


def release(galaxies: Galaxies, source: str, output: str, preset: str, n_components: int, **embed: int) -> Released:
    """Release a set with the ImageNet weights of EfficientNet-Lite0; `embed` sets keys of that section of the job."""
    command = [VOORWERP, "release", "--catalogue", f"{source}/catalogue.csv", "--output", output]
    command += ["--architecture", "tf_efficientnet_lite0", "--weights", "package:lite0", "--preset", preset]
    # On a GPU the network itself differs by more than a comparison with a loop on CPUs allows.
    command += ["--components", str(n_components), "--set", "embed.device=cpu"]
    for key, value in embed.items():
        command += ["--set", f"embed.{key}={value}"]
    cost = run(command)
    store = Store(output)
    record = current_release(store)
    embeddings = store.below(paths.artefact("embeddings", record.artefacts["embeddings"].id))
    table = read_columns(embeddings, [OBJECT_ID, EMBEDDING])
    values = table[EMBEDDING].combine_chunks().flatten().to_numpy().reshape(len(table), -1)
    vectors = np.full((len(galaxies.ids), values.shape[1]), np.nan, np.float32)
    vectors[galaxies.rows(table[OBJECT_ID].to_pylist())] = values
    return Released(record, cost, vectors)


def search(galaxies: Galaxies, output: str, answer: Path, k: int) -> Searched:
    """Search around every galaxy of a set by id, in one command; `answer` is the Parquet file to write."""
    ids = [part for object_id in galaxies.ids for part in ("--id", object_id)]
    cost = run([VOORWERP, "neighbours", output, "-k", str(k), "-o", answer, *ids])
    table = read_table(Store(str(answer.parent)), answer.name)
    queried, found = (galaxies.rows(table[column].to_pylist()) for column in (QUERY_ID, OBJECT_ID))
    rows = np.full((len(galaxies.ids), k), -1)
    rows[queried, table[RANK].to_numpy() - 1] = found
    return Searched(rows, cost)
