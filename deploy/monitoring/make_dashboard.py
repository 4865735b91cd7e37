"""Writes deploy/monitoring/dashboard.json, for Grafana 10 and newer. Run: make docs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

TARGET = Path(__file__).parent / "dashboard.json"
WIDTH, HEIGHT = 12, 8
"""Of a panel; a row is 24 wide."""
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Panel(NamedTuple):
    """Some curves over time."""

    title: str
    unit: str
    """As Grafana names it."""
    curves: dict[str, str]
    """From legend to query."""
    about: str = ""


PANELS = {
    "Jobs": [
        Panel(
            "Rows per second",
            "short",
            {"{{stage}} {{outcome}}": "sum by (stage, outcome) (rate(voorwerp_rows_total[$__rate_interval]))"},
            "By what came of them. Anything but ok is a reject.",
        ),
        Panel(
            "Units",
            "short",
            {"{{stage}} {{state}}": "sum by (stage, state) (voorwerp_units)"},
            "Left should fall to 0; flat for long is a run that stalls.",
        ),
        Panel(
            "Time of a unit",
            "s",
            {
                "{{stage}} median": (
                    "histogram_quantile(0.5, sum by (stage, le) (rate(voorwerp_unit_seconds_bucket[$__rate_interval])))"
                ),
                "{{stage}} 95 %": (
                    "histogram_quantile(0.95, sum by (stage, le) "
                    "(rate(voorwerp_unit_seconds_bucket[$__rate_interval])))"
                ),
            },
        ),
        Panel(
            "Where the time of workers goes",
            "s",
            {
                "{{stage}} cutouts": (
                    "sum by (stage) (rate(voorwerp_decode_seconds_total[$__rate_interval]))"
                    " / sum by (stage) (rate(voorwerp_rows_total[$__rate_interval]))"
                ),
                "{{stage}} encoding": (
                    "sum by (stage) (rate(voorwerp_encode_seconds_total[$__rate_interval]))"
                    " / sum by (stage) (rate(voorwerp_rows_total[$__rate_interval]))"
                ),
            },
            "Per row. Where cutouts take longer than encoding, the store or the decoders hold the run back.",
        ),
        Panel(
            "Fill of batches",
            "percentunit",
            {
                "{{of}}": (
                    "sum by (of) (rate(voorwerp_batch_fill_sum[$__rate_interval]))"
                    " / sum by (of) (rate(voorwerp_batch_fill_count[$__rate_interval]))"
                )
            },
            "Of the encoder near 1; of searches it grows with load.",
        ),
        Panel(
            "Attempts lost",
            "short",
            {"{{stage}}": "sum by (stage) (voorwerp_attempts_lost_total)"},
            "Workers that died; their units were done again.",
        ),
        Panel(
            "Requests to object stores per second",
            "reqps",
            {"{{outcome}}": "sum by (outcome) (rate(voorwerp_store_requests_total[$__rate_interval]))"},
        ),
    ],
    "Service": [
        Panel(
            "Requests per second",
            "reqps",
            {"{{route}}": "sum by (route) (rate(voorwerp_requests_total[$__rate_interval]))"},
        ),
        Panel(
            "Errors",
            "percentunit",
            {
                "{{status}}": (
                    'sum by (status) (rate(voorwerp_requests_total{status=~"429|5.."}[$__rate_interval]))'
                    " / scalar(sum(rate(voorwerp_requests_total[$__rate_interval])))"
                )
            },
            "Share of all requests: 5xx failed, 429 and 503 were put off.",
        ),
        Panel(
            "Time of an answer, 95 %",
            "s",
            {
                "{{route}}": (
                    "histogram_quantile(0.95, sum by (route, le) "
                    "(rate(voorwerp_request_seconds_bucket[$__rate_interval])))"
                )
            },
        ),
        Panel("What waits", "short", {"{{queue}}": "sum by (queue) (voorwerp_queue_depth)"}),
        Panel(
            "Learning from ratings",
            "s",
            {
                "median": "histogram_quantile(0.5, sum by (le) (rate(voorwerp_fit_seconds_bucket[$__rate_interval])))",
                "95 %": "histogram_quantile(0.95, sum by (le) (rate(voorwerp_fit_seconds_bucket[$__rate_interval])))",
            },
        ),
        Panel("Ratings per minute", "short", {"{{kind}}": "60 * sum by (kind) (rate(voorwerp_ratings_total[5m]))"}),
    ],
}


def dashboard() -> dict[str, Any]:
    """Compose the dashboard."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, group in PANELS.items():
        panels.append({"id": len(panels) + 1, "type": "row", "title": title, "gridPos": _place(y, 0, 2 * WIDTH, 1)})
        y += 1
        for number, panel in enumerate(group):
            column = number % 2
            panels.append(_panel(panel, len(panels) + 1, _place(y, column * WIDTH, WIDTH, HEIGHT)))
            y += HEIGHT if column or number == len(group) - 1 else 0
    source = {"name": "source", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    return {
        "title": "voorwerp",
        "uid": "voorwerp",
        "tags": ["voorwerp"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source]},
        "panels": panels,
    }


def _place(y: int, x: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + at), "datasource": SOURCE, "expr": query, "legendFormat": legend}
            for at, (legend, query) in enumerate(panel.curves.items())
        ],
    }


if __name__ == "__main__":
    TARGET.write_text(json.dumps(dashboard(), indent=1) + "\n")
