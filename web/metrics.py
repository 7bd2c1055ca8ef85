"""`/metrics`: what the end-of-run step counted in Redis, so it is right over any number of processes and machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import db

DOCS = {
    "worker_runs_total": ("Attempts that ended, lost ones included", "worker"),
    "worker_errors_total": ("Attempts that failed, were retried, refused or lost", "worker"),
    "worker_duration_seconds": ("How long attempts took", "worker"),
    "schedule_lateness_seconds": ("From the due time to the start of the first attempt", "worker"),
    "queue_latency_seconds": ("From the enqueueing to the start", "queue"),
    "schedule_missed_total": ("Due times that got no run of their own", "reason"),
}
BOUNDS = ("0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "30", "60", "300", "+Inf")


def render(snapshot: dict[str, Any]) -> bytes:
    """The text format of Prometheus 0.0.4; gauges come from web.status.snapshot."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families([*counted(), *gauges(snapshot)]))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: list[Any]) -> None:
        self.families = families

    def collect(self) -> list[Any]:
        return self.families


def counted() -> Iterator[Any]:
    """Counters and histograms, from the hash that take.lua, fire.lua and the rescue keep."""
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    fields: dict[str, dict[str, dict[str, float]]] = {}
    hash_: dict[bytes, bytes] = db.redis().hgetall("nightdesk:metrics")  # type: ignore[assignment]
    for raw, value in hash_.items():
        name, label, *part = raw.decode().split("|")
        fields.setdefault(name, {}).setdefault(label, {})[part[0] if part else ""] = float(value)
    for name, (words, label_name) in DOCS.items():
        labels = sorted(fields.get(name, {}).items())
        if name.endswith("_total"):
            counter = CounterMetricFamily(name.removesuffix("_total"), words, labels=[label_name])
            for label, parts in labels:
                counter.add_metric([label], parts[""])
            yield counter
        else:
            histogram = HistogramMetricFamily(name, words, labels=[label_name])
            for label, parts in labels:
                histogram.add_metric([label], _cumulated(parts), parts.get("sum", 0.0))
            yield histogram


def _cumulated(parts: dict[str, float]) -> list[tuple[str, float]]:
    so_far, buckets = 0.0, []
    for bound in BOUNDS:
        so_far += parts.get(bound, 0.0)
        buckets.append((bound, so_far))
    return buckets


def gauges(snapshot: dict[str, Any]) -> Iterator[Any]:
    """What is true now: age of data, budgets, queues, the schedule."""
    from prometheus_client.core import GaugeMetricFamily

    age = GaugeMetricFamily("data_age_seconds", "Age of the newest value, by its source's own time", labels=["symbol"])
    for quote in snapshot["quotes"]:
        if quote["age"] is not None:
            age.add_metric([quote["symbol"]], quote["age"].total_seconds())
    left = GaugeMetricFamily("provider_budget_remaining", "Credits left in the window", labels=["provider", "window"])
    for provider in snapshot["providers"]:
        for window in provider["windows"]:
            left.add_metric([provider["name"], window["window"]], window["limit"] - window["used"])
    waiting = GaugeMetricFamily("queue_waiting", "Runs that wait", labels=["queue"])
    for queue in snapshot["queues"]:
        waiting.add_metric([queue["queue"]], queue["waiting"])
    dead = GaugeMetricFamily("dead_letters", "Open dead letters", value=sum(g["letters"] for g in snapshot["dead"]))
    behind = GaugeMetricFamily(
        "schedule_behind_seconds", "How long the schedule has stood still", value=snapshot["schedule_behind_s"] or 0
    )
    yield from (age, left, waiting, dead, behind)
