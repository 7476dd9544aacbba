"""Reads the metrics of the table, and renders them with those of the process.

Threads: `read` is for the event loop; `scrape` renders in a thread, since the metrics of the process list its files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from math import inf

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.registry import Collector

from balance.aio.histogram import Histogram
from balance.metrics.table import COUNTER, METRICS, Metric, Parts, Value

MEDIA_TYPE = CONTENT_TYPE_PLAIN_0_0_4  # which every version of Prometheus reads


class Metrics:
    """The metrics of one process. Counters begin at its start."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._process = ProcessCollector(registry=None)

    async def scrape(self) -> bytes:
        """Return all metrics as text, of the media type MEDIA_TYPE."""
        return await asyncio.to_thread(self._render, self.read())

    def read(self) -> list[Family]:
        """Read the metrics of the table."""
        return [_family(metric, metric.read(self._parts)) for metric in METRICS]

    def _render(self, families: list[Family]) -> bytes:
        registry = CollectorRegistry()
        registry.register(_Families(families))
        registry.register(self._process)
        return generate_latest(registry)


class _Families(Collector):
    """Metrics that were read already."""

    def __init__(self, families: list[Family]) -> None:
        self._families = families

    def describe(self) -> Iterable[Family]:
        return []

    def collect(self) -> Iterable[Family]:
        return self._families


def _family(metric: Metric, value: Value) -> Family:
    """Return a metric in the form of the library."""
    if isinstance(value, Histogram):
        buckets = [("+Inf" if bound == inf else str(bound), count) for bound, count in value.cumulative()]
        return HistogramMetricFamily(metric.name, metric.help, buckets, value.sum)
    make = CounterMetricFamily if metric.kind == COUNTER else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=metric.labels)
    values = value if isinstance(value, Mapping) else {} if value is None else {(): value}
    for labels, number in values.items():
        family.add_metric(labels, number)
    return family
