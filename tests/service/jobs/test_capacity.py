"""Runs that do not fit the reported devices: refused as a run, a warning in a plan."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.core.catalog_loader import CatalogLoader
from service.db.models import Worker
from service.db.session import Database

FLUX = Path(__file__).parents[3] / "docs" / "reference" / "catalogs" / "flux.yaml"
H100 = {"gpu_memory_total_bytes.0": 81_559 * 2**20}


@pytest.fixture(autouse=True)
def catalog_with_devices(app: FastAPI) -> None:
    app.state.catalog = CatalogLoader(FLUX)


def there(database: Database, stats: dict[str, float], queue: str = "train", age: float = 0) -> None:
    heard = datetime.now(UTC) - timedelta(seconds=age)
    with database.transaction() as session:
        session.add(Worker(name=f"{queue}:{age}", queue=queue, device="some", stats=stats, heartbeat_at=heard))


def warned(client: TestClient, **spec: Any) -> list[str]:
    answer = client.post("/plans", json=spec)
    assert answer.status_code == 200, answer.text
    return [one for one in answer.json()["warnings"] if one.startswith(("model", "resources"))]


def test_paper_run_with_lora_fits_an_h100(client: TestClient, database: Database) -> None:
    there(database, H100)
    assert warned(client, preset="paper-lora") == []
    assert client.post("/runs", json={"preset": "paper-lora"}).status_code in (201, 202)


def test_run_that_fits_no_device_is_refused_with_remedies(client: TestClient, database: Database) -> None:
    there(database, {"gpu_memory_total_bytes.0": 24e9, "gpu_memory_total_bytes.1": 48e9})
    keeping = {"preset": "paper-lora", "training": {"gradient_checkpointing": False}}
    refused = client.post("/runs", json=keeping)
    assert refused.status_code == 422
    (error,) = refused.json()["errors"]
    assert error["loc"] == ["body", "model"]
    for words in (
        "90.6 GB in the phase update (weights 23.8 GB, copy of base weights 17.2 GB, "
        "adapter's inputs 16.0 GB, activations",
        "has 48.0 GB",
        "training.gradient_checkpointing true, resources.offload_rewards true",
    ):
        assert words in error["msg"]
    (warning,) = warned(client, **keeping)
    assert error["msg"] in warning


def test_processes_share_the_memory_of_a_host_without_gpus(client: TestClient, database: Database) -> None:
    there(database, {"devices": 2, "memory_total_bytes": 1.5e9})
    shapes = {"preset": "shapes", "rewards": [{"name": "shapes_verifier"}]}
    assert warned(client, **shapes) == []
    (warning,) = warned(client, **shapes, resources={"processes_per_node": 2})
    assert "has 0.8 GB" in warning


def test_lost_workers_and_other_queues_do_not_count(client: TestClient, database: Database) -> None:
    there(database, {"gpu_memory_total_bytes.0": 1e9}, age=3600)
    there(database, H100, queue="generate")
    (warning,) = warned(client, preset="paper-lora")
    assert "no worker reports its device memory" in warning and "64.8 GB" in warning
