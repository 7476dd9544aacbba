"""The table of metrics: what each is, how it is read, and when a person is to be warned.

The objects that do the work count by plain integers, and by histograms that are filled once for each batch. So a metric
costs nothing until it is read. The values of labels are of closed lists: nothing that a client sends can add a series.

A new metric is a row of METRICS; `just monitoring` then writes the dashboard and the alert rules of docs/monitoring/.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import balance
from balance.aio.clock_watch import ClockWatch
from balance.aio.histogram import Histogram
from balance.aio.limiter import CapacityLimiter
from balance.aio.loop_lag import LoopLag
from balance.config import Config
from balance.feed.feed import Feed
from balance.feed.resumption import OUTCOMES
from balance.feed.tail import Tail
from balance.feed.writer import Writer
from balance.health import Health
from balance.realtime import Engine, Watchers
from balance.refusals import TRANSPORTS
from balance.service import Service
from balance.storage.pool import Pool
from balance.web.descriptors import Descriptors
from balance.web.stream_hub import StreamHub
from protocol import ERRORS, OPERATIONS

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The objects that are read."""

    config: Config
    pool: Pool
    service: Service
    writer: Writer
    feed: Feed
    tail: Tail
    engine: Engine
    watchers: Watchers
    streams: StreamHub
    long_polls: CapacityLimiter
    health: Health
    loop_lag: LoopLag
    clock: ClockWatch
    descriptors: Descriptors


Value = float | None | Mapping[Labels, float] | Histogram
"""What a metric reads: one number, none if it is not known yet, one for each set of labels, or a histogram."""


COUNTER: Literal["counter"] = "counter"
GAUGE: Literal["gauge"] = "gauge"
HISTOGRAM: Literal["histogram"] = "histogram"


class Alert(NamedTuple):
    """When Prometheus warns a person."""

    name: str
    expression: str
    """In PromQL; true while something is wrong."""
    lasting: str
    """For how long it must be true."""
    severity: Literal["critical", "warning"]
    summary: str
    """What is wrong, and what to do, for a person."""


