"""What a person sees while a job runs: progress bars with rates and time left on a terminal, plain lines elsewhere.

With VOORWERP_LOG=json each is a JSON line on standard error instead (`schemas/log.py`), and each unit of work has one.
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import render
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from schemas.errors import VoorwerpError
from schemas.log import LOG_VARIABLE, Level, LogFormat, LogFormatter, as_json, log_line, without_secrets
from schemas.manifest import Commit, Manifest

console = Console(stderr=True, highlight=False)
output = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_LABEL_WIDTH = 11


def log_as(log_format: LogFormat) -> None:
    """Choose how this process, and those that it starts, say what they do."""
    os.environ[LOG_VARIABLE] = log_format
    console.quiet = as_json()
    if as_json():
        lines = logging.StreamHandler()
        lines.setFormatter(LogFormatter())
        logging.basicConfig(level=logging.WARNING, handlers=[lines])
        logging.captureWarnings(True)
        sys.excepthook = _failed_unexpectedly


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:,.1f} {task.fields['unit']}/s" if speed else "", style="cyan")


@contextmanager
def progress(stage: str, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show a stage's progress; the block gets a function to call with the number of things just done.

    On a terminal a bar with count, rate and time left; elsewhere one line when the stage ends.
    """
    started = perf_counter()
    count = done
    if as_json():
        _log("info", "begin", stage=stage, done=done, total=total, counted=unit)

    def advance(n: int) -> None:
        nonlocal count
        count += n
        bar.update(task, completed=count)

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} {task.fields[unit]}"),
        _Rate(),
        TimeRemainingColumn(),
    )
    is_shown = console.is_terminal and not as_json()
    with Progress(*columns, console=console, transient=True, disable=not is_shown) as bar:
        task = bar.add_task(f"{stage:<{_LABEL_WIDTH}}", total=total, completed=done, unit=unit)
        yield advance
    elapsed = perf_counter() - started
    if as_json():
        _log("info", "end", stage=stage, done=count, total=total, counted=unit, milliseconds=round(1000 * elapsed))
        return
    rate = f", {(count - done) / elapsed:,.1f} {unit}/s" if count > done and elapsed > 0 else ""
    note(stage, f"{count:,} of {total:,} {unit} in {elapsed:,.1f} s{rate}")


def note(stage: str, message: str) -> None:
    """Print one line about a stage."""
    if as_json():
        _log("info", "note", stage=stage, message=render(message).plain)
    else:
        console.print(f"[bold]{stage:<{_LABEL_WIDTH}}[/bold] {without_secrets(message)}", soft_wrap=True)


def unit_done(stage: str, commit: Commit) -> None:
    """Log a unit that was committed; a person sees the bar instead."""
    if as_json():
        seconds = commit.durations_s.get("total", 0.0)
        _log(
            "warning" if commit.attempt > 1 else "info",
            "unit",
            stage=stage,
            unit=commit.unit,
            attempt=commit.attempt,
            n_planned=commit.n_planned,
            n_ok=commit.n_ok,
            rejected=commit.rejected,
            milliseconds=round(1000 * seconds),
        )


def warn(message: str) -> None:
    """Print a warning that needs no stop."""
    if as_json():
        _log("warning", "warning", message=render(message).plain)
    else:
        console.print(f"[yellow]warning:[/yellow] {without_secrets(message)}", soft_wrap=True)


def wrong(message: str) -> None:
    """Print something that is wrong, and that the command goes on after."""
    if as_json():
        _log("error", "problem", message=message)
    else:
        console.print("[red]problem:[/red]", end=" ")
        console.print(without_secrets(message), markup=False, soft_wrap=True)


def failed(error: VoorwerpError) -> None:
    """Print what ended the command."""
    if as_json():
        _log("error", "error", message=str(error), error=type(error).__name__, exit_code=error.exit_code)
    else:
        console.print("[bold red]error:[/bold red]", end=" ")
        console.print(without_secrets(str(error)), markup=False, soft_wrap=True)


def _failed_unexpectedly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    told = "".join(traceback.format_exception(kind, error, trace))
    _log("error", "error", message=str(error), error=kind.__name__, traceback=told)


def _log(level: Level, event: str, **fields: Any) -> None:
    print(log_line(level, event, **fields), file=sys.stderr, flush=True)


def reused(manifest: Manifest) -> Manifest:
    """Say that an artefact is there already; return it."""
    note(manifest.kind, f"{manifest.id} is there already")
    return manifest


def accounting(manifest: Manifest) -> str:
    """Spell out the accounting equation of embeddings or of a packed catalogue, rejects by reason."""
    counts, reasons = manifest.counts, sorted(manifest.detail["rejected_by_reason"].items())
    by_reason = "".join(f", {count:,} {reason}" for reason, count in reasons)
    done = "packed" if manifest.kind == "packed" else "embedded"
    return f"{counts['planned']:,} planned = {counts[done]:,} {done} + {counts['rejected']:,} rejected{by_reason}"
