"""Security headers of pages and other responses."""

import re
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

LOCAL: dict[str, Any] = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000)}


def policy(value: str) -> dict[str, set[str]]:
    """The sources of each directive."""
    directives = (directive.split() for directive in value.split(";"))
    return {name: set(sources) for name, *sources in directives}


def test_a_page_may_only_use_files_of_the_service_and_cannot_be_framed(app: FastAPI) -> None:
    @app.get("/page")
    def page() -> HTMLResponse:
        return HTMLResponse("<p>a page</p>")

    with TestClient(app, **LOCAL) as client:
        headers = client.get("/page").headers
    found = policy(headers["Content-Security-Policy"])
    assert found["default-src"] == found["frame-ancestors"] == found["base-uri"] == found["form-action"] == {"'none'"}
    assert found["script-src"] == found["style-src"] == found["connect-src"] == {"'self'"}
    assert found["img-src"] == {"'self'", "blob:"}
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"


def test_the_policy_of_the_documentation_allows_what_its_page_contains(client: TestClient) -> None:
    response = client.get("/docs")
    found = policy(response.headers["Content-Security-Policy"])
    assert found["frame-ancestors"] == {"'none'"} and response.headers["X-Frame-Options"] == "DENY"
    sources = {"script": found["script-src"], "link": found["style-src"] & found["img-src"]}
    for tag, file in re.findall(r"""<(script|link)\b[^>]*(?:src|href)="([^"]*)\"""", response.text):
        assert file.startswith("/docs/assets/") and "'self'" in sources[tag], (tag, file)
    assert "<script>" in response.text and "'unsafe-inline'" in found["script-src"]
    style = client.get("/docs/assets/swagger-ui.css").text
    assert "url(data:" in style.replace('"', "") and "data:" in found["img-src"]
    assert "'self'" in found["connect-src"]


@pytest.mark.parametrize("path", ["/healthz", "/nowhere", "/metrics", "/openapi.json"])
def test_other_responses_are_not_interpreted_as_another_media_type(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "Content-Security-Policy" not in headers
