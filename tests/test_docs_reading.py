"""DuckDB and pandas read every table as plain Parquet, and what docs/reading.md shows runs on a real release."""

import re
import shlex
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow.parquet as pq
import pytest

from engine.storage.artefacts import current_manifest
from engine.storage.parquet import as_matrix
from engine.storage.store import Store

PAGE = Path(__file__).parents[1] / "docs" / "reading.md"
KINDS = ("plan", "embeddings", "components")

pytestmark = pytest.mark.cluster


def blocks() -> list[tuple[str, str]]:
    """Language and text of what the page shows, in order."""
    return re.findall(r"```(python|bash|sql)\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


def test_every_table_of_a_release_is_plain_parquet_for_duckdb_and_pandas(finished: Path) -> None:
    tables = [path for path in finished.rglob("*.parquet") if path.stat().st_size]
    assert {path.relative_to(finished).parts[0] for path in tables} >= {"plan", "embeddings", "components", "index"}
    for path in tables:
        expected = pq.read_table(path, partitioning=None)
        found = duckdb.read_parquet(str(path), hive_partitioning=False)
        assert (found.columns, len(found.fetchall())) == (expected.column_names, len(expected))
        frame = pd.read_parquet(path, partitioning=None)
        assert (list(frame.columns), len(frame)) == (expected.column_names, len(expected))


def test_vectors_have_the_same_values_in_duckdb(finished: Path) -> None:
    folder = finished / "components" / current_manifest(Store(str(finished)), "components").id
    files = str(folder / "dataset" / "*" / "*" / "*.parquet")
    rows = duckdb.read_parquet(files, hive_partitioning=False).fetchnumpy()
    expected = pq.read_table(folder / "dataset", partitioning=None)
    found = dict(zip(rows["object_id"].tolist(), map(tuple, rows["components"]), strict=True))
    assert found == dict(
        zip(expected["object_id"].to_pylist(), map(tuple, as_matrix(expected["components"])), strict=True)
    )


def test_all_that_the_page_shows_runs(
    finished: Path, survey: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    from jobs.cli import app

    monkeypatch.chdir(tmp_path)
    Path("first-release").symlink_to(finished)
    Path("voorwerp-demo").mkdir()
    # The page's release is of another survey: there, brightness is a flux.
    Path("voorwerp-demo/catalogue.csv").write_text(survey.read_text())
    ran = []
    for language, text in blocks():
        for kind in KINDS:
            text = text.replace(f"{kind}/<id>", f"{kind}/{current_manifest(Store(str(finished)), kind).id}")
        text = text.replace("plan.flux > 100", "plan.magnitude < 18").replace(
            '"flux", ">", 2000', '"magnitude", "<", 18'
        )
        text = re.sub(r"\bflux\b", "magnitude", text)
        ran.append(language)
        if language == "bash":
            for command in text.replace("\\\n", "").splitlines():
                program, *arguments = shlex.split(command)
                assert program == "voorwerp"
                app(arguments, standalone_mode=False)
        elif language == "sql":
            assert duckdb.sql(text) is not None
            rows = duckdb.sql(text).fetchall()
            assert rows or "rejects" in text, text
        else:
            exec(compile(text, "reading.md", "exec"), {})
    assert {language: ran.count(language) for language in set(ran)} == {"python": 4, "bash": 2, "sql": 5}


def test_plain_sql_finds_the_neighbours_that_voorwerp_finds(finished: Path, tmp_path: Path) -> None:
    from jobs import neighbours
    from schemas.config import NeighboursJob

    folder = finished / "components" / current_manifest(Store(str(finished)), "components").id
    (query,) = [text for language, text in blocks() if language == "sql" and "list_zip" in text]
    found = duckdb.sql(query.replace("first-release/components/<id>", str(folder))).fetchall()
    asked = found[0][0]
    answer = neighbours.run(
        NeighboursJob(release=str(finished), ids=(str(asked),), k=5, output=str(tmp_path / "a.csv"))
    )
    assert answer is not None
    assert [object_id for object_id, _ in found[1:]] == answer["object_id"].to_pylist()
    assert [distance for _, distance in found[1:]] == pytest.approx(answer["distance"].to_pylist(), rel=1e-5)
