"""`/plans`: the estimated cost of a run."""

import pytest
from fastapi.testclient import TestClient


def test_the_paper_preset_has_the_nfe_of_the_paper(client: TestClient) -> None:
    plan = client.post("/plans", json={"preset": "paper"}).json()
    assert (plan["per_prompt"]["total"], plan["naive_per_prompt"]["total"]) == (1708, 2188)
    assert plan["paper_formula"]["total"] == 179


def test_names_missing_from_the_catalog_are_warnings(client: TestClient) -> None:
    response = client.post("/plans", json={"model": "mine", "rewards": [{"name": "beauty"}]})
    assert response.status_code == 200
    warnings = " ".join(response.json()["warnings"])
    assert "'mine'" in warnings and "'beauty'" in warnings


def test_an_invalid_spec_is_rejected(client: TestClient) -> None:
    response = client.post("/plans", json={"algorithm": {"group_size": 1}})
    assert response.status_code == 422
    assert response.json()["errors"][0]["loc"] == ["body", "algorithm", "group_size"]


@pytest.mark.parametrize("route", ["/plans", "/runs"])
def test_body_with_too_many_or_too_deep_values_is_rejected_before_parsing(client: TestClient, route: str) -> None:
    for body, message in ((b"[" + b"[]," * 2_000_000 + b"1]", "20000 values"), (b"[" * 100, "nested more than 64")):
        response = client.post(route, content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422 and message in response.json()["detail"]


def test_ten_thousand_long_prompts_are_accepted(client: TestClient) -> None:
    prompts = [f"number {number}, " + "a [red] {circle}, " * 60 for number in range(10_000)]
    assert client.post("/plans", json={"prompts": {"items": prompts}}).status_code == 200


def test_body_limits_fit_the_route(client: TestClient) -> None:
    large = b'{"name": "' + b"a" * 2**22 + b'"}'
    headers = {"Content-Type": "application/json"}
    assert client.post("/generate", content=large, headers=headers).status_code == 413
    assert client.post("/runs", content=large, headers=headers).status_code == 422
    many = b'{"prompts": [' + b"1," * 1000 + b"1]}"
    assert "more than 1000 values" in client.post("/generate", content=many, headers=headers).text


def test_nothing_is_stored(client: TestClient) -> None:
    client.post("/plans", json={})
    assert client.get("/runs").json()["items"] == []
