"""Jobs as folders: what is created first counts, what is deleted is gone at once, and what is needed stays."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pytest

from engine.storage import query_jobs
from engine.storage.query_jobs import JobStore, result_bytes, result_tables, write_result
from engine.storage.store import Store
from schemas import paths
from schemas.service_jobs import JobEnd, JobParameters, JobStart, JobUnits, QueryJob

ID = "0" * 31


def job(number: int = 1, **changes: str) -> QueryJob:
    settings = {
        "id": f"{ID}{number}",
        "owner": "ann",
        "output": "/release",
        "release": "r",
        "index": "i",
        "parameters": JobParameters(),
        "by": "id",
        "n_queries": 300,
        "upload": "u",
        "table_sha256": "s",
        "created_utc": f"2026-01-0{number}T00:00:00+00:00",
        **changes,
    }
    return QueryJob.model_validate(settings)


@pytest.fixture
def jobs(tmp_path: Path) -> JobStore:
    return JobStore(Store(str(tmp_path)))


def ended(phase: str) -> JobEnd:
    return JobEnd.model_validate({"phase": phase, "ended_utc": "2026-01-05T00:00:00+00:00", "n_done": 3})


def test_of_two_that_create_or_end_a_job_the_first_counts_for_all_who_look(jobs: JobStore) -> None:
    assert jobs.create(job()) == job()
    assert jobs.create(job(owner="bob")) == job()
    for phase in ("ABORTED", "COMPLETED"):
        jobs.end(job().id, ended(phase))
    found, other = jobs.find(job().id), JobStore(jobs.store).find(job().id)
    assert found
    assert other
    assert (found.end, found.job, other.end) == (ended("ABORTED"), job(), ended("ABORTED"))
    assert not jobs.is_open(job().id)


def test_jobs_are_listed_by_age_with_what_is_done_of_them_and_what_they_take(jobs: JobStore) -> None:
    for number in (3, 1, 2):
        jobs.create(job(number))
    jobs.begin(job(2).id, JobStart(started_utc="now"))
    jobs.cut(job(2).id, JobUnits(n_asked=290, per_unit=128))
    folder = jobs.folder(job(2).id)
    for unit in ("0000000", "0000002"):
        folder.create(paths.commit(job(2).id, unit), b"{}")
    folder.write(f"{paths.commits(job(2).id)}/.0000001.json.abc.tmp", b"half")
    found = jobs.all()
    assert [one.job for one in found] == [job(1), job(2), job(3)]
    assert (sorted(found[1].n_committed), found[1].has_work, found[0].has_work) == ([0, 2], True, False)
    assert found[1].units == JobUnits(n_asked=290, per_unit=128)
    assert found[1].size_bytes > found[0].size_bytes > 100


def test_a_deleted_job_is_gone_at_once_its_files_at_the_next_sweep_and_its_name_is_free_then(jobs: JobStore) -> None:
    jobs.create(job())
    jobs.delete(job().id)
    assert (jobs.find(job().id), jobs.all(), jobs.create(job())) == (None, [], None)
    jobs.sweep()
    assert not jobs.store.exists(paths.query_job(job().id))
    again = job(upload="another")
    assert jobs.create(again) == again
    found = jobs.find(job().id)
    assert found
    assert found.job == again


def test_a_sweep_takes_the_work_of_ended_jobs_and_old_tables_that_became_none_and_nothing_else(
    jobs: JobStore, tmp_path: Path
) -> None:
    for number in (1, 2, 3):
        jobs.create(job(number))
        folder = jobs.folder(job(number).id)
        for name in (paths.asked("u"), paths.commit("x", "0"), paths.part("0", "a")):
            folder.write(name, b"some")
    record, n_rows = write_result(
        jobs.folder(job(2).id), pa.schema({"query": pa.int64()}), [pa.table({"query": [1, 2]})]
    )
    jobs.end(job(2).id, ended("COMPLETED").model_copy(update={"result": record, "n_rows": n_rows}))
    jobs.folder(job(3).id).write(paths.RESULT, b"of an attempt that was aborted meanwhile")
    jobs.end(job(3).id, ended("ABORTED"))
    for name in ("old", "new"):
        jobs.store.write(f"{paths.QUERY_JOBS}/{name}/{paths.uploaded('u')}", b"object_id")
    long_ago = time.time() - query_jobs.UPLOAD_GRACE_S - 60
    os.utime(tmp_path / paths.QUERY_JOBS / "old" / paths.uploaded("u"), (long_ago, long_ago))
    jobs.sweep()
    assert len(jobs.folder(job(1).id).list()) == 4
    assert jobs.folder(job(2).id).list() == [paths.JOB_ENDED, paths.JOB, paths.RESULT]
    assert jobs.folder(job(3).id).list() == [paths.JOB_ENDED, paths.JOB]
    assert {path.name for path in (tmp_path / paths.QUERY_JOBS).iterdir()} == {job(1).id, job(2).id, job(3).id, "new"}


def test_a_damaged_record_keeps_nobody_from_other_jobs(jobs: JobStore, caplog: pytest.LogCaptureFixture) -> None:
    jobs.create(job(1))
    jobs.create(job(2))
    jobs.folder(job(1).id).write(paths.JOB, b"{}")
    assert [one.job for one in jobs.all() + jobs.all()] == [job(2), job(2)]
    assert len(caplog.records) == 1
    jobs.sweep()
    assert jobs.folder(job(1).id).exists(paths.JOB)


def test_a_result_is_read_by_rows_and_by_bytes(jobs: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query_jobs, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(query_jobs, "_BLOCK_BYTES", 7)
    folder, schema = jobs.folder(job().id), pa.schema({"query": pa.int64()})
    tables = [pa.table({"query": range(start, start + 6)}, schema) for start in (0, 6)]
    record, n_rows = write_result(folder, schema, tables)
    assert n_rows == 12
    assert [len(table) for table in result_tables(folder)] == [4, 2, 4, 2]
    assert pa.concat_tables(result_tables(folder)).equals(pa.concat_tables(tables))
    whole = folder.read(paths.RESULT)
    assert b"".join(result_bytes(folder, 0, record.size_bytes)) == whole
    assert b"".join(result_bytes(folder, 3, 40)) == whole[3:40]
