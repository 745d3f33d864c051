"""The API on the test's database, and records in the form that workers store them."""

import asyncio
import contextlib
import dataclasses
import logging
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import s3fs
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient

from service.app import create_app
from service.core.settings import Settings
from service.db.artifacts import ArtifactStore
from service.db.session import Database
from service.local.api import server_config
from tests.database_cleanup import empty
from tests.service.records import Records

LOOPBACK = "http://127.0.0.1"


@pytest.fixture(scope="module")
def module_database(
    connections: Database, database_url: str, broker_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Database:
    """The session's database, emptied once for a module whose tests share an application and rows.

    Tests of such a module must not request `database`, which empties it again.
    """
    empty(connections)
    settings = Settings(
        database_url=database_url,
        broker_url=broker_url,
        data_dir=tmp_path_factory.mktemp("data"),
        log_level="CRITICAL",
        max_wait_seconds=60,
        worker_timeout_seconds=60,
    )
    return dataclasses.replace(connections, settings=settings, artifacts=ArtifactStore(settings.artifacts_url))


@pytest.fixture
def app(database: Database) -> FastAPI:
    """The service on the emptied database."""
    return create_app(database.settings)


@contextlib.contextmanager
def _client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url=LOOPBACK, client=("127.0.0.1", 50000), raise_server_exceptions=False) as connected:
        yield connected


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A client of the service, with its lifespan."""
    with _client(app) as connected:
        yield connected


@pytest.fixture(scope="module")
def module_client(module_database: Database) -> Iterator[TestClient]:
    """A client of an application shared by all tests of a module, with its lifespan."""
    with _client(create_app(module_database.settings)) as connected:
        yield connected


class _Server(uvicorn.Server):
    """A server that checks every 20 ms instead of every 100 ms whether to stop, because many tests start a server."""

    async def main_loop(self) -> None:
        counter = 0
        while not await self.on_tick(counter):
            counter = (counter + 1) % 864000
            await asyncio.sleep(0.02)


@contextlib.contextmanager
def _served(app: FastAPI, port: int = 0) -> Iterator[str]:
    config = server_config(app)
    config.timeout_graceful_shutdown = 1
    server = _Server(config)
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"{LOOPBACK}:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def serve() -> Callable[..., contextlib.AbstractContextManager[str]]:
    """Serve an application on a socket and yield its URL; streams need a socket."""
    return _served


@pytest.fixture
def records(database: Database, tmp_path: Path) -> Records:
    """Rows and artifacts in the form that workers store them."""
    return Records(database, tmp_path)


@pytest.fixture(scope="module")
def module_records(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> Records:
    """Rows and artifacts shared by all tests of a module."""
    return Records(module_database, tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="session")
def bucket() -> Iterator[dict[str, str]]:
    """A bucket of a local S3 server: the environment variables that select it, and the bucket's name."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("artifacts")
    yield {**environment, "BUCKET": "artifacts"}
    server.stop()


@pytest.fixture
def bucket_url(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty prefix in the bucket; the environment has its credentials."""
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return f"s3://{bucket['BUCKET']}/{uuid.uuid4()}"
