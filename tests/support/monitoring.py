"""Makes the files of docs/monitoring/ from the table of metrics: python -m tests.support.monitoring

alerts.yml has the alert rules for Prometheus, dashboard.json is for Grafana, and metrics.md lists both for a person.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

from balance.metrics.table import COUNTER, HISTOGRAM, METRICS, PROCESS_ALERTS, Metric
from tests.support.repository import ROOT

FOLDER = ROOT / "docs" / "monitoring"
COMMAND = "just monitoring"
PROMTOOL = shutil.which("promtool")
LIMIT = "_max"  # the end of the name of a limit, which is shown beside what it limits
ALERTS = [*(alert for metric in METRICS for alert in metric.alerts), *PROCESS_ALERTS]
SELECTED = '{instance=~"$instance"}'
# The metrics of the process that are shown: title, expression and unit.
PROCESS_PANELS = (
    ("Processor time of the process", f"rate(process_cpu_seconds_total{SELECTED}[$__rate_interval])", "s"),
    ("Memory of the process", f"process_resident_memory_bytes{SELECTED}", "bytes"),
    ("Open files of the process", f"process_open_fds{SELECTED}", "short"),
)
COLUMNS, WIDTH, HEIGHT = 24, 8, 7


def alert_rules() -> str:
    """Return the alert rules as YAML. A text of JSON is one of YAML too."""
    lines = [f"# Written by `{COMMAND}`; do not edit.", "groups:", "  - name: balance", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {_quoted(alert.expression)}",
            f"        for: {alert.lasting}",
            f"        labels: {{severity: {alert.severity}}}",
            f"        annotations: {{summary: {_quoted(alert.summary)}}}",
        ]
    return "\n".join([*lines, ""])


def dashboard() -> str:
    """Return the dashboard as JSON: one panel for each metric and its limit, then those of the process."""
    shown = [(one.help, list(_targets(one)), _unit(one)) for one in METRICS if not one.name.endswith(LIMIT)]
    shown += [(title, [(expression, "{{instance}}")], unit) for title, expression, unit in PROCESS_PANELS]
    board = {
        "title": "Balance Snapshot System",
        "uid": "balance",
        "description": f"Written by `{COMMAND}`; do not edit.",
        "tags": ["balance"],
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "schemaVersion": 39,
        "templating": {"list": [_data_source(), _instances()]},
        "panels": [_panel(number, *one) for number, one in enumerate(shown)],
    }
    return json.dumps(board, indent=2, ensure_ascii=False) + "\n"


def table() -> str:
    """Return the list of metrics and alerts as Markdown."""
    lines = ["# Metrics and alerts", "", f"Written by `{COMMAND}`; do not edit.", ""]
    lines += ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for one in METRICS:
        labels = ", ".join(f"`{label}`" for label in one.labels)
        lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.help} |")
    lines += ["", "Beside them are the `process_…` metrics of Prometheus' client for Python.", ""]
    lines += ["| alert | severity | after | meaning |", "|---|---|---|---|"]
    lines += [f"| `{one.name}` | {one.severity} | {one.lasting} | {one.summary} |" for one in ALERTS]
    return "\n".join([*lines, ""])


FILES = {"alerts.yml": alert_rules, "dashboard.json": dashboard, "metrics.md": table}


def _targets(metric: Metric) -> Iterator[tuple[str, str]]:
    """Yield each expression of a panel, and its legend."""
    legend = " ".join(f"{{{{{label}}}}}" for label in ("instance", *metric.labels))
    if metric.kind == HISTOGRAM:
        for percent in (50, 99):
            rate = f"sum by (instance, le) (rate({metric.name}_bucket{SELECTED}[$__rate_interval]))"
            yield f"histogram_quantile({percent / 100}, {rate})", f"{{{{instance}}}} p{percent}"
    elif metric.kind == COUNTER:
        by = ", ".join(("instance", *metric.labels))
        yield f"sum by ({by}) (rate({metric.name}{SELECTED}[$__rate_interval]))", legend
    else:
        yield f"{metric.name}{SELECTED}", legend
    for limit in METRICS:
        if limit.name == metric.name + LIMIT:
            yield f"{limit.name}{SELECTED}", "{{instance}} limit"


def _unit(metric: Metric) -> str:
    """Return Grafana's unit of a panel."""
    if metric.kind == COUNTER:
        return "ops"
    return "s" if metric.name.endswith("_seconds") else "short"


def _panel(number: int, title: str, targets: list[tuple[str, str]], unit: str) -> dict[str, Any]:
    row, column = divmod(number * WIDTH, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": column, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(targets)
        ],
    }


def _data_source() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _instances() -> dict[str, Any]:
    return {
        "name": "instance",
        "label": "Process",
        "type": "query",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": "label_values(balance_build_info, instance)",
        "refresh": 2,
        "multi": True,
        "includeAll": True,
    }


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def main() -> None:
    """Write the files."""
    FOLDER.mkdir(exist_ok=True)
    for name, make in FILES.items():
        (FOLDER / name).write_text(make(), "utf-8")


if __name__ == "__main__":
    main()
