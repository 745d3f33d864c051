"""What workers measure of themselves, as metrics: numbers by name, which they write beside their heartbeat."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric


@dataclass(frozen=True)
class Told:
    """A worker, and what it told."""

    worker: str
    queue: str
    stats: Mapping[str, Any]


@dataclass(frozen=True)
class Measure:
    """A number that a worker may tell under `name`, or one for every value of `label` under `name.VALUE`."""

    name: str
    documentation: str
    counter: bool = False
    label: str | None = None

    def family(self, told: Sequence[Told]) -> Metric:
        """The metric `g2rpo_worker_NAME` of these workers; a counter begins at zero with each worker's process."""
        kind = CounterMetricFamily if self.counter else GaugeMetricFamily
        labels = ["worker", "queue", *([self.label] if self.label else [])]
        family = kind(f"g2rpo_worker_{self.name}", self.documentation, labels=labels)
        for one in told:
            for values, number in self._numbers(one.stats):
                family.add_metric([one.worker, one.queue, *values], number)
        return family

    def _numbers(self, stats: Mapping[str, Any]) -> Iterator[tuple[list[str], float]]:
        for name, number in stats.items():
            word, dot, value = name.partition(".")
            if word == self.name and bool(dot) == bool(self.label) and isinstance(number, int | float):
                yield [value] if self.label else [], float(number)


MEASURES = (
    Measure("jobs", "Jobs that left the worker, by how.", counter=True, label="outcome"),
    Measure("steps", "Optimizer steps done by its runs and recorded.", counter=True),
    Measure("nfe", "NFE done by its runs and recorded.", counter=True),
    Measure("images", "Images drawn by its generations and evaluations.", counter=True),
    Measure("answers", "Answers of judges that it recorded.", counter=True),
    Measure("lease_renewals_failed", "Renewals of a lease that the database did not take.", counter=True),
    Measure("leases_lost", "Leases that it could not renew in time, so that it gave its job up.", counter=True),
    Measure("leases_expired", "Jobs of vanished workers that it found and put back.", counter=True),
    Measure("ingestion_lag_bytes", "Bytes of events that its job has written and that are not yet in rows."),
    Measure("ingestion_lag_seconds", "How long there have been such bytes without a break."),
    Measure("gpu_memory_used_bytes", "Memory in use on a card it may use, by all processes.", label="gpu"),
    Measure("gpu_memory_total_bytes", "Memory of a card it may use.", label="gpu"),
    Measure("devices", "Processes that can have a device each: cards it may use, or else cores."),
    Measure("memory_total_bytes", "Memory of a machine without cards, or what its container may have of it."),
    Measure("data_free_bytes", "Room left where it keeps the files of its jobs."),
)
"""Every number of `workers.stats` that is shown."""


def measured(told: Iterable[Told]) -> Iterator[Metric]:
    """A metric for each of MEASURES."""
    workers = list(told)
    return (measure.family(workers) for measure in MEASURES)