class Metric(NamedTuple):
    """One metric."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    read: Callable[[Parts], Value]
    labels: Labels = ()
    alerts: tuple[Alert, ...] = ()


def _build(_parts: Parts) -> Value:
    return {(balance.__version__, platform.python_version()): 1}


def _saves(parts: Parts) -> Value:
    service = parts.service
    counts: dict[Labels, float] = {("saved",): service.saved, ("duplicate",): service.duplicates}
    return counts | {(error.code,): service.refusals.saves[error.code] for error in OPERATIONS["saveSnapshot"].errors}


def _refusals(parts: Parts) -> Value:
    counts = parts.service.refusals.answers
    return {(transport, code): counts[transport, code] for transport in TRANSPORTS for code in ERRORS}


def _watchers(parts: Parts) -> Value:
    sessions = parts.engine.sessions
    websockets = sum([session.is_upgraded for session in sessions.values()])
    return {
        ("websocket",): websockets,
        ("polling",): len(sessions) - websockets,
        ("sse",): len(parts.streams),
        ("long_poll",): len(parts.long_polls),
    }


METRICS = (
    Metric("balance_build_info", GAUGE,
        "Always 1; the versions of the service and of Python",
        _build, ("version", "python"),
        (Alert(
            "BalanceAbsent", "absent(balance_build_info)", "1m", "critical",
            "No process is scraped: it is stopped or not reachable, or its scrape is not permitted.",
        ),)),
    Metric("balance_ready", GAUGE,
        "1 if /readyz returns 200",
        lambda parts: not parts.health.problems(),
        alerts=(Alert(
            "BalanceNotReady", "balance_ready == 0", "1m", "critical",
            "A process is not ready: /readyz has the reasons.",
        ),)),
    Metric("balance_database_up", GAUGE,
        "1 if the database can be reached and read",
        lambda parts: parts.health.database_is_up,
        alerts=(Alert(
            "BalanceDatabaseDown", "balance_database_up == 0", "30s", "critical",
            "A process cannot reach or read the database: its log has the reason.",
        ),)),
    Metric("balance_saves_total", COUNTER,
        "Updates that were answered, by outcome: saved, duplicate, or the code of the error",
        _saves, ("outcome",),
        (Alert(
            "BalanceSavesFail",
            'sum by (instance) (rate(balance_saves_total{outcome=~"busy|unavailable|internal_error"}[5m])) > 0',
            "2m", "critical",
            "Updates are not saved. Bots that follow the contract send them again.",
        ),)),
    Metric("balance_saves_pending", GAUGE,
        "Updates that are not answered yet",
        lambda parts: parts.writer.pending,
        alerts=(Alert(
            "BalanceSavesPending", "balance_saves_pending / balance_saves_pending_max > 0.5", "1m", "warning",
            "More updates come than are committed: at the limit they get busy.",
        ),)),
    Metric("balance_saves_pending_max", GAUGE,
        "The limit --saves-pending-max",
        lambda parts: parts.config.saves_pending_max),
    Metric("balance_commit_seconds", HISTOGRAM,
        "Time that the database took for a batch, without that for the batch before it",
        lambda parts: parts.writer.commit_seconds,
        alerts=(Alert(
            "BalanceCommitSlow",
            "histogram_quantile(0.99, sum by (instance, le) (rate(balance_commit_seconds_bucket[5m]))) > 0.5",
            "5m", "warning",
            "Commits are slow: the disk of the database, its standby, or a lock.",
        ),)),
    Metric("balance_commit_rows", HISTOGRAM,
        "Updates in a commit, also those that were saved before",
        lambda parts: parts.writer.commit_rows),
    Metric("balance_commits_failed_total", COUNTER,
        "Batches that the database did not commit, or did not answer",
        lambda parts: parts.writer.failed_commits,
        alerts=(Alert(
            "BalanceCommitsFail", "increase(balance_commits_failed_total[5m]) > 0", "1m", "critical",
            "The database does not commit: its disk may be full, or it may be read-only or without its standby.",
        ),)),
    Metric("balance_feed_head_seq", GAUGE,
        "The seq of the last snapshot that was published",
        lambda parts: None if parts.feed.head is None else parts.feed.head.seq),
    Metric("balance_feed_lag_seconds", GAUGE,
        "Time since the end of the feed was known last, by a poll of the database or a batch",
        lambda parts: parts.tail.lag_s,
        alerts=(Alert(
            "BalanceFeedLag", "balance_feed_lag_seconds > 10", "1m", "critical",
            "Watchers of this process may not get what others save: the database does not answer the polls.",
        ),)),
    Metric("balance_watchers", GAUGE,
        "Clients that watch",
        _watchers, ("transport",),
        (Alert(
            "BalanceWatchersNearLimit",
            "sum by (instance) (balance_watchers) / on (instance) balance_watchers_max > 0.8",
            "5m", "warning",
            "At --watchers-max new clients get busy: raise it, or add a process.",
        ),)),
    Metric("balance_watchers_max", GAUGE,
        "The limit --watchers-max",
        lambda parts: parts.config.watchers_max),
    Metric("balance_deliveries_total", COUNTER,
        "Events of published snapshots that were sent to clients, or queued for them",
        lambda parts: {("socket_io",): parts.watchers.deliveries, ("sse",): parts.streams.deliveries}, ("transport",)),
    Metric("balance_resumes_total", COUNTER,
        "Clients of Socket.IO and event streams that began to watch, by outcome and by the reason of not_recovered",
        lambda parts: {outcome: parts.feed.resumptions.counts[outcome] for outcome in OUTCOMES}, ("outcome", "reason"),
        (Alert(
            "BalanceSnapshotsLost", 'increase(balance_resumes_total{reason="diverged"}[10m]) > 0', "0m", "critical",
            "A client has seen snapshots that the database has no more: after a failover or a restore.",
        ),)),
    Metric("balance_replays_total", COUNTER,
        "Clients that were sent what they had missed",
        lambda parts: parts.feed.replays),
    Metric("balance_replay_rows_total", COUNTER,
        "Snapshots that replays have passed, also those that a filter rejected",
        lambda parts: parts.feed.replayed_rows),
    Metric("balance_evictions_total", COUNTER,
        "Clients that were disconnected because their backlog was over the limit",
        lambda parts: {("socket_io",): parts.engine.sender.slow_disconnects, ("sse",): parts.streams.slow_disconnects},
        ("transport",),
        (Alert(
            "BalanceEvictions", "sum by (instance) (rate(balance_evictions_total[10m])) > 0.1", "10m", "warning",
            "Clients do not read fast enough: they are disconnected, and resume.",
        ),)),
    Metric("balance_refusals_total", COUNTER,
        "Errors that were sent to clients, by transport and code; http is for requests that could not be read, and for "
        "connections that a limit closed",
        _refusals, ("transport", "code"),
        (Alert(
            "BalanceInternalErrors",
            'sum by (instance) (increase(balance_refusals_total{code="internal_error"}[5m])) > 0', "0m", "warning",
            "A fault of the service: its log has the traceback.",
        ),)),
    Metric("balance_reads_in_flight", GAUGE,
        "List and get requests that are not answered yet",
        lambda parts: len(parts.service.read_limiter)),
    Metric("balance_pool_connections", GAUGE,
        "Open connections to the database",
        lambda parts: parts.pool.counts().size),
    Metric("balance_pool_connections_max", GAUGE,
        "The limit --pool-max",
        lambda parts: parts.config.pool_max),
    Metric("balance_pool_connections_in_use", GAUGE,
        "Connections to the database with which a thread works",
        lambda parts: parts.pool.counts().in_use),
    Metric("balance_pool_waiting", GAUGE,
        "Threads that wait for a connection to the database",
        lambda parts: parts.pool.counts().waiting,
        alerts=(Alert(
            "BalancePoolWaits", "balance_pool_waiting > 0", "2m", "warning",
            "Threads wait for connections to the database: it is slow, or cannot be reached.",
        ),)),
    Metric("balance_event_loop_lag_seconds", HISTOGRAM,
        "How late the event loop runs what is due, measured four times a second",
        lambda parts: parts.loop_lag.seconds,
        alerts=(Alert(
            "BalanceEventLoopLag",
            "histogram_quantile(0.99, sum by (instance, le) (rate(balance_event_loop_lag_seconds_bucket[5m]))) > 0.25",
            "5m", "warning",
            "The process has more to do than one core can: all clients wait. Add a process.",
        ),)),
    Metric("balance_connections_dropped_total", COUNTER,
        "New connections that were closed at once, since too few files may be open",
        lambda parts: parts.descriptors.dropped,
        alerts=(Alert(
            "BalanceConnectionsDropped", "increase(balance_connections_dropped_total[5m]) > 0", "1m", "critical",
            "Clients cannot connect: raise the hard limit on open files.",
        ),)),
    Metric("balance_accept_failures_total", COUNTER,
        "Attempts to accept a connection that failed, since the process or the machine had no file or memory left; "
        "one a second while connections wait",
        lambda parts: parts.descriptors.failures,
        alerts=(Alert(
            "BalanceAcceptsFail", "increase(balance_accept_failures_total[5m]) > 0", "1m", "critical",
            "Clients cannot connect: the process or the machine has no open files or no memory left.",
        ),)),
    Metric("balance_clock_jumps_total", COUNTER,
        "How often the clock of the machine was set by a second or more",
        lambda parts: parts.clock.jumps,
        alerts=(Alert(
            "BalanceClockJump", "increase(balance_clock_jumps_total[10m]) > 0", "0m", "warning",
            "The clock of the machine was set: the ts of updates without one, and the expiry of tokens, follow it.",
        ),)),
)  # fmt: skip
"""Each metric, in the order in which it is rendered."""

PROCESS_ALERTS = (
    Alert(
        "BalanceOpenFiles", "process_open_fds / process_max_fds > 0.85", "5m", "warning",
        "New connections are closed when no file can be opened: raise the hard limit on open files.",
    ),
)  # fmt: skip
"""Those of the metrics of the process, which the library reads."""
