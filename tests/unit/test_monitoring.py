"""The files of docs/monitoring/ are those of the table of metrics, and Prometheus reads them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from balance.metrics.table import COUNTER, HISTOGRAM, METRICS
from tests.support.monitoring import ALERTS, FILES, FOLDER, PROMTOOL

PARTS = {"": "", "_bucket": HISTOGRAM, "_sum": HISTOGRAM, "_count": HISTOGRAM}
OF_THE_PROCESS = {
    *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds"),
}
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: it is in Debian's package prometheus"
)


def series(expression: str) -> set[str]:
    """Return the names of the series in an expression of PromQL."""
    return set(re.findall(r"\b(?:balance|process)_\w+", expression))


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_that_of_the_table(name: str) -> None:
    assert (FOLDER / name).read_text("utf-8") == FILES[name](), "run `just monitoring`"


def test_the_names_of_metrics_follow_the_conventions_of_prometheus() -> None:
    for metric in METRICS:
        assert re.fullmatch("balance(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == COUNTER), metric.name
        assert not metric.help.endswith("."), metric.name
        assert not metric.name.endswith(("_ms", "_milliseconds")), "units are base units"
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_every_expression_uses_metrics_that_exist() -> None:
    known = {
        metric.name + suffix for metric in METRICS for suffix, kind in PARTS.items() if kind in ("", metric.kind)
    } | OF_THE_PROCESS
    panels = json.loads(FILES["dashboard.json"]())["panels"]
    for expression in [
        *(alert.expression for alert in ALERTS),
        *(target["expr"] for panel in panels for target in panel["targets"]),
    ]:
        assert series(expression) <= known, expression
        assert series(expression), expression
    shown = set().union(*[series(target["expr"]) for panel in panels for target in panel["targets"]])
    assert {metric.name for metric in METRICS if metric.kind != HISTOGRAM} <= shown


def test_every_alert_is_of_its_metric_and_has_a_name_of_its_own() -> None:
    for metric in METRICS:
        for alert in metric.alerts:
            assert any(name.startswith(metric.name) for name in series(alert.expression)), alert.name
    assert len({alert.name for alert in ALERTS}) == len(ALERTS) >= 10


def promtool(*arguments: str | Path) -> str:
    """Run promtool, and return what it prints; it must succeed."""
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_every_alert_rule() -> None:
    assert f"{len(ALERTS)} rules found" in promtool("check", "rules", FOLDER / "alerts.yml")


# Twenty minutes of samples, one a minute, in the notation of promtool.
HEALTHY = {
    "balance_build_info": "1x20",
    "balance_ready": "1x20",
    "balance_database_up": "1x20",
    "balance_saves_pending": "0x20",
    "balance_saves_pending_max": "100x20",
    'balance_saves_total{outcome="saved"}': "0+60x20",
    'balance_saves_total{outcome="unavailable"}': "0x20",
    "balance_commits_failed_total": "0x20",
    "balance_feed_lag_seconds": "0.1x20",
    'balance_watchers{transport="sse"}': "5x20",
    "balance_watchers_max": "100x20",
    'balance_resumes_total{reason="diverged"}': "0x20",
    'balance_refusals_total{code="internal_error"}': "0x20",
    "balance_pool_waiting": "0x20",
    **{f'balance_commit_seconds_bucket{{le="{le}"}}': "0+60x20" for le in ("0.5", "1.0", "+Inf")},
    **{f'balance_event_loop_lag_seconds_bucket{{le="{le}"}}': "0+240x20" for le in ("0.25", "0.5", "+Inf")},
    'balance_evictions_total{transport="sse"}': "0x20",
    "balance_connections_dropped_total": "0x20",
    "balance_accept_failures_total": "0x20",
    "balance_clock_jumps_total": "0x20",
    "process_open_fds": "100x20",
    "process_max_fds": "1000x20",
}
# The series that shows each fault, which begins after four minutes, and the labels of the alert.
FAULTS: dict[str, tuple[str, str, dict[str, str]]] = {
    "BalanceAbsent": ("balance_build_info", "1x4 stale _x15", {}),
    "BalanceNotReady": ("balance_ready", "1x4 0x15", {}),
    "BalanceDatabaseDown": ("balance_database_up", "1x4 0x15", {}),
    "BalanceSavesFail": ('balance_saves_total{outcome="unavailable"}', "0x4 5+5x15", {}),
    "BalanceSavesPending": ("balance_saves_pending", "0x4 60x15", {}),
    "BalanceCommitsFail": ("balance_commits_failed_total", "0x4 1+1x15", {}),
    "BalanceFeedLag": ("balance_feed_lag_seconds", "0x4 60+60x15", {}),
    "BalanceWatchersNearLimit": ('balance_watchers{transport="sse"}', "5x4 90x15", {}),
    "BalanceSnapshotsLost": ('balance_resumes_total{reason="diverged"}', "0x4 1x15", {"reason": "diverged"}),
    "BalanceInternalErrors": ('balance_refusals_total{code="internal_error"}', "0x4 1+1x15", {}),
    "BalancePoolWaits": ("balance_pool_waiting", "0x4 3x15", {}),
    # No commit, or no measurement, ends below the limit any more.
    "BalanceCommitSlow": ('balance_commit_seconds_bucket{le="0.5"}', "0+60x4 240x15", {}),
    "BalanceEventLoopLag": ('balance_event_loop_lag_seconds_bucket{le="0.25"}', "0+240x4 960x15", {}),
    "BalanceEvictions": ('balance_evictions_total{transport="sse"}', "0x4 60+60x15", {}),
    "BalanceConnectionsDropped": ("balance_connections_dropped_total", "0x4 1+1x15", {}),
    "BalanceAcceptsFail": ("balance_accept_failures_total", "0x4 60+60x15", {}),
    "BalanceClockJump": ("balance_clock_jumps_total", "0x4 1x15", {}),
    "BalanceOpenFiles": ("process_open_fds", "100x4 900x15", {}),
}
SLOW = {"BalanceEvictions": "18m"}  # alerts of a rate over ten minutes that must last for ten more; else it is 12m


def rule_test(fault: str, series: str, values: str, labels: dict[str, str]) -> dict[str, object]:
    """Return a test for promtool: no alert fires before the fault, and only its own does eight minutes later (SLOW)."""
    fires_at = SLOW.get(fault, "12m")
    checks = [
        {"eval_time": time, "alertname": alert.name, "exp_alerts": []} for time in ("4m", fires_at) for alert in ALERTS
    ]
    for check, alert in zip(checks, ALERTS * 2, strict=True):
        if check["eval_time"] == fires_at and alert.name == fault:
            labels = {"severity": alert.severity, **labels}
            check["exp_alerts"] = [{"exp_labels": labels, "exp_annotations": {"summary": alert.summary}}]
    samples = {**HEALTHY, series: values}
    inputs = [{"series": name, "values": values} for name, values in samples.items()]
    return {"name": fault, "interval": "1m", "input_series": inputs, "alert_rule_test": checks}


def test_every_alert_has_a_fault_that_makes_it_fire() -> None:
    assert FAULTS.keys() == {alert.name for alert in ALERTS}


@needs_promtool
def test_an_alert_fires_while_its_fault_lasts_and_no_other_does(tmp_path: Path) -> None:
    tests = [rule_test(fault, *shown) for fault, shown in FAULTS.items()]
    file = tmp_path / "test.yml"
    file.write_text(json.dumps({"rule_files": [str(FOLDER / "alerts.yml")], "tests": tests}), "utf-8")
    assert "SUCCESS" in promtool("test", "rules", file)
