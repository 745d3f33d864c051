"""`POST /runs` and `/plans`: every algorithm is accepted, and errors name the field of the request."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from service.contracts.algorithms import CONTRACTS
from tests.service.contracts.test_algorithms import REFUSALS


@pytest.mark.parametrize(("changes", "place", "says"), REFUSALS)
def test_an_error_has_the_location_of_the_field(
    client: TestClient, changes: dict[str, Any], place: tuple[str | int, ...], says: list[str]
) -> None:
    body = {"sampling": {"steps": 8}, "training": {"prompts_per_step": 8}, **changes}
    for path in ("/runs", "/plans"):
        response = client.post(path, json=body)
        assert (response.status_code, response.json()["code"]) == (422, "invalid_request")
        errors = response.json()["errors"]
        assert all(part not in CONTRACTS for error in errors for part in error["loc"])
        messages = [error["msg"] for error in errors if error["loc"] == ["body", *place]]
        assert any(all(words in message for words in says) for message in messages), errors
        assert not any(message.startswith("Value error") for message in messages)


@pytest.mark.parametrize("name", CONTRACTS)
def test_each_algorithm_is_accepted_with_its_plan(client: TestClient, name: str) -> None:
    run = client.post("/runs", json={"algorithm": {"name": name}}).json()
    assert (run["status"], run["algorithm"], run["spec"]["algorithm"]["name"]) == ("queued", name, name)
    assert run["plan"]["per_prompt"]["total"] > 0
    assert (run["plan"]["paper_formula"] is not None) is (name == "g2rpo")
    assert client.get("/runs", params={"algorithm": name}).json()["items"][0]["id"] == run["id"]
