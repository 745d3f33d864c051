"""The service behind a reverse proxy: its path prefix, and the addresses of its clients."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import ValidationError

from service.app import create_app
from service.client import Client
from service.contracts.status import JobStatus
from service.core.settings import Settings
from service.db.session import Database

PREFIX = "/aligning/g2rpo"


class StrippingProxy:
    """A reverse proxy that publishes an application under PREFIX, as nginx does with a slash after `proxy_pass`."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(f"{PREFIX}/"), f"{scope['path']} leaves the prefix"
            scope = {**scope, "path": scope["path"].removeprefix(PREFIX), "raw_path": None}
        await self.app(scope, receive, send)


def connected(app: Any, address: str = "127.0.0.1", **options: Any) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", client=(address, 50000), **options)


@pytest.fixture
def prefixed(database: Database) -> FastAPI:
    """The service with the prefix as a setting."""
    return create_app(database.settings.model_copy(update={"root_path": PREFIX}))


@pytest.fixture(params=["a setting", "an option of the server"])
def published(request: pytest.FixtureRequest, app: FastAPI, prefixed: FastAPI) -> Iterator[TestClient]:
    """A client of a proxy, in front of the service with the prefix in its settings or in the server's."""
    if request.param == "a setting":
        with connected(StrippingProxy(prefixed)) as client:
            yield client
    else:
        with connected(app, root_path=PREFIX) as client:  # the server adds the prefix to the path
            yield client


class TestPrefix:
    def test_the_documentation_works(self, published: TestClient) -> None:
        page = published.get(f"{PREFIX}/docs").text
        assert f"url: '{PREFIX}/openapi.json'" in page
        assert f'"{PREFIX}/docs/assets/swagger-ui-bundle.js"' in page
        assert published.get(f"{PREFIX}/docs/assets/swagger-ui-bundle.js").status_code == 200
        document = published.get(f"{PREFIX}/openapi.json").json()
        assert document["servers"] == [{"url": PREFIX}] and "/runs" in document["paths"]

    def test_locations_and_links_lead_to_the_resource(self, published: TestClient, records: Any) -> None:
        created = published.post(f"{PREFIX}/runs", json={})
        assert published.get(created.headers["Location"]).json()["id"] == created.json()["id"]
        for name, path in published.get(f"{PREFIX}/").json().items():
            assert name == "service" or published.get(path).status_code == 200, path
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"weights"})
        (file,) = published.get(f"{PREFIX}/checkpoints/{checkpoint.id}").json()["files"]
        assert published.get(file["url"]).content == b"weights"

    def test_errors_and_public_routes_are_those_of_the_route(self, published: TestClient) -> None:
        refused = published.delete(f"{PREFIX}/runs")
        assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD, POST")
        assert published.get(f"{PREFIX}/healthz").status_code == 200

    def test_the_client_follows_links(self, prefixed: FastAPI, serve: Any, records: Any) -> None:
        checkpoint = records.checkpoint(records.run(JobStatus.SUCCEEDED), {"w": b"weights"})
        with serve(StrippingProxy(prefixed)) as url, Client(f"{url}{PREFIX}") as client:
            run = client.create_run({})
            assert client.run(run.id).id == run.id
            assert client._content(client.checkpoint(checkpoint.id).files[0].url, "*/*") == b"weights"

    def test_an_invalid_prefix_is_refused(self) -> None:
        for prefix in ("g2rpo", "/g2rpo/", "/", "https://example.com"):
            with pytest.raises(ValidationError, match="root_path"):
                Settings(root_path=prefix)


class TestClientAddress:
    @pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
    def test_a_forwarded_request_is_not_local(self, client: TestClient, name: str) -> None:
        value = "127.0.0.1" if name == "X-Forwarded-For" else "for=127.0.0.1"
        response = client.get("/runs", headers={name: value})
        assert (response.status_code, response.json()["code"]) == (403, "not_local")

    def test_only_trusted_proxies_set_the_address(self, database: Database, caplog: Any) -> None:
        def logged(address: str) -> list[Any]:
            caplog.clear()
            with connected(create_app(settings), address) as client:
                client.post("/runs", json={}, headers={"X-Forwarded-For": "198.51.100.1"})
            return [record.msg["client"] for record in caplog.records if record.name == "service.audit"]

        settings = database.settings
        assert logged("10.0.0.5") == ["10.0.0.5"]
        settings = settings.model_copy(update={"trusted_proxies": "10.0.0.0/24, ::1"})
        assert logged("10.0.0.5") == ["198.51.100.1"]
        assert logged("10.0.1.5") == ["10.0.1.5"]

    def test_the_server_ignores_the_headers_of_proxies(
        self, app: FastAPI, serve: Any, keys: Any, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = {"Authorization": f"Bearer {keys.make('write').secret}", "X-Forwarded-For": "198.51.100.1"}
        with serve(app) as url:
            httpx.post(f"{url}/runs", json={}, headers=headers, trust_env=False).raise_for_status()
        audit = [record.msg for record in caplog.records if record.name == "service.audit"]
        assert [dict(line)["client"] for line in audit] == ["127.0.0.1"]  # type: ignore[call-overload]

    def test_an_invalid_address_is_refused(self) -> None:
        with pytest.raises(ValidationError, match=r"'proxy\.example'"):
            Settings(trusted_proxies="10.0.0.1,proxy.example")
