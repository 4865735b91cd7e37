"""Made-up components: clusters of many sizes, with variances that fall as those of principal components do."""

from typing import NamedTuple

import numpy as np

DIMENSION = 10


class Shape(NamedTuple):
    """How vectors are spread."""

    n_clusters: int
    separation: float
    """Spread of the centres of clusters over that of their members, at their widest."""
    fall: float
    """The spread of component i falls as i to minus this."""


CLUSTERED = Shape(300, 2.0, 0.5)
"""As catalogues with distinct populations are."""
REAL_LIKE = Shape(50, 1.0, 0.55)
"""Nearly one cloud, and harder: chosen so that exact search compares as large a share of 3,331 of them as of the SDSS
galaxies of the real sets, 0.9."""


def made_up(n: int, n_queries: int, shape: Shape = CLUSTERED, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draw n vectors and, from the same distribution, queries that are none of them: (n, 10) and (q, 10) float32.

    Clusters have very different numbers of members (Dirichlet, 0.5) and widths (0.3 to 1).
    """
    random = np.random.default_rng(seed)
    spread = np.arange(1, DIMENSION + 1) ** -shape.fall
    centres = shape.separation * spread * random.normal(size=(shape.n_clusters, DIMENSION))
    sizes = random.dirichlet(np.full(shape.n_clusters, 0.5))
    widths = random.uniform(0.3, 1.0, shape.n_clusters).astype(np.float32)
    cluster = random.choice(shape.n_clusters, n + n_queries, p=sizes)
    noise = random.standard_normal((n + n_queries, DIMENSION), np.float32) * spread.astype(np.float32)
    vectors = (centres[cluster] + widths[cluster, np.newaxis] * noise).astype(np.float32)
    return vectors[:n], vectors[n:]
