"""Requests that a browser sends for pages of other origins."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

PROMPTS: dict[str, Any] = {"url": "/prompt-sets?name=mine", "content": b"a red circle\n"}
OWN = "http://127.0.0.1"


def post(client: TestClient, **headers: str) -> Any:
    """Upload prompts as a page can without permission of the service: `text/plain` needs no preflight request."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(**PROMPTS, headers={"Content-Type": "text/plain", **sent})


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:3000"},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Origin": "https://evil.example", "Sec_Fetch_Site": "same-origin"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Origin": "http://localhost", "Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_origins_cannot_change_data(client: TestClient, headers: dict[str, str]) -> None:
    response = post(client, **headers)
    assert (response.status_code, response.json()["code"]) == (403, "cross_origin")
    assert "Origin" in response.json()["detail"]
    assert client.get("/prompt-sets/mine").status_code == 404


@pytest.mark.parametrize("method", ["POST", "PATCH", "DELETE", "PUT"])
def test_every_method_that_changes_data_is_refused(client: TestClient, method: str) -> None:
    response = client.request(method, "/runs/1", headers={"Origin": "https://evil.example"})
    assert (response.status_code, response.json()["code"]) == (403, "cross_origin")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": OWN},
        {"Origin": OWN.upper(), "Sec_Fetch_Site": "same-origin"},
        {"Origin": "https://127.0.0.1", "Sec_Fetch_Site": "same-origin"},  # a proxy with TLS hides the scheme
        {"Sec_Fetch_Site": "none"},
    ],
)
def test_the_own_origin_and_programs_can_change_data(client: TestClient, headers: dict[str, str]) -> None:
    assert post(client, **headers).status_code == 201


def test_pages_of_other_origins_can_link_to_the_service(client: TestClient) -> None:
    assert client.get("/runs", headers={"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}).is_success
