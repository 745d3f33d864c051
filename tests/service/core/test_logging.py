"""The service process writes only JSON lines."""

import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import structlog

from service.core import logging as service_logging
from service.db.session import Database


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """Read the lines logged since the last call; the configuration is reset afterwards."""
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    structlog.contextvars.clear_contextvars()
    service_logging.configure("CRITICAL")


def test_a_line_has_time_level_event_and_request_id(lines: Any) -> None:
    service_logging.configure("INFO")
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        structlog.get_logger("service.x").info("happened", number=3)
        logging.getLogger("celery.worker").info("a library's %s", "line")
    structlog.get_logger("service.x").debug("too quiet")

    ours, theirs = lines()
    assert list(ours)[:4] == ["time", "level", "event", "logger"]
    assert ours | {"time": ""} == {
        "time": "",
        "level": "info",
        "event": "happened",
        "logger": "service.x",
        "request_id": "r-1",
        "number": 3,
    }
    assert (theirs["event"], theirs["level"], theirs["request_id"]) == ("a library's line", "info", "r-1")


def test_configuring_twice_does_not_double_the_lines(lines: Any) -> None:
    service_logging.configure("INFO")
    service_logging.configure("INFO", worker="here:1")
    structlog.get_logger("worker.x").warning("once")
    [line] = lines()
    assert line["worker"] == "here:1"


@pytest.mark.parametrize("logger", [structlog.get_logger("service.x"), logging.getLogger("some.library")])
def test_an_exception_is_logged_without_local_variables(lines: Any, logger: Any) -> None:
    service_logging.configure("INFO")

    def fails() -> None:
        secret = "hunter2"  # noqa: F841
        raise ValueError("what happened")

    try:
        fails()
    except ValueError:
        logger.exception("failed")
    [line] = lines()
    [logged] = line["exception"]
    assert (logged["exc_type"], logged["exc_value"]) == ("ValueError", "what happened")
    assert logged["frames"][-1]["name"] == "fails"
    assert "hunter2" not in json.dumps(line)


def test_passwords_in_urls_are_masked(lines: Any) -> None:
    service_logging.configure("INFO")
    logging.getLogger("kombu").error("cannot connect to redis://:hunter2@cache:6379/0 for user@example.org")
    structlog.get_logger("service.x").error("x", url="postgresql+psycopg://u:p%40ss@db/g2rpo")
    first, second = lines()
    assert first["event"] == "cannot connect to redis://:***@cache:6379/0 for user@example.org"
    assert second["url"] == "postgresql+psycopg://u:***@db/g2rpo"


def test_other_libraries_are_logged_from_level_warning(lines: Any) -> None:
    service_logging.configure("INFO")
    logging.getLogger("alembic.runtime.migration").info("context impl")
    logging.getLogger("kombu").warning("the broker went away")
    assert [line["event"] for line in lines()] == ["the broker went away"]


def test_a_server_process_writes_only_json_lines(database: Database) -> None:
    settings = database.settings
    environment = {
        "G2RPO_DATABASE_URL": settings.database_url,
        "G2RPO_BROKER_URL": settings.broker_url,
        "G2RPO_DATA_DIR": str(settings.data_dir),
        "G2RPO_LEASE_SECOND": "5",
    }
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "service.app:create_app", "--fd", str(listening.fileno())],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(listening.fileno(),),
            env=os.environ | environment,
        )
        try:
            httpx.get(f"http://127.0.0.1:{port}/runs?limit=1", headers={"X-Request-ID": "mine-1"}, timeout=60)
        finally:
            process.terminate()
            printed, _ = process.communicate()
    written = [json.loads(line) for line in printed.splitlines()]
    assert {"time", "level", "event"} <= set.intersection(*(set(line) for line in written))
    [request] = [line for line in written if line["event"] == "request"]
    assert (request["request_id"], request["path"], request["status"]) == ("mine-1", "/runs", 200)
    [unknown] = [line for line in written if line["event"] == "setting.unknown"]
    assert (unknown["variable"], unknown["did_you_mean"]) == ("G2RPO_LEASE_SECOND", "G2RPO_LEASE_SECONDS")
    assert any("Application startup complete" in line["event"] for line in written)
