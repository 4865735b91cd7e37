"""Whatever is written to be read by another version says which format it has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WRITTEN_ALONE = {
    "Answer",
    "Cell",
    "Claim",
    "Commit",
    "Current",
    "Diff",
    "Experiment",
    "JobEnd",
    "JobStart",
    "JobUnits",
    "Lease",
    "Manifest",
    "Model",
    "Preflight",
    "QueryJob",
    "Ranking",
    "Release",
    "Report",
    "SimulatedCampaign",
    "TrialRecord",
}
"""Records that are files of their own."""

WRITTEN_WITHIN = {
    "FileRecord": "a manifest, a commit or another record",
    "Parent": "a manifest or a release record",
    "PartitionFile": "a manifest, or a message between processes",
    "IndexDetail": "the manifest of an index",
    "Known": "the manifest of an index",
    "Setting": "the manifest of an index",
    "ShardRecord": "the manifest of an index; until there is one, a work folder, whose name depends on the format",
    "MapColumn": "the manifest of a map",
    "MapDetail": "the manifest of a map",
    "Campaign": "the database of campaigns, which has a revision of its own",
    "RatingEvent": "the database",
    "RankingRecord": "the database",
    "Token": "the database",
}
"""Parts of what has a format."""

SAID_OR_WITHIN = (
    "schemas/ask.py",
    "schemas/campaign.py Asked",
    "schemas/campaign.py Recorded",
    "schemas/diff.py",
    "schemas/report.py",
    "schemas/service",
    "schemas/status.py",
    "engine/cluster/probe.py",
    "engine/compute/estimate.py",
    "jobs/preflight.py Options",
)
"""Files and records of what is said and not kept, as answers of a service are, or part of the one record above."""


def records() -> dict[str, str]:
    """Every record that is kept, and how its format is declared; an empty text where it is not."""
    found = {}
    for path in sorted(path for package in ("schemas", "engine", "jobs") for path in (ROOT / package).rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and [ast.unparse(base) for base in node.bases] == ["Record"]:
                declared = [ast.unparse(line.annotation) for line in node.body if is_format(line)]
                said = f"{path.relative_to(ROOT)} {node.name}".startswith(SAID_OR_WITHIN)
                if node.name in WRITTEN_ALONE | WRITTEN_WITHIN.keys() or not said:
                    found[node.name] = "".join(declared)
    return found


def is_format(line: ast.stmt) -> bool:
    return isinstance(line, ast.AnnAssign) and ast.unparse(line.target) == "format"


def test_of_every_record_it_is_said_whether_it_is_written() -> None:
    assert records().keys() == WRITTEN_ALONE | WRITTEN_WITHIN.keys()


@pytest.mark.fault(39, "every record that is a file")
def test_a_record_that_is_written_alone_has_one_format_and_refuses_any_other() -> None:
    found = records()
    assert [name for name in WRITTEN_ALONE if not re.fullmatch(r"Format|Literal\[\d+\]", found[name])] == []
