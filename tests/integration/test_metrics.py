"""The metrics contain the workers' counters."""

from collections.abc import Callable
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families as parse

from service.client import Client
from service.local.stack import Stack


def test_every_step_of_a_finished_run_is_counted(
    stack: Stack, client: Client, finished: Any, eventually: Callable[[Callable[[], object]], None]
) -> None:
    def metrics() -> dict[str, float]:
        text = httpx.get(f"{stack.url}/metrics", trust_env=False).text
        every = [sample for family in parse(text) for sample in family.samples]
        return {one.name: one.value for one in every if one.labels.get("queue", "train") == "train"}

    # After the worker's next heartbeat. A worker killed by another test remains in the list for some seconds.
    eventually(lambda: "g2rpo_worker_jobs_total" in metrics() and metrics()["g2rpo_workers"] == 1)
    found = metrics()
    # Other tests' runs may have been counted too.
    assert found["g2rpo_worker_jobs_total"] >= 1
    assert found["g2rpo_worker_steps_total"] >= finished.progress.step
    nfe = [curve for curve in client.curves(finished.id, ["nfe/*"]).curves if "total" not in curve.name]
    assert found["g2rpo_worker_nfe_total"] >= sum(sum(curve.values) for curve in nfe) > 0
    assert found["g2rpo_worker_data_free_bytes"] > 0
    assert found["g2rpo_database_scrape_seconds"] < 1
