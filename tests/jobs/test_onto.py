"""One release onto another: what differs is embedded, the rest is taken over, and the result is as from scratch."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from PIL import Image

from engine.storage.artefacts import all_releases, current_manifest, current_release
from engine.storage.hats_catalogue import read_columns
from engine.storage.parquet import as_matrix
from engine.storage.reports import read_report
from engine.storage.store import Store
from jobs import diff, release, report_card, verify, watch
from jobs.status import status_of
from schemas import paths
from schemas.config import OntoConfig, ReleaseJob
from schemas.diff import DiffJob
from schemas.errors import DataError, InputNotFoundError, OutputError
from schemas.manifest import Manifest
from schemas.report import Report, ReportJob
from tests.conftest import galaxy_pixels, make_job, write_survey

pytestmark = pytest.mark.cluster

N = 60
ADDED, CHANGED, MOVED, DROPPED, MENDED = (2000, 2001), (1003,), (1010,), (1020, 1021), 1007
N_CARRIED = N - len(CHANGED) - len(DROPPED) - 1


def vectors_of(output: Path, kind: str = "embeddings", column: str = "embedding") -> dict[Any, np.ndarray]:
    manifest = current_manifest(Store(str(output)), kind)  # type: ignore[arg-type]
    table = read_columns(Store(str(output)).below(paths.artefact(manifest.kind, manifest.id)), ["object_id", column])
    return dict(zip(table["object_id"].to_pylist(), as_matrix(table[column]), strict=True))


def next_catalogue(folder: Path, dr1: Path, change: Callable[[pa.Table], pa.Table] | None = None) -> Path:
    """The second data release: two galaxies are new, one has another cutout, one moved, two are gone."""
    table = pacsv.read_csv(dr1)
    cutouts = dr1.parent / "cutouts"
    for number, name in enumerate(["900.jpg", "901.jpg", "903.jpg"]):
        Image.fromarray(galaxy_pixels(900 + number)).save(cutouts / name, quality=95)
    rows = table.to_pylist()
    kept = [row for row in rows if row["object_id"] not in DROPPED]
    for row in kept:
        if row["object_id"] in CHANGED:
            row["cutout"] = "cutouts/903.jpg"
        if row["object_id"] in MOVED:
            row["dec_deg"] += 1e-4
    new = [
        rows[0] | {"object_id": one, "ra_deg": 10.0 + one % 7, "cutout": f"cutouts/{900 + at}.jpg"}
        for at, one in enumerate(ADDED)
    ]
    made = pa.Table.from_pylist([*new, *kept], table.schema)
    path = folder / "dr2.csv"
    pacsv.write_csv(change(made) if change else made, path)
    return path


class Story(NamedTuple):
    """A first release, and the catalogue of the second. Copy the output before anything is released onto it."""

    survey: Path
    output: Path
    second: Path
    scratch: Path
    """Output of the second release made from scratch."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path, ray_session: None) -> Story:
    """60 galaxies, of which one could not be read at first."""
    folder = tmp_path_factory.mktemp("dr1")
    catalogue = write_survey(folder, N)
    cutout = folder / "cutouts" / f"{MENDED - 1000}.jpg"
    whole, times = cutout.read_bytes(), (10**18, 10**18)
    cutout.write_bytes(b"x" * len(whole))
    os.utime(cutout, ns=times)
    release.run(make_job(catalogue, folder / "out", tiny_weights))
    cutout.write_bytes(whole)
    os.utime(cutout, ns=times)
    second = next_catalogue(folder, catalogue)
    made = Story(folder, folder / "out", second, folder / "scratch")
    release.run(dr2_job(made, tiny_weights, made.scratch))
    return made


def dr2_job(story: Story, weights: Path, output: Path, **sections: Any) -> ReleaseJob:
    return make_job(story.second, output, weights, **sections)


def changes_of(output: Path) -> tuple[Manifest, dict[str, set[int]]]:
    (path,) = (output / "changes").glob("*/manifest.json")
    manifest = Manifest.model_validate_json(path.read_bytes())
    found: dict[str, set[int]] = {}
    for row in pq.read_table(path.parent / paths.CHANGES).to_pylist():
        found.setdefault(row["change"], set()).add(row["object_id"])
    return manifest, found


