"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from alpro.served.engine import Kind
from alpro.served.stack import Served

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("alpro_requests", "Requests by route and status.", ["route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "alpro_request_seconds",
            "Time from a request's first byte to its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.batches = Histogram(
            "alpro_batch_requests",
            "Requests that went through the model together.",
            ["kind"],
            buckets=SIZES,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def observe_batch(self, kind: Kind, size: int) -> None:
        """Count a batch."""
        self.batches.labels(kind).observe(size)

    def watch(self, served: Served) -> None:
        """Show the queue and the models of a service."""
        self.registry.register(_State(served))

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """Queue length and model versions at the time they are asked for."""

    def __init__(self, served: Served) -> None:
        self.served = served

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily("alpro_queue_requests", "Requests that are not answered yet.", self.served.engine.pending)
        info = GaugeMetricFamily(
            "alpro_model_info", "The model in use; the value is always 1.", labels=["role", "name", "origin"]
        )
        for role, version in self.served.models.current().items():
            info.add_metric([role, version.name, version.origin], 1)
        yield info
