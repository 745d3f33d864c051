"""`/catalog`: the names that requests may use."""

from datetime import UTC, datetime, timedelta

from fastapi.testclient import TestClient

from service.contracts.algorithms import CONTRACTS
from service.contracts.catalog import load_catalog
from service.contracts.presets import PRESETS
from service.contracts.runs import RunSpec
from service.db.models import Worker
from service.db.session import Database


def test_all_names_are_listed(client: TestClient) -> None:
    shown, catalog = client.get("/catalog").json(), load_catalog()
    for noun, entries in (
        ("models", catalog.models),
        ("rewards", catalog.rewards),
        ("prompt_sets", catalog.prompt_sets),
    ):
        assert [entry["name"] for entry in shown[noun]] == [entry.name for entry in entries]
    assert shown["presets"].keys() == PRESETS.keys()
    assert shown["preset_descriptions"].keys() == PRESETS.keys()
    assert all(text.endswith(".") for text in shown["preset_descriptions"].values())
    for name, spec in shown["presets"].items():
        assert RunSpec.model_validate(spec) == RunSpec(preset=name)
    assert {algorithm["name"] for algorithm in shown["algorithms"]} == CONTRACTS.keys()
    for algorithm in shown["algorithms"]:
        assert algorithm["json_schema"]["properties"]["group_size"]["minimum"] == 2


def test_paths_of_weights_are_not_shown(client: TestClient) -> None:
    assert all("source" not in entry for entry in client.get("/catalog").json()["models"])


def test_workers_with_a_recent_heartbeat_are_listed(client: TestClient, database: Database) -> None:
    now = datetime.now(UTC)
    with database.transaction() as session:
        session.add(Worker(name="here", queue="train", device="two CPU cores", heartbeat_at=now))
        session.add(Worker(name="gone", queue="train", device="cuda:0", heartbeat_at=now - timedelta(minutes=5)))
    workers = client.get("/catalog").json()["workers"]
    assert [(worker["name"], worker["queue"], worker["device"]) for worker in workers] == [
        ("here", "train", "two CPU cores")
    ]
