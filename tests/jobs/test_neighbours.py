"""Neighbours of ids, positions and vectors, few and many: right, complete, accounted for, and refused clearly."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from astropy.table import Table

from engine.cluster.bulk import queries_per_unit
from engine.cluster.opened import open_release
from engine.storage.artefacts import current_manifest, current_release
from engine.storage.store import Store
from jobs import neighbours
from schemas import paths
from schemas.config import NeighboursJob
from schemas.errors import ConfigError, DataError, InputNotFoundError, IntegrityError, OutputError
from tests.devices import DEVICES
from tests.jobs.conftest import Generated
from tests.jobs.test_cli import UNREACHABLE_RAY, assert_refused, voorwerp


def ask(generated: Generated, output: Path | str | None = None, **settings: object) -> pa.Table:
    job = NeighboursJob.model_validate({"release": str(generated.output), "output": output and str(output), **settings})
    found = neighbours.run(job)
    return pq.read_table(str(output)) if found is None and str(output).endswith(".parquet") else found


def ask_file(generated: Generated, folder: Path, table: pa.Table, **settings: object) -> pa.Table:
    pq.write_table(table, folder / "queries.parquet")
    return ask(generated, folder / "answer.parquet", queries={"path": str(folder / "queries.parquet")}, **settings)


def rows_of(found: pa.Table, query: int) -> list[tuple[int, float]]:
    rows = [row for row in found.to_pylist() if row["query"] == query and row["status"] == "ok"]
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    return [(row["object_id"], row["distance"]) for row in rows]


def statuses(found: pa.Table) -> dict[int, str]:
    return {row["query"]: row["status"] for row in found.to_pylist()}


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 20 queries be many, so that they are answered in units."""
    monkeypatch.setattr(neighbours, "MOST_IN_PROCESS", 20)


def without(generated: Generated, object_id: int) -> np.ndarray:
    return generated.ids != object_id


def test_ids_give_what_comparing_everything_gives_ties_by_id(generated: Generated) -> None:
    ids = [int(generated.ids[row]) for row in (0, 7, 11, 300)]
    found = ask(generated, ids=[str(object_id) for object_id in ids], k=12)
    for query, object_id in enumerate(ids):
        vector = generated.vectors[generated.row(object_id)]
        assert rows_of(found, query) == generated.nearest(vector, 12, without(generated, object_id))


def test_an_id_that_is_asked_twice_is_answered_twice(generated: Generated, tmp_path: Path) -> None:
    ids = np.repeat(generated.ids[:70], 2)
    found = ask_file(generated, tmp_path, pa.table({"object_id": ids}), k=2)
    assert set(statuses(found).values()) == {"ok"}
    assert rows_of(found, 138) == rows_of(found, 139)


def test_the_query_itself_comes_first_at_distance_0_where_it_is_wanted(generated: Generated) -> None:
    object_id = int(generated.ids[11])
    found = ask(generated, ids=[str(object_id)], k=3, include_self=True)
    assert rows_of(found, 0)[0] == (object_id, 0.0)
    assert rows_of(found, 0)[1:] == generated.nearest(generated.vectors[11], 2, without(generated, object_id))


def test_positions_match_the_nearest_object_within_the_radius_or_say_why_not(
    generated: Generated, tmp_path: Path
) -> None:
    ra_deg = [generated.ra_deg[3], generated.ra_deg[4], np.nan, 400.0, 0.0]
    dec_deg = [generated.dec_deg[3] + 3 / 3600, generated.dec_deg[4] + 30 / 3600, 0.0, 0.0, 89.99]
    table = pa.table({"ra_deg": ra_deg, "dec_deg": dec_deg})
    found = ask_file(generated, tmp_path, table, k=5, match_radius_arcsec=5.0)
    no_match = "no object within the match radius"
    assert statuses(found) == {0: "ok", 1: no_match, 2: "no valid position", 3: "no valid position", 4: "ok"}
    assert rows_of(found, 0) == generated.nearest(generated.vectors[3], 5, np.arange(600) != 3)
    assert found["match_arcsec"][0].as_py() == pytest.approx(3.0, abs=1e-6)
    assert found.filter(pa.compute.equal(found["query"], 4))["query_id"][0].as_py() in generated.ids[20:22]


