"""One registry for each application: several in one process, as in tests, do not count together."""

from prometheus_client import CollectorRegistry, GCCollector, Info, PlatformCollector, ProcessCollector

from service.db.session import Database
from service.observability.metrics.state import ServiceState


def make_registry(database: Database, version: str) -> CollectorRegistry:
    """Metrics of this process and of the service on `database`."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    Info("g2rpo_build", "What is running.", registry=registry).info({"version": version})
    registry.register(ServiceState(database))
    return registry
