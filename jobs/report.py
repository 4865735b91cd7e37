"""What a person sees while a job runs: progress bars with rates and time left on a terminal, plain lines elsewhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from schemas.manifest import Manifest

console = Console(stderr=True, highlight=False)
output = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
_LABEL_WIDTH = 11


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
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(f"{stage:<{_LABEL_WIDTH}}", total=total, completed=done, unit=unit)
        yield advance
    elapsed = perf_counter() - started
    rate = f", {(count - done) / elapsed:,.1f} {unit}/s" if count > done and elapsed > 0 else ""
    note(stage, f"{count:,} of {total:,} {unit} in {elapsed:,.1f} s{rate}")


def note(stage: str, message: str) -> None:
    """Print one line about a stage."""
    console.print(f"[bold]{stage:<{_LABEL_WIDTH}}[/bold] {message}", soft_wrap=True)


def warn(message: str) -> None:
    """Print a warning that needs no stop."""
    console.print(f"[yellow]warning:[/yellow] {message}", soft_wrap=True)


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