def test_vectors_are_answered_and_those_that_are_not_finite_say_so(generated: Generated, tmp_path: Path) -> None:
    vectors = generated.vectors[:3] + np.float32(0.25)
    vectors[1, 2] = np.nan
    table = pa.table({"components": pa.array(vectors.tolist(), pa.list_(pa.float32()))})
    found = ask_file(generated, tmp_path, table, k=4)
    assert statuses(found) == {0: "ok", 1: "no finite vector", 2: "ok"}
    assert rows_of(found, 2) == generated.nearest(vectors[2], 4)
    assert found["query_id"].null_count == len(found)


def test_vectors_of_another_dimension_are_refused_with_both(generated: Generated, tmp_path: Path) -> None:
    table = pa.table({"components": [[1.0, 2.0, 3.0]]})
    with pytest.raises(DataError, match=r"vectors of 4 components as in this release, found 3"):
        ask_file(generated, tmp_path, table)


def test_unknown_ids_are_statuses_in_a_file_and_an_error_at_the_terminal(generated: Generated, tmp_path: Path) -> None:
    known = int(generated.ids[5])
    table = pa.table({"object_id": [str(known), "M31", "99", None, str(known)]})
    found = ask_file(generated, tmp_path, table, k=1)
    assert statuses(found) == {0: "ok", 1: "unknown id", 2: "unknown id", 3: "no id", 4: "ok"}
    assert found["query"].to_pylist() == [0, 1, 2, 3, 4]
    with pytest.raises(DataError, match="'99' is not among the 600 objects"):
        ask(generated, ids=["99"])


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".fits", ".vot"])
def test_queries_and_answers_in_every_format(generated: Generated, tmp_path: Path, suffix: str) -> None:
    table = Table({"object_id": generated.ids[:4], "note": ["a", "b", "c", "d"]})
    queries, answer = tmp_path / f"q{suffix}", tmp_path / f"a{suffix}"
    if suffix == ".parquet":
        table.to_pandas().to_parquet(queries)
    else:
        table.write(queries, format={".csv": "ascii.csv", ".vot": "votable"}.get(suffix, "fits"))
    ask(generated, answer, queries={"path": str(queries)}, k=3)
    if suffix == ".parquet":
        found = pd.read_parquet(answer)
    else:
        found = pd.read_csv(answer) if suffix == ".csv" else Table.read(answer).to_pandas()
    expected = [
        near for row in range(4) for near, _ in generated.nearest(generated.vectors[row], 3, np.arange(600) != row)
    ]
    assert found["object_id"].tolist() == expected
    assert found["query_id"].tolist() == np.repeat(generated.ids[:4], 3).tolist()


def test_a_condition_a_cone_and_a_moc_leave_only_objects_that_pass(generated: Generated, tmp_path: Path) -> None:
    object_id = str(generated.ids[0])
    bright = generated.mag_r < 18
    bright[0] = False
    found = ask(generated, ids=[object_id], k=7, filter={"where": "mag_r < 18"})
    assert rows_of(found, 0) == generated.nearest(generated.vectors[0], 7, bright)

    found = ask(generated, ids=[object_id], k=50, filter={"cone": [0.0, 90.0, 3600 * 40], "where": "mag_r < 20"})
    inside = (generated.dec_deg >= 50) & (generated.mag_r < 20)
    inside[0] = False
    assert rows_of(found, 0) == generated.nearest(generated.vectors[0], 50, inside)

    (tmp_path / "north.moc").write_text("0/0-3")
    found = ask(generated, ids=[object_id], k=600, filter={"moc": str(tmp_path / "north.moc")})
    from engine.compute.sky import healpix_29

    covered = healpix_29(generated.ra_deg, generated.dec_deg) >> 58 < 4
    covered[0] = False
    assert rows_of(found, 0) == generated.nearest(generated.vectors[0], 600, covered)


