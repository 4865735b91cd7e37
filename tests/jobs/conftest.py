"""A small release made of vectors, and the plainest way to answer a question about it."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from tests.generated import clustered, positions, write_release

N = 600


class Generated(NamedTuple):
    output: Path
    ids: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    mag_r: np.ndarray
    vectors: np.ndarray

    def row(self, object_id: int) -> int:
        return int(np.flatnonzero(self.ids == object_id)[0])

    def nearest(self, query: np.ndarray, k: int, allowed: np.ndarray | None = None) -> list[tuple[int, float]]:
        """Compare everything, component by component, and sort by distance and id."""
        total = np.zeros(len(self.ids), np.float32)
        for j in range(self.vectors.shape[1]):
            total += np.abs(self.vectors[:, j] - query[j])
        kept = np.flatnonzero(np.ones(len(total), bool) if allowed is None else allowed)
        order = kept[np.lexsort((self.ids[kept], total[kept]))][:k]
        return [(int(self.ids[row]), float(total[row])) for row in order]


def command(*arguments: str | Path) -> str:
    """Run `voorwerp`; raise what it raises."""
    result = CliRunner().invoke(app, [str(part) for part in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def make(output: Path, n: int = N, seed: int = 3, n_shards: int = 3, **settings: object) -> Generated:
    random = np.random.default_rng(seed)
    ids = random.permutation(n).astype(np.int64) + 5000
    ra_deg, dec_deg = positions(n, seed)
    mag_r, vectors = random.uniform(14, 22, n), clustered(n, 4, seed)
    if n >= N:
        vectors[7] = vectors[11] = vectors[13]
        ra_deg[20:22], dec_deg[20:22] = [359.9999, 0.0001], [89.99, 89.99]
    objects = {
        "object_id": pa.array(ids),
        "ra_deg": ra_deg,
        "dec_deg": dec_deg,
        "cutout": [f"/cutouts/{object_id}.jpg" for object_id in ids],
        "mag_r": mag_r,
    }
    write_release(output, objects, vectors, n_shards=n_shards, **settings)
    return Generated(output, ids, ra_deg, dec_deg, mag_r, vectors)


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Generated:
    """A release of 600 objects, three of one vector, two close to each other across RA = 0; not to be changed."""
    return make(tmp_path_factory.mktemp("generated"))


@pytest.fixture
def make_release(tmp_path: Path) -> Callable[..., Generated]:
    """Make a release of one's own."""
    return lambda **settings: make(tmp_path / "own", **settings)
