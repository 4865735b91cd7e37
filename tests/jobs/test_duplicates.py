"""Near-duplicates: every pair that comparing all pairs finds, once, with both measures and its criterion."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from engine.cluster import duplicates as units_of_duplicates
from engine.cluster.duplicates import Limits, close_in_space, close_on_sky, units_of, usual_distance
from engine.cluster.graph import runs
from engine.cluster.opened import open_release
from engine.compute.sky import separation_arcsec
from engine.storage.store import Store
from jobs import duplicates
from schemas.config import DuplicatesJob
from schemas.errors import ConfigError
from tests.devices import DEVICES
from tests.jobs.conftest import Generated


def every_pair(generated: Generated, limits: Limits) -> dict[tuple[int, int], tuple[float, float, str]]:
    order = np.argsort(generated.ids)
    found = {}
    for place, row in enumerate(order):
        others = order[place + 1 :]
        total = np.zeros(len(others), np.float32)
        for j in range(generated.vectors.shape[1]):
            total += np.abs(generated.vectors[row, j] - generated.vectors[others, j])
        apart = separation_arcsec(
            generated.ra_deg[row], generated.dec_deg[row], generated.ra_deg[others], generated.dec_deg[others]
        )
        close, near = total <= np.float32(limits.distance), apart <= limits.radius_arcsec
        for at in np.flatnonzero(close | near):
            criterion = "both" if close[at] and near[at] else "distance" if close[at] else "sky"
            pair = int(generated.ids[row]), int(generated.ids[others[at]])
            found[pair] = (float(total[at]), float(apart[at]), criterion)
    return found


def as_pairs(table: pd.DataFrame) -> dict[tuple[int, int], tuple[float, float, str]]:
    pairs = {
        (row.object_id, row.other_id): (row.distance, row.separation_arcsec, row.criterion)
        for row in table.itertuples()
    }
    assert len(pairs) == len(table)
    return pairs


def in_process(generated: Generated, limits: Limits, device: str | None = None) -> pd.DataFrame:
    release = open_release(Store(str(generated.output)))
    made = [close_in_space(release, record, limits, device) for record in runs(release, 32)]
    made += [close_on_sky(release, record, limits) for record in units_of(release)]
    return pd.concat([one.table.to_pandas() for one in made])


@pytest.mark.parametrize("limits", [Limits(1.5, 20_000.0), Limits(0.0, 0.0), Limits(4.0, 100.0)])
def test_pairs_are_those_of_comparing_all_pairs(generated: Generated, limits: Limits) -> None:
    found, expected = as_pairs(in_process(generated, limits)), every_pair(generated, limits)
    assert found == expected
    same = sorted(int(generated.ids[row]) for row in (7, 11, 13))
    assert {(same[0], same[1]), (same[0], same[2]), (same[1], same[2])} <= found.keys()


@pytest.mark.parametrize("device", DEVICES)
def test_pairs_are_the_same_where_pytorch_compares_everything(generated: Generated, device: str) -> None:
    limits = Limits(1.5, 20_000.0)
    assert as_pairs(in_process(generated, limits, device)) == as_pairs(in_process(generated, limits))


def test_pairs_at_exactly_the_distance_are_in_and_those_a_float_farther_are_not(generated: Generated) -> None:
    (pair, measures) = min(every_pair(generated, Limits(2.0, 0.0)).items(), key=lambda item: -item[1][0])
    below = float(np.nextafter(np.float32(measures[0]), np.float32(0)))
    assert pair in as_pairs(in_process(generated, Limits(measures[0], 0.0)))
    assert pair not in as_pairs(in_process(generated, Limits(below, 0.0)))


def test_pairs_across_ra_0_and_over_the_pole_are_found(make_release: Callable[..., Generated]) -> None:
    made = make_release()
    row = np.flatnonzero(np.isin(np.arange(600), [20, 21]))
    found = as_pairs(in_process(made, Limits(0.0, 1.0)))
    assert tuple(sorted(int(value) for value in made.ids[row])) in found


def test_objects_with_more_than_the_cap_within_the_distance_lose_none(
    generated: Generated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units_of_duplicates, "CAP", 2)
    monkeypatch.setattr(units_of_duplicates, "_GROWTH", 3)
    monkeypatch.setattr(units_of_duplicates, "_ANSWERS_AT_ONCE", 100)
    limits = Limits(4.0, 0.0)
    release = open_release(Store(str(generated.output)))
    made = [close_in_space(release, record, limits, None) for record in runs(release, 32)]
    assert as_pairs(pd.concat([one.table.to_pandas() for one in made])) == every_pair(generated, limits)
    assert sum(one.counts["beyond_cap"] for one in made) > 0


def test_the_default_distance_is_a_tenth_of_the_usual_one_and_0_for_one_object(
    generated: Generated, make_release: Callable[..., Generated]
) -> None:
    release = open_release(Store(str(generated.output)))
    nearest = [generated.nearest(vector, 2)[1][1] for vector in release.held_out]
    assert usual_distance(release) == pytest.approx(np.median(nearest))
    one = open_release(Store(str(make_release(n=1, n_shards=1, kind="flat").output)))
    assert usual_distance(one) == 0.0


@pytest.mark.cluster
def test_the_report_is_written_with_a_summary(
    generated: Generated, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "duplicates.csv"
    job = DuplicatesJob(release=str(generated.output), distance=1.0, radius_arcsec=5000.0, output=str(output))
    counts = duplicates.run(job)
    expected = every_pair(generated, Limits(1.0, 5000.0))
    assert as_pairs(pd.read_csv(output)).keys() == expected.keys()
    assert counts["rows"] == len(expected)
    assert f"{len(expected)} pairs in {output}" in capsys.readouterr().err
    assert not (tmp_path / "duplicates.csv.work").exists()


def test_an_output_of_unknown_kind_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a name ending in"):
        duplicates.run(DuplicatesJob(release=str(tmp_path / "nothing"), output="pairs.txt"))