def test_a_condition_on_columns_that_are_not_there_is_refused_before_any_work(
    generated: Generated, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"expected a column 'mag_g'.*did you mean 'mag_r'"):
        ask(generated, ids=["1"], filter={"where": "mag_g < 3"})
    with pytest.raises(InputNotFoundError):
        ask(generated, ids=["1"], filter={"moc": str(tmp_path / "none.moc")})


def test_a_query_for_which_no_object_qualifies_says_so(generated: Generated, tmp_path: Path) -> None:
    table = pa.table({"object_id": generated.ids[:2]})
    found = ask_file(generated, tmp_path, table, filter={"where": "mag_r < 1"})
    assert statuses(found) == {0: "no object qualifies", 1: "no object qualifies"}


def test_what_lies_within_the_exclusion_radius_is_left_out(generated: Generated) -> None:
    row = 20
    apart = np.ones(600, bool)
    apart[20:22] = False
    found = ask(generated, ids=[str(generated.ids[row])], k=599, exclusion_radius_arcsec=1.0)
    assert rows_of(found, 0) == generated.nearest(generated.vectors[row], 599, apart)


def test_an_exclusion_radius_around_vectors_is_refused(generated: Generated, tmp_path: Path) -> None:
    table = pa.table({"components": generated.vectors[:1].tolist()})
    with pytest.raises(ConfigError, match="vectors have no place on the sky"):
        ask_file(generated, tmp_path, table, exclusion_radius_arcsec=5.0)


def test_more_neighbours_than_objects_give_all_of_them_with_a_warning(
    generated: Generated, capsys: pytest.CaptureFixture[str]
) -> None:
    found = ask(generated, ids=[str(generated.ids[0])], k=1000)
    assert len(found) == 599
    assert "1 queries have fewer than 1000 neighbours" in capsys.readouterr().err


def test_a_release_of_one_object_has_no_neighbours_for_it(make_release: Callable[..., Generated]) -> None:
    one = make_release(n=1, n_shards=2, kind="flat")
    assert statuses(ask(one, ids=["5000"])) == {0: "no object qualifies"}
    assert rows_of(ask(one, ids=["5000"], include_self=True), 0) == [(5000, 0.0)]


def test_an_earlier_release_of_the_output_can_be_asked(make_release: Callable[..., Generated]) -> None:
    from tests.generated import write_release

    made = make_release()
    first = current_release(Store(str(made.output)))
    objects = {"object_id": made.ids, "ra_deg": made.ra_deg, "dec_deg": made.dec_deg}
    write_release(made.output, objects, made.vectors[:, :2], n_shards=1)
    then, now = (ask(made, ids=[str(made.ids[0])], k=4, as_of=release_id) for release_id in (first.id, None))
    assert rows_of(then, 0) == made.nearest(made.vectors[0], 4, np.arange(600) != 0)
    assert rows_of(now, 0) != rows_of(then, 0)
    with pytest.raises(InputNotFoundError, match=rf"one of its releases \(.*{first.id}.*found 'dr9'"):
        ask(made, ids=["1"], as_of="dr9")
    record = made.output / paths.release(first.id)
    record.write_text(record.read_text().replace(first.artefacts["index"].id, "0" * 16))
    with pytest.raises(IntegrityError, match="found an edited one"):
        ask(made, ids=["1"], as_of=first.id)


def test_an_index_made_from_other_components_is_refused(make_release: Callable[..., Generated]) -> None:
    made = make_release()
    store = Store(str(made.output))
    components = current_manifest(store, "components")
    path = made.output / paths.manifest("components", components.id)
    path.write_text(path.read_text().replace('"created_utc": "2', '"created_utc": "3'))
    with pytest.raises(IntegrityError, match="was made from another"):
        ask(made, ids=["1"])


def test_an_output_of_unknown_kind_is_refused_before_anything_is_opened(tmp_path: Path) -> None:
    job = NeighboursJob(release=str(tmp_path / "nothing"), ids=("1",), output=str(tmp_path / "a.txt"))
    with pytest.raises(ConfigError, match="expected a name ending in"):
        neighbours.run(job)
    with pytest.raises(ConfigError, match="expected --output for the answers"):
        neighbours.run(NeighboursJob.model_validate({"release": "x", "queries": {"path": "q.csv"}}))


