"""The page of a report card: one HTML file that loads nothing and runs nothing, for light and dark."""

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.service.report_policy import style_hash
from jobs.report_sky import Figure
from schemas.report import FLAGS, Report

if TYPE_CHECKING:
    from jinja2 import Environment

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


def page(report: Report, figures: Sequence[Figure]) -> str:
    """Write the page of a report, but for the hashes of its files, of which the page is one."""
    environment = _environment()
    style = environment.get_template("report.css").render()
    return environment.get_template("report.html").render(
        report=report,
        style=style,
        style_hash=style_hash(style),
        flags=FLAGS,
        figures=[
            {
                "title": one.title,
                "caption": one.caption,
                "png": {theme: base64.b64encode(data).decode() for theme, data in one.png.items()},
                "width": one.width,
                "height": one.height,
            }
            for one in figures
        ],
    )


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("jobs"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "count": lambda n: f"{n:,}",
        "percent": _percent,
        "number": _number,
        "signed": lambda value: "–" if value is None else f"{value:+.1f}",
        "size": _size,
        "duration": _duration,
        "time": lambda utc: utc[:16].replace("T", " ") + " UTC",
    }
    return environment


def _number(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _percent(share: float) -> str:
    """Write a share so that little is not nothing, and nearly all not all."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if 0 < value < 0.01:
        return "< 0.01 %"
    return f"{value:.2f} %" if value < 10 or 99 < value < 100 else f"{value:.1f} %"


def _size(n_bytes: float) -> str:
    for unit in _UNITS[:-1]:
        if n_bytes < 1000:
            return f"{n_bytes:,.0f} {unit}" if unit == "bytes" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} {_UNITS[-1]}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"
