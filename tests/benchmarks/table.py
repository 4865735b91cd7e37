"""What every benchmark ends with: tables, one line per bar, a Markdown file of both, and an exit code."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable

RESULTS = Path(__file__).parent / "results"
LIBRARIES = ("ray", "torch", "timm", "dask", "pyarrow", "faiss-cpu")

# A pipe or a log file has no width of its own; 80 columns would cut the tables.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


@dataclass(frozen=True)
class Table:
    """Rows of text under a title; the first column is left-aligned, the others right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def show(self) -> None:
        shown = RichTable(title=self.title, title_justify="left", box=SIMPLE_HEAD, caption=self.note or None)
        for number, name in enumerate(self.columns):
            shown.add_column(name, justify="right" if number else "left", no_wrap=not number)
        for row in self.rows:
            shown.add_row(*row)
        console.print(shown)

    def markdown(self) -> str:
        head = ["| " + " | ".join(self.columns) + " |", "|---" + "|---:" * (len(self.columns) - 1) + "|"]
        body = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"## {self.title}", "", *head, *body, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Bar:
    """A number that was measured and the one it has to reach."""

    name: str
    measured: float
    comparison: Literal[">=", "<="]
    bar: float

    @property
    def passed(self) -> bool:
        """Whether the bar is reached; NaN never is."""
        return self.measured >= self.bar if self.comparison == ">=" else self.measured <= self.bar

    def line(self) -> str:
        verdict = "PASS" if self.passed else "FAIL"
        return f"{self.name}: measured {self.measured:.4g}, bar {self.comparison} {self.bar:.4g}, {verdict}"


def machine() -> list[str]:
    """Describe this machine and the libraries; the load average tells whether it was quiet."""
    models = [line.partition(":")[2].strip() for line in _cpu_info() if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    memory_gib = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return [
        f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB; {platform.system()} {platform.release()}",
        f"load average over 1, 5 and 15 minutes: {load}",
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    ]


def finish(name: str, command: str, started_on: Sequence[str], tables: Sequence[Table], bars: Sequence[Bar]) -> int:
    """Print tables and bars, write `results/NAME.md`, return the exit code: 1 when a bar is missed.

    `started_on` is what `machine` said before the benchmark began to load it.
    """
    for table in tables:
        table.show()
    lines = [bar.line() for bar in bars]
    text = [
        f"# {command}",
        "",
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
        "",
        *(f"* {line}" for line in started_on),
        "",
        *(part for table in tables for part in (table.markdown(), "")),
        "## Bars",
        "",
        *(f"* {line}" for line in lines),
    ]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.md").write_text("\n".join(text) + "\n")
    print(*lines, sep="\n")
    return 0 if all(bar.passed for bar in bars) else 1


def _cpu_info() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []
