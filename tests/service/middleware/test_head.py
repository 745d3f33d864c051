"""HEAD: the headers of GET without a body."""

import time
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.contracts.status import JobStatus


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/readyz", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/runs", "/catalog"]
)
def test_head_gives_the_headers_of_get(client: TestClient, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("Content-Type", "Content-Length"):
        assert head.headers.get(name) == got.headers.get(name), name


def test_every_route_with_get_has_head(client: TestClient) -> None:
    for path in client.get("/openapi.json").json()["paths"].values():
        assert path.keys() - {"get", "post", "patch", "delete", "head"} == set()
    assert client.head("/metrics").status_code == 200
    assert client.head("/runs/00000000-0000-0000-0000-000000000000").status_code == 404
    assert client.head("/runs/1").status_code == 422
    refused = client.head("/generate")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")


def test_a_head_request_is_measured_and_logged_as_one(client: TestClient) -> None:
    client.head("/catalog")
    name = 'g2rpo_http_request_duration_seconds_count{method="HEAD",route="/catalog",status="200"} 1.0'
    assert name in client.get("/metrics").text


def test_on_a_connection_no_body_follows_and_streams_end(app: FastAPI, serve: Any, records: Any) -> None:
    run = records.run(JobStatus.RUNNING)
    with serve(app) as url, httpx.Client(base_url=url, trust_env=False) as client:
        start = time.monotonic()
        for _ in range(2):  # on the same connection
            for path in ("/healthz", "/docs", f"/runs/{run.id}/events", "/metrics"):
                response = client.head(path)
                assert (response.status_code, response.content) == (200, b""), path
        assert time.monotonic() - start < 10
        assert "g2rpo_event_streams 0.0" in client.get("/metrics").text
