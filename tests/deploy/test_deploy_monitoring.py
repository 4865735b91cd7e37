"""Dashboard and alert rules ask for metrics that exist, and rules do what they say."""

import json
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from schemas.metrics import METRICS

FOLDER = Path(__file__).parents[2] / "deploy" / "monitoring"
SERIES = {series: metric for metric in METRICS for series in metric.series}
OF_PROMETHEUS = {"le", "job", "instance"}
"""Labels that series have besides."""
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text())


def rules() -> list[dict[str, Any]]:
    return [rule for group in read("alerts.yaml")["groups"] for rule in group["rules"]]


def queries() -> Iterator[tuple[str, str]]:
    """Where, and what is asked for."""
    for panel in json.loads((FOLDER / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"dashboard: {panel['title']}", target["expr"]
    for rule in rules():
        yield f"alert: {rule['alert']}", rule["expr"]
    for test in read("alerts_test.yaml")["tests"]:
        for series in test["input_series"]:
            yield f"test: {test['name']}", series["series"]


def wrong_in(query: str) -> list[str]:
    """Series and labels of a query that no metric has."""
    named = set(re.findall(r"\bvoorwerp_\w+", query))
    wrong = sorted(named - set(SERIES))
    known = OF_PROMETHEUS | {label for name in named & set(SERIES) for label in SERIES[name].labels} | {"pid"}
    matched = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", query)
    grouped = [label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")]
    return wrong + sorted(set(matched + grouped) - known)


def test_the_dashboard_is_what_its_script_writes() -> None:
    made = runpy.run_path(str(FOLDER / "make_dashboard.py"))["dashboard"]()
    assert json.loads((FOLDER / "dashboard.json").read_text()) == made, "run `make docs`"


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_what_is_asked_for_is_a_metric_with_its_labels(where: str, query: str) -> None:
    assert not wrong_in(query), where


def test_a_name_or_label_that_no_metric_has_is_noticed() -> None:
    assert wrong_in("sum(rate(voorwerp_rows[5m]))") == ["voorwerp_rows"]
    assert wrong_in('voorwerp_rows_total{outcom="ok"}') == ["outcom"]
    assert wrong_in("sum by (route) (voorwerp_rows_total)") == ["route"]
    assert wrong_in('sum by (stage) (voorwerp_rows_total{outcome!="ok"})') == []


def test_the_dashboard_shows_every_metric() -> None:
    asked = " ".join(query for where, query in queries() if where.startswith("dashboard"))
    assert [metric.name for metric in METRICS if not any(series in asked for series in metric.series)] == []


@needs_promtool
def test_rules_and_the_configuration_are_valid() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", "alerts.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


@needs_promtool
def test_alerts_come_when_they_should_and_not_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")


def test_every_alert_is_tested_both_ways_and_says_what_to_do() -> None:
    cases = [case for test in read("alerts_test.yaml")["tests"] for case in test["alert_rule_test"]]
    for rule in rules():
        mine = [case for case in cases if case["alertname"] == rule["alert"]]
        assert any(case.get("exp_alerts") for case in mine), rule["alert"]
        assert any(not case.get("exp_alerts") for case in mine), rule["alert"]
        assert rule["annotations"].keys() == {"summary", "action"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_names_that_ray_shows_become_those_of_the_schema() -> None:
    (relabel,) = read("prometheus.yaml")["scrape_configs"][0]["metric_relabel_configs"]
    of_pods = read("../base/monitoring.yaml")["spec"]["podMetricsEndpoints"][0]["metricRelabelings"]
    assert [{_snake(key): value for key, value in one.items()} for one in of_pods] == [relabel]
    for name in SERIES:
        assert re.sub(f"^{relabel['regex']}$", relabel["replacement"].replace("$", "\\"), f"ray_{name}") == name


def _snake(name: str) -> str:
    return re.sub("([A-Z])", r"_\1", name).lower()
