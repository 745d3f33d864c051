"""`/plans`: the estimated cost of a run."""

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


def test_nothing_is_stored(client: TestClient) -> None:
    client.post("/plans", json={})
    assert client.get("/runs").json()["items"] == []