def test_a_file_without_queries_is_refused(generated: Generated, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one query, found an empty file"):
        ask_file(generated, tmp_path, pa.table({"object_id": pa.array([], pa.int64())}))


def test_a_gpu_where_there_is_none_is_refused(generated: Generated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="expected a GPU for 'cuda', found none"):
        ask(generated, ids=[str(generated.ids[0])], device="cuda")


@pytest.mark.parametrize("device", DEVICES)
def test_comparing_everything_with_pytorch_gives_the_same_bits(generated: Generated, device: str) -> None:
    from engine.cluster.answer import Question
    from engine.cluster.bulk import Asked, answer_asked

    release = open_release(Store(str(generated.output)))
    places = release.find(pa.array(generated.ids[:40]))
    tables = []
    for where in (device, None):
        made = answer_asked(release, Asked(np.arange(40), places), Question(9, 30.0, device=where))
        tables.append(made.table.drop_columns(["unseen_distance"]))
    assert tables[0].equals(tables[1])


def test_approximate_answers_say_what_they_are(generated: Generated, capsys: pytest.CaptureFixture[str]) -> None:
    found = ask(generated, ids=[str(generated.ids[0])], k=5, approximate=0.5)
    assert set(found["exactness"].to_pylist()) == {"approximate"}
    assert "of held-out queries' neighbours" in capsys.readouterr().err


def test_a_folder_of_few_queries_holds_parts_and_a_manifest_that_counts(
    generated: Generated, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"object_id": [int(generated.ids[0]), 1, int(generated.ids[2])]}), tmp_path / "q.parquet")
    queries, output = {"path": str(tmp_path / "q.parquet")}, f"{tmp_path}/answers/"
    ask(generated, output, queries=queries, k=3)
    import json

    manifest = json.loads((tmp_path / "answers" / "manifest.json").read_text())
    assert manifest["counts"] == {"planned": 3, "answered": 2, "unknown id": 1, "rows": 7}
    found = pq.read_table(tmp_path / "answers" / "parts")
    assert sorted(found["query"].to_pylist()) == [0, 0, 0, 1, 2, 2, 2]
    assert not (tmp_path / "answers.work").exists()
    ask(generated, output, queries=queries, k=3)
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(OutputError, match=r"already holds the answer to another question.*different: k"):
        ask(generated, output, queries=queries, k=4)


def test_a_folder_that_holds_anything_else_is_no_place_for_an_answer(generated: Generated, tmp_path: Path) -> None:
    pq.write_table(pa.table({"object_id": generated.ids[:3]}), tmp_path / "q.parquet")
    with pytest.raises(OutputError, match=r"expected a new folder for the answer, found components"):
        ask(generated, generated.output, queries={"path": str(tmp_path / "q.parquet")})


def test_units_are_many_enough_to_share_and_small_enough_to_hold() -> None:
    assert queries_per_unit(100_000, 16) == 1563
    assert queries_per_unit(10**8, 16) == 4096
    assert queries_per_unit(2_001, 1000) == 128
    assert queries_per_unit(10**6, 1000) == 500


