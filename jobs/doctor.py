"""Job: doctor. Whether voorwerp can work here, with what to do where it cannot."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from jobs import doctor_checks as checks
from jobs.doctor_checks import Finding
from jobs.report import output as terminal
from schemas.config import RayConfig, ReleaseJob, load_job
from schemas.log import without_secrets

SHOWN = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "failure": "[bold red]failure[/bold red]"}


def run(output: str | None, job: Path | None, database: str | None, with_ray: bool, as_json: bool) -> bool:
    """Check an installation, show what was found, and return whether nothing failed.

    Parameters
    ----------
    output : str or None
        Where a release is to be; that of the job when None.
    job : Path or None
        A release job, whose inputs are looked at as well.
    database : str or None
        Of campaigns and tokens; as of `voorwerp campaign` when None.
    with_ray : bool
        Whether to start Ray, which takes some seconds.
    as_json : bool
        Show JSON instead of a table.

    Raises
    ------
    ConfigError, InputNotFoundError
        The job is none.
    """
    config = load_job(ReleaseJob, job, {"output": output} if output else {}) if job else None
    found = {name: _tried(check) for name, check in _checks(output, config, database, with_ray)}
    if as_json:
        content = {name: finding._asdict() for name, finding in found.items()}
        terminal.print_json(json.dumps({"format": 1, "checks": content}))
    else:
        terminal.print(_table(found))
    return all(finding.status != "failure" for finding in found.values())


def _checks(
    output: str | None, config: ReleaseJob | None, database: str | None, with_ray: bool
) -> Iterator[tuple[str, Callable[[], Finding]]]:
    """Name the checks that this call is about, in the order in which they are shown."""
    at = output or (config.output if config else None)
    yield "Python", checks.python
    yield "libraries", checks.libraries
    yield "encoding", checks.encoding
    yield "memory", checks.memory
    yield "shared memory", checks.shared_memory
    yield "disk", partial(checks.disk, at)
    if with_ray:
        yield "Ray", partial(checks.ray, config.ray if config else RayConfig())
    if at:
        yield "store", partial(checks.store, at)
        yield "clock", partial(checks.clock, at)
        yield "lease", partial(checks.lease, at)
    if config:
        yield "job", partial(checks.job, config)
        yield "weights", partial(checks.weights, config)
    yield "database", partial(checks.database, database)


def _tried(check: Callable[[], Finding]) -> Finding:
    """Run a check; whatever it meets is what it found."""
    try:
        found = check()
    except Exception as error:
        found = checks.failed(error)
    return found._replace(found=without_secrets(found.found))


def _table(found: dict[str, Finding]) -> Table:
    table = Table(box=None, show_header=False)
    table.add_column(style="bold")
    table.add_column()
    table.add_column(overflow="fold")
    for name, finding in found.items():
        table.add_row(name, SHOWN[finding.status], escape(finding.found))
        if finding.advice:
            table.add_row("", "", f"[dim]{escape(finding.advice)}[/dim]")
    return table
