"""Writes docs/faults.md from the marks of the tests, so that it names no proof that is not there. Run: make docs."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "faults.md"

FAULTS: dict[int, tuple[str, str]] = {
    1: ("a worker is killed", "success, and how many attempts were lost; the output of a run without faults"),
    2: ("a node of the cluster is lost", "as of a worker"),
    3: ("the driver is killed at any step", "the same command goes on: “k of n units already done”; nothing twice"),
    4: ("SIGTERM", "units in work are finished, the lease is freed, exit 143; the same command goes on"),
    5: ("a write ends in its middle", "the old file or none; whatever was cut is refused by name"),
    6: ("the disk is full", "“no space left on X, needs about Y”; nothing is published, what was written is freed"),
    7: ("a worker runs out of memory", "the unit is tried again, then row by row: one reject, never the run"),
    8: ("the store answers 500, 503, 429", "success, slower; without end: “unavailable after N tries on KEY”"),
    9: ("the store hangs, resets, drips", "success, slower; every request has a timeout and a last try"),
    10: ("bodies are cut short or wrong", "read again; without end a reject `integrity`, or a refusal by name"),
    11: ("a cutout was replaced or deleted after planning", "rejects `changed` and `not_found`"),
    12: ("the store refuses: 403", "stops at once; key and principal are named, the secret is not"),
    13: ("a container changes while it is open", "rejects of its rows, or the bytes as planned; never a mixture"),
    14: ("a write succeeds and its answer is lost", "read again and taken as done; one commit"),
    15: ("cutouts are empty, cut, random, of another kind", "rejects `decode_error`"),
    16: ("cutouts unpack without bounds", "rejects `too_large`, before the memory is asked for"),
    17: ("a cutout kills its decoder, or never ends", "rejects `worker_crash` and `timeout`; the rest is embedded"),
    18: ("pixels are NaN, infinite, constant, masked", "the policy of the stretch; an embedding is never NaN"),
    19: ("sizes, bands, dtypes, byte orders are mixed", "the same object in two formats has the same vector"),
    20: ("ids repeat", "stops with the list, or keeps the first and rejects `duplicate`"),
    21: ("positions are wrong, exchanged, in hours", "rejects `bad_coord`, a warning, or a refusal of the unit"),
    22: ("columns are missing or drift between files", "stops before anything is loaded; file and column named"),
    23: ("nothing, one row, or only bad rows", "a clear refusal, or a valid answer that accounts for all"),
    24: ("weights are missing, cut, of another network, NaN", "refused at the start with what was expected"),
    25: ("pickles, YAML, arrays, tars, indexes are malicious", "refused; the payload never runs"),
    26: ("a GPU is out of memory; half precision overflows", "batches are halved; rows are done again in float32"),
    27: ("a training loses workers or its driver", "the weights of a training without faults"),
    28: ("two runs on one output", "one works, the other exits 75 and names it"),
    29: ("a lease whose holder is gone", "taken over, at once or when it expires; a late holder notices"),
    30: ("an output belongs to another catalogue or model", "refused with both identities and what differs"),
    31: ("a manifest or a record was edited", "refused with what was expected and what was found"),
    32: ("an index build is killed; a shard is changed", "the old index serves; the build goes on; verify names it"),
    33: ("processes of a service are killed", "503 until there is another one; answers are right or absent"),
    34: ("the release changes, or a shard is missing, under a service", "no mixed versions; an error, never silence"),
    35: (
        "ratings: killed, locked, disk full, sent again",
        "every acknowledged rating is there, once; others can be sent again",
    ),
    36: ("the fit of a campaign fails", "the last good model ranks, and says that it is stale"),
    37: ("schedules overlap, ticks are missed", "one run at a time; missed releases are named"),
    38: ("the database is lost, damaged, or fails", "an error in words; nobody is let in meanwhile"),
    39: ("artefacts of other versions", "read, or refused with both versions and what to do"),
    40: ("a million cutouts in one run", "memory of the driver stays flat"),
}
"""By number: what happens, and what the user sees."""

NOT_IN_THE_SUITE = {
    40: "`make soak` (8.6 bytes for each of a million cutouts; [results](../tests/benchmarks/results/soak.md)). "
    "`make bench-embed` holds the driver to 100 bytes for each of 200,000 cutouts",
}
"""Why no test of the suite brings a fault about, and what does."""


class Proof(NamedTuple):
    """A test that brings a fault about."""

    row: int
    how: str
    file: str
    name: str


def proofs() -> Iterator[Proof]:
    """Find the marks `pytest.mark.fault(row, how)` of all tests, without importing them."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                        row, how = (ast.literal_eval(argument) for argument in mark.args)
                        yield Proof(row, how, str(path.relative_to(ROOT)), node.name)


def page() -> str:
    """Compose the whole page.

    Raises
    ------
    ValueError
        A mark names no fault, or a fault has neither a mark nor a reason.
    """
    found: dict[int, list[Proof]] = defaultdict(list)
    for proof in proofs():
        found[proof.row].append(proof)
    if unknown := found.keys() - FAULTS.keys():
        raise ValueError(f"expected faults 1 to {max(FAULTS)}, found {sorted(unknown)} in marks of tests")
    if unproven := FAULTS.keys() - found.keys() - NOT_IN_THE_SUITE.keys():
        raise ValueError(f"faults {sorted(unproven)}: expected a test with the mark, or a reason, found neither")
    lines = [
        "# Faults",
        "",
        "What can go wrong, what the user then sees, and the tests that bring it about. After every fault of a run,",
        "planned = embedded + rejected, in numbers and by a digest of ids. Generated from the tests by `make docs`.",
        "",
        "`make chaos` mixes many of them at random in one release, whose output has to equal that of a calm one "
        "([results](../tests/benchmarks/results/chaos.md)).",
        "",
        "| # | fault | the user sees | what brings it about: what is then proven |",
        "|---|---|---|---|",
    ]
    for row, (fault, sees) in FAULTS.items():
        proven = [f"{proof.how}: *{_sentence(proof.name)}* (`{proof.file}`)" for proof in found[row]]
        if row in NOT_IN_THE_SUITE:
            proven.append(NOT_IN_THE_SUITE[row])
        lines.append(f"| {row} | {fault} | {sees} | {'<br>'.join(proven)} |")
    return "\n".join(lines) + "\n"


def _sentence(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ") if name.startswith("test_") else f"the state machine {name}"


if __name__ == "__main__":
    TARGET.write_text(page())