def check_second_release(story: Story, output: Path) -> None:
    manifest, found = changes_of(output)
    assert found == {"added": set(ADDED), "changed": set(CHANGED), "moved": set(MOVED), "dropped": set(DROPPED)}
    assert manifest.counts["carried"] == N_CARRIED
    embeddings = current_manifest(Store(str(output)), "embeddings")
    assert embeddings.counts["planned"] == embeddings.counts["embedded"] == N + len(ADDED) - len(DROPPED)
    before, after, expected = (vectors_of(place) for place in (story.output, output, story.scratch))
    assert all((after[one] == before[one]).all() for one in set(before) - set(CHANGED) - set(DROPPED))
    assert set(after) == set(expected)
    for one, vector in expected.items():
        assert np.abs(after[one] - vector).max() <= 1e-5 * np.abs(vector).max()
    assert verify.run(str(output))


def test_a_second_release_in_the_same_output_keeps_the_basis(story: Story, tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(story.output, out)
    first = current_release(Store(str(out)))
    job = dr2_job(story, tiny_weights, out, onto={"release": str(out)})
    release.run(job)
    check_second_release(story, out)
    drift = current_manifest(Store(str(out)), "components").detail["drift"]
    assert drift["variance_kept"] <= drift["variance_refit"] + 1e-9
    assert 0 <= drift["neighbours_kept"] <= 1
    before, after = (vectors_of(place, "components", "components") for place in (story.output, out))
    largest = max(np.abs(vector).max() for vector in before.values())
    for one in set(before) - set(CHANGED) - set(DROPPED):
        assert np.abs(before[one] - after[one]).max() <= 1e-5 * largest
    second = current_release(Store(str(out)))
    assert {one.id for one in all_releases(Store(str(out)))} == {first.id, second.id}
    release.run(job)
    assert current_release(Store(str(out))) == second

    found = diff.run(DiffJob(release=str(out), k=3, output=str(tmp_path / "diff")))
    assert (found.previous, found.release, found.same_basis) == (first.id, second.id, True)
    assert found.counts == {"added": 2, "changed": 1, "moved": 1, "dropped": 2, "same": N - 4}
    assert found.neighbours is not None
    assert found.neighbours.n_asked == N - len(DROPPED) - 1  # One was not embedded before.
    near = pq.read_table(tmp_path / "diff" / diff.NEIGHBOURS).to_pylist()
    assert all(row["n_shared"] + len(row["gained"]) == 3 for row in near)
    assert any(set(row["gained"]) & {*ADDED, MENDED, *CHANGED} for row in near)
    (listed,) = (out / "changes").glob(f"*/{paths.CHANGES}")
    listed.write_bytes(listed.read_bytes()[:-1])
    assert not verify.run(str(out))
    status = status_of(Store(str(out)))
    assert (status.lease, status.units) == (None, [])
    assert [(one.id, one.is_current) for one in status.releases] == [(second.id, True), (first.id, False)]


def reported_on(output: Path) -> Report:
    return read_report(Store(str(output)), report_card.run(ReportJob(release=str(output)))).report


def test_a_second_release_elsewhere_fits_its_own_basis_and_needs_the_first_no_more(
    story: Story, tiny_weights: Path, tmp_path: Path
) -> None:
    out, dr2 = tmp_path / "out", tmp_path / "dr2"
    shutil.copytree(story.output, out)
    release.run(dr2_job(story, tiny_weights, dr2, onto={"release": str(out), "basis": "refit"}))
    first = current_release(Store(str(out))).id
    reported = reported_on(dr2)
    assert reported.comparison
    assert reported.comparison.release == first
    assert reported.accounting.before == first
    assert reported.accounting.n_carried == current_manifest(Store(str(dr2)), "embeddings").counts["carried"] > 0
    shutil.rmtree(out)
    alone = reported_on(dr2)
    assert (alone.comparison, alone.accounting) == (None, reported.accounting)
    check_second_release(story, dr2)
    mine, theirs = (vectors_of(place, "components", "components") for place in (dr2, story.scratch))
    largest = max(np.abs(vector).max() for vector in theirs.values())
    assert max(np.abs(mine[one] - theirs[one]).max() for one in theirs) <= 1e-4 * largest


def test_the_same_catalogue_again_is_taken_over_by_links(story: Story, tiny_weights: Path, tmp_path: Path) -> None:
    job = dr2_job(story, tiny_weights, tmp_path / "dr2", onto={"release": str(story.scratch)})
    release.run(job)
    for kind in ("embeddings", "index"):
        one, two = (current_manifest(Store(str(place)), kind) for place in (story.scratch, tmp_path / "dr2"))  # type: ignore[arg-type]
        names = {file.path for file in one.files if file.path.startswith(("dataset/Norder", "shard", "boxes"))}
        folders = story.scratch / paths.artefact(kind, one.id), tmp_path / "dr2" / paths.artefact(kind, two.id)  # type: ignore[arg-type]
        assert names
        assert all((folders[0] / path).stat().st_ino == (folders[1] / path).stat().st_ino for path in names)
    assert verify.run(str(tmp_path / "dr2"))


def refused(job: ReleaseJob, error: type[Exception], message: str) -> None:
    assert job.onto
    before = current_release(Store(job.onto.release))
    with pytest.raises(error, match=message):
        release.run(job)
    assert current_release(Store(job.onto.release)) == before
    assert not (Path(job.output) / "current.json").exists()


def test_what_cannot_follow_is_refused_and_harms_nothing(story: Story, tiny_weights: Path, tmp_path: Path) -> None:
    def job(name: str, change: Callable[[pa.Table], pa.Table] | None = None, **sections: Any) -> ReleaseJob:
        (tmp_path / name).mkdir()
        path = next_catalogue(tmp_path / name, story.survey / "catalogue.csv", change)
        settings = {"catalogue": {"cutout_root": str(story.survey)}, "onto": {"release": str(story.output)}}
        return make_job(path, tmp_path / name / "out", tiny_weights, **(settings | sections))

    def replaced(column: str, function: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
        def change(table: pa.Table) -> pa.Table:
            values = pa.array([function(value) for value in table[column].to_pylist()])
            return table.set_column(table.column_names.index(column), column, values)

        return change

    views = job("views", embed={"views": 2})
    refused(views, OutputError, r"views: the release before has 1, this job asks for 2")
    text = job("text", replaced("object_id", lambda one: f"J{one}"))
    refused(text, DataError, "expected ids of the type that the release before has, int64, found string")
    away = job("away", replaced("dec_deg", lambda one: -one))
    refused(away, DataError, r"found \d+ further away: \d+ by")
    refused(job("part", lambda table: table.slice(0, 10)), DataError, "another survey's catalogue, or a part of it")
    unknown = job("unknown", onto={"release": str(story.output), "as_of": "0123456789abcdef"})
    refused(unknown, InputNotFoundError, "expected one of its releases")
    broken = tmp_path / "broken"
    shutil.copytree(story.output, broken)
    shutil.rmtree(broken / "embeddings")
    refused(job("gone", onto={"release": str(broken)}), InputNotFoundError, "no finished embeddings")


def test_catalogues_in_an_inbox_are_released_in_the_order_of_their_names(
    story: Story, tiny_weights: Path, tmp_path: Path
) -> None:
    inbox, out = tmp_path / "inbox", tmp_path / "out"
    inbox.mkdir()
    job = make_job(inbox, out, tiny_weights, catalogue={"cutout_root": str(story.survey)})
    assert watch.arrived(job, str(inbox)) == []
    for name in ("dr10.csv", "dr9.csv", ".hidden.csv", "notes.txt"):
        (inbox / name).write_text("object_id,ra_deg,dec_deg,cutout\n")
    (inbox / "dr11").mkdir()
    (inbox / "dr12").mkdir()
    (inbox / "dr12" / "hats.properties").write_text("")
    expected = [str(inbox / name) for name in ("dr9.csv", "dr10.csv", "dr12")]
    assert watch.arrived(job, str(inbox)) == expected
    assert watch.job_for(job, expected[0]).onto is None
    shutil.copytree(story.output, out)
    following = watch.job_for(job, expected[0])
    assert following.catalogue.path == expected[0]
    assert following.onto == OntoConfig(release=str(out))
    shutil.rmtree(inbox)
    os.link(story.survey / "catalogue.csv", story.survey / "again.csv")
    everything = watch.arrived(job, str(story.survey))
    assert str(story.survey / "again.csv") in everything
    assert str(story.survey / "catalogue.csv") not in everything