@pytest.mark.cluster
def test_many_queries_over_ray_give_the_answers_of_few_and_resume_where_they_stopped(
    generated: Generated,
    tmp_path: Path,
    many: None,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from engine.cluster import bulk
    from jobs import units

    monkeypatch.setattr(bulk, "_QUERIES_PER_UNIT", (4, 40))
    random = np.random.default_rng(1)
    at = random.integers(0, 600, 300)
    ra_deg, dec_deg = generated.ra_deg[at].copy(), generated.dec_deg[at]
    ra_deg[::50] = np.nan
    pq.write_table(pa.table({"ra_deg": ra_deg, "dec_deg": dec_deg}), tmp_path / "q.parquet")
    settings = {"queries": {"path": str(tmp_path / "q.parquet")}, "k": 6, "filter": {"where": "mag_r < 21"}}

    run_units, n_done = units.run_units, 0

    def dying(records, task, make, resources):  # type: ignore[no-untyped-def]
        nonlocal n_done
        for commit in run_units(records, task, make, resources):
            yield commit
            n_done += 1
            if n_done == 3:
                raise KeyboardInterrupt

    monkeypatch.setattr(units, "run_units", dying)
    with pytest.raises(KeyboardInterrupt):
        ask(generated, tmp_path / "a.parquet", **settings)
    assert not (tmp_path / "a.parquet").exists()
    n_done = 2
    with pytest.raises(KeyboardInterrupt):  # Another question does not meet that work.
        ask(generated, tmp_path / "a.parquet", **{**settings, "k": 7})
    monkeypatch.setattr(units, "run_units", run_units)
    capsys.readouterr()
    found = ask(generated, tmp_path / "a.parquet", **settings)
    said = capsys.readouterr().err
    assert "units already done" in said
    assert "300 planned = 294 answered + 6 no valid position" in said
    assert not (tmp_path / "a.parquet.work").exists()
    assert (np.diff(found["query"].to_numpy()) >= 0).all()

    monkeypatch.setattr(neighbours, "MOST_IN_PROCESS", 2_000)
    few = ask(generated, tmp_path / "few.parquet", **settings)
    if few is None:
        few = pq.read_table(tmp_path / "few.parquet")
    assert found.to_pylist() == few.to_pylist()


@pytest.mark.fault(3, "SIGKILL to a search of many queries")
@pytest.mark.cluster
def test_a_killed_search_resumes_by_the_same_command(generated: Generated, tmp_path: Path) -> None:
    at = np.random.default_rng(1).integers(0, 600, 60_000)
    pd.DataFrame({"object_id": generated.ids[at]}).to_parquet(tmp_path / "q.parquet")
    arguments = [generated.output, "--queries", tmp_path / "q.parquet", "-k", "50", "-o", f"{tmp_path}/a/"]
    command = [sys.executable, "-c", "from jobs.cli import main; main()", "neighbours", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "a.work").glob("work/*/commits/*.json"))) < 2:
        assert process.poll() is None, "the search ended before it could be killed"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(60)
    assert not (tmp_path / "a" / "manifest.json").exists()
    result = voorwerp("neighbours", *arguments)
    assert result.returncode == 0, result.stderr
    assert "units already done" in result.stderr
    assert "60,000 planned = 60,000 answered; 3,000,000 rows" in result.stderr
    parts = pq.read_table(tmp_path / "a" / "parts", columns=["query", "rank"])
    assert len(parts) == 3_000_000
    assert np.bincount(parts["query"].to_numpy()).tolist() == [50] * 60_000


def test_the_command_line_refuses_what_cannot_be_meant(generated: Generated, tmp_path: Path) -> None:
    release = generated.output
    assert_refused(voorwerp("neighbours", release, "--id", "5000", "--cone", "3 4"), 2, 'expected "RA DEC RADIUS"')
    assert_refused(
        voorwerp("neighbours", release, "--id", "5000", "--cone", "3 99 4"), 2, "filter.cone: expected RA in"
    )
    assert_refused(
        voorwerp("neighbours", release, "--id", "5000", "--device", "tpu"), 2, "device: expected 'auto', 'cpu'"
    )
    assert_refused(voorwerp("neighbours", release, "--id", "1", "-o", "a.txt", **UNREACHABLE_RAY), 2, "name ending in")
    (tmp_path / "q.csv").write_text("object_id\n5000\n")
    queries = ("--queries", tmp_path / "q.csv")
    assert_refused(voorwerp("neighbours", release, *queries, "--id", "5000"), 2, "found both")
    assert_refused(voorwerp("neighbours", release, *queries, "--ra-column", "ra", "-o", "a.csv"), 2, "both or neither")
    assert_refused(voorwerp("neighbours", release, "--id", "5000", "-k", "1001"), 2, "k: expected less than or equal")
