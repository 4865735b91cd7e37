"""Do neighbours in few components agree with those in all dimensions? Real galaxies, embedded by a release."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from engine.compute import boxes
from engine.compute.pca import moments, project, solve
from tests.benchmarks.commands import release
from tests.benchmarks.galaxies import read_galaxies
from tests.benchmarks.table import Table

SETS = {"sdss_gz1": "gz1_class", "decals_rings": "ring"}
PRESET = "imagenet-half-zoom"
NUMBERS = (5, 10, 15, 40)
K = (10, 50)


def measure(work: Path, say: Callable[[str], None]) -> list[Table]:
    """Embed every set, and compare the neighbours of all its galaxies."""
    rows = []
    for name, column in SETS.items():
        say(f"voorwerp release, {name}")
        galaxies = read_galaxies(name, column, {})
        vectors = release(galaxies, str(galaxies.folder), str(work / name), PRESET, 10).vectors
        vectors = vectors[np.isfinite(vectors).all(axis=1)]
        whole = {k: _neighbours(vectors, k)[0] for k in K}
        state = moments(vectors)
        for d in NUMBERS:
            pca = solve(state, d)
            components = project(vectors, pca)
            found = {k: _neighbours(components, k) for k in K}
            shares = [f"{_overlap(found[k][0], whole[k]):.3f}" for k in K]
            explained = pca.explained_variance_ratio.sum()
            rows.append([name, f"{len(vectors):,}", str(d), f"{explained:.1%}", *shares, f"{found[K[-1]][1]:.1%}"])
    return [
        Table(
            "Neighbours in d components against those in all 1,280 dimensions, L1",
            ("set", "galaxies", "d", "variance", *(f"overlap, k = {k}" for k in K), f"compared, k = {K[-1]}"),
            rows,
            "Mean share of a galaxy's k nearest in 1,280 dimensions that are among its k nearest in d. "
            "EfficientNet-Lite0, ImageNet weights, not trained on galaxies. Last column: objects that exact search "
            "compared.",
        )
    ]


def _neighbours(vectors: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Rows of the k nearest others of each, and the share of objects that were compared."""
    made = boxes.build(np.ascontiguousarray(vectors))
    found = boxes.search(made, vectors, k, left_out=np.arange(len(vectors)))
    return found.rows, float(found.n_compared.mean() / len(vectors))


def _overlap(rows: np.ndarray, others: np.ndarray) -> float:
    return float(np.mean([np.isin(row, other).mean() for row, other in zip(rows, others, strict=True)]))
