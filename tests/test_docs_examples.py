"""The examples of the documentation run, and find what is there."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.generated import positions, write_release

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
N, N_ALIKE, N_HOSTS = 400, 40, 12


def test_galaxies_like_the_hosts_of_xray_sources_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    random = np.random.default_rng(1)
    ra, dec = positions(N, seed=2)
    vectors = random.normal(0, 1, (N, 5)).astype(np.float32)
    vectors[:N_ALIKE] += 30
    write_release(tmp_path / "release", {"object_id": 100 + np.arange(N), "ra_deg": ra, "dec_deg": dec}, vectors)
    sources = pd.DataFrame(
        {
            "source_id": [f"X{number}" for number in range(N_HOSTS + 3)],
            "ra": [*ra[:N_HOSTS], *ra[50:53]],
            "dec": [*(dec[:N_HOSTS] + 1.5 / 3600), *(dec[50:53] + 6 / 3600)],  # The last three are too far away.
            "error_arcsec": 3.0,
        }
    )
    sources.to_csv(tmp_path / "sources.csv", index=False)
    main = runpy.run_path(str(EXAMPLES / "xray_neighbours.py"))["main"]
    found = main(str(tmp_path / "release"), str(tmp_path / "sources.csv"), str(tmp_path / "xray"))
    assert "12 of 15 sources have a host; 0 would by chance" in capsys.readouterr().out
    hosts = pd.read_csv(tmp_path / "xray" / "hosts.csv").sort_values("object_id")
    assert hosts["object_id"].tolist() == list(range(100, 100 + N_HOSTS))
    assert hosts["_dist_arcsec"].to_numpy() == pytest.approx(1.5, abs=1e-3)
    first = found.head(N_ALIKE - N_HOSTS)
    assert set(first.index) == set(range(100 + N_HOSTS, 100 + N_ALIKE))
    assert (first["n_hosts"] == N_HOSTS).all()
