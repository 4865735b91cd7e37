"""The graph of all neighbours: complete, right, and made once."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from engine.cluster import graph as units_of_graph
from engine.cluster.opened import open_release
from engine.storage.store import Store
from jobs import graph
from schemas.config import GraphJob
from schemas.errors import ConfigError
from tests.devices import DEVICES
from tests.jobs.conftest import Generated


@pytest.mark.cluster
def test_every_object_has_the_neighbours_that_comparing_everything_gives(
    generated: Generated, tmp_path: Path, ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    job = GraphJob(release=str(generated.output), k=6, output=f"{tmp_path}/graph/")
    graph.run(job)
    assert "600 planned = 600 answered; 3,600 rows" in capsys.readouterr().err
    found = pq.read_table(tmp_path / "graph" / "parts").to_pandas().sort_values(["object_id", "rank"])
    for object_id, rows in found.groupby("object_id"):
        row = generated.row(object_id)
        expected = generated.nearest(generated.vectors[row], 6, np.arange(600) != row)
        assert list(zip(rows["neighbour_id"], rows["distance"], strict=True)) == expected
    assert found["object_id"].nunique() == 600
    manifest = json.loads((tmp_path / "graph" / "manifest.json").read_text())
    assert manifest["counts"] == {"planned": 600, "answered": 600, "rows": 3600}
    assert {path.name for path in (tmp_path / "graph" / "parts").iterdir()} == {
        Path(file["path"]).name for file in manifest["files"]
    }
    graph.run(job)
    assert "is there already" in capsys.readouterr().err


def test_runs_cover_every_object_once(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units_of_graph, "_OBJECTS_PER_UNIT", (128, 128))
    release = open_release(Store(str(generated.output)))
    records = units_of_graph.runs(release, 10)
    assert len(records) > len(release.shards)
    made = [units_of_graph.neighbours_of_run(release, record, 2, None) for record in records]
    assert [len(one.asked) for one in made] == [units_of_graph.n_objects(release, record) for record in records]
    assert sorted(value for one in made for value in one.asked.to_pylist()) == sorted(generated.ids.tolist())


@pytest.mark.parametrize("device", DEVICES)
def test_rows_are_the_same_where_pytorch_compares_everything(generated: Generated, device: str) -> None:
    release = open_release(Store(str(generated.output)))
    record = units_of_graph.runs(release, 10)[0]
    made, expected = (units_of_graph.neighbours_of_run(release, record, 8, where) for where in (device, None))
    assert made.table.equals(expected.table)


@pytest.mark.fault(23, "a release of one object")
def test_one_object_alone_is_accounted_for(make_release: Callable[..., Generated]) -> None:
    release = open_release(Store(str(make_release(n=1, n_shards=1, kind="flat").output)))
    (record,) = units_of_graph.runs(release, 10)
    made = units_of_graph.neighbours_of_run(release, record, 10, None)
    assert (len(made.table), made.status.to_pylist()) == (0, ["no object qualifies"])


def test_a_file_for_a_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder for a graph"):
        graph.run(GraphJob(release=str(tmp_path), output="graph.parquet"))
