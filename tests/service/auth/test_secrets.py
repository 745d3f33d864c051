"""Secrets appear in no log and in no response."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr

from service.app import create_app
from service.core.api_key_format import new_secret
from service.core.settings import Settings
from service.db.session import Database

PASSWORD = "pass-w0rd-of-the-server"
BODY = {"Content-Type": "application/json"}


def presentations(secret: str) -> list[dict[str, str]]:
    """Headers with a key, valid and malformed."""
    forms = ("Bearer {}", "Basic {}", "{}", "Bearer {} {}", "Bearer {}x")
    return [{"Authorization": form.format(secret, secret)} for form in forms]


def ask_everything(client: TestClient, secret: str) -> str:
    """Send requests that fail in many ways, each with a key in it, and return all responses."""
    answers = []
    for headers in presentations(secret):
        answers += [
            client.get("/runs", headers=headers),
            client.get("/runs", params={"limit": -1, "key": secret}, headers=headers),
            client.get("/keys/1", headers=headers),
            client.post("/runs", content=b"{", headers={**headers, **BODY}),
            client.post("/runs", json={"model": "unheard-of"}, headers=headers),
            client.post("/runs", json={}, headers=headers),
            client.post("/keys", json={"name": "x", "scopes": ["owner"]}, headers=headers),
            client.put("/runs", headers=headers),
            client.get("/readyz", headers=headers),
            client.get("/metrics", headers=headers),
        ]
    return "\n".join(answer.text + str(answer.headers) for answer in answers)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"database_url": f"postgresql+psycopg://u:{PASSWORD}@127.0.0.1:1/d"},
        {"broker_url": f"redis://:{PASSWORD}@127.0.0.1:1/0"},
    ],
    ids=["all well", "database away", "broker away"],
)
def test_failing_requests_show_no_secret(
    database: Database,
    remote: Callable[[FastAPI], TestClient],
    keys: Any,
    capfd: pytest.CaptureFixture[str],
    change: dict[str, str],
) -> None:
    environment = new_secret()
    update = {"log_level": "DEBUG", "admin_key": SecretStr(environment), **change}
    client = remote(create_app(database.settings.model_copy(update=update)))
    good, revoked, unknown = keys.make().secret, keys.make(revoked_at="2026-01-01").secret, new_secret()
    answers = "".join(ask_everything(client, secret) for secret in (good, revoked, unknown, environment))
    answers += client.get(f"/runs/{good}").text.replace(good, "")  # the path, repeated in the response
    out, err = capfd.readouterr()
    assert '"event": "request"' in err and '"event": "audit"' in err
    for secret in (good, revoked, unknown, environment):
        assert secret[12:] not in out + err
        assert secret[12:] not in answers
    assert PASSWORD not in out + err + answers


BAD = (
    {"G2RPO_DATABASE_URL": f"mysql://u:{PASSWORD}@h/d"},
    {"G2RPO_DATABASE_URL": f"postgresql://u:{PASSWORD}:x@h:port/d"},
    {"G2RPO_DATABASE_URL": f"{PASSWORD}"},
    {"G2RPO_BROKER_URL": f"redis://:x/{PASSWORD}@h:6379/0"},
    {"G2RPO_BROKER_URL": f"{PASSWORD}"},
    {"G2RPO_ADMIN_KEY": PASSWORD},
    {"G2RPO_LEASE_SECONDS": "1", "G2RPO_DATABASE_URL": f"postgresql://u:{PASSWORD}@h/d"},
)
_STARTS = """
import json, os, sys
import {before}
for number, environment in enumerate(json.loads(sys.argv[1])):
    if (child := os.fork()) == 0:
        os.environ.update(environment)
        log = os.open(f"{{number}}.log", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1), os.dup2(log, 2)
        try:
            {start}
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
"""Starts with invalid settings, each in a separate process, after importing modules that read no settings."""


@pytest.mark.parametrize(
    ("before", "start"),
    [
        ("service.app", "service.app.create_app()"),
        ("celery, structlog, service.db.session", "import worker.celery_app, service.core.settings as s; s.Settings()"),
    ],
    ids=["service.app", "worker.celery_app"],
)
def test_invalid_settings_are_named_without_secrets(before: str, start: str, tmp_path: Path) -> None:
    common = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path.cwd()), "G2RPO_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-c", _STARTS.format(before=before, start=start), json.dumps(BAD)],
        env=common,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == ["1"] * len(BAD), done.stderr
    for number, environment in enumerate(BAD):
        output = (tmp_path / f"{number}.log").read_text()
        assert next(iter(environment)).removeprefix("G2RPO_").lower() in output.lower()
        assert PASSWORD not in output


def test_a_worker_without_servers_shows_no_password(
    tmp_path: Path, eventually: Callable[[Callable[[], object]], None]
) -> None:
    log = tmp_path / "worker.log"
    environment = {
        "PATH": os.environ["PATH"],
        "G2RPO_DATA_DIR": str(tmp_path),
        "G2RPO_DATABASE_URL": f"postgresql://u:{PASSWORD}@127.0.0.1:1/d",
        "G2RPO_BROKER_URL": f"redis://u:{PASSWORD}@127.0.0.1:1/0",
    }
    words = ["celery", "--app", "worker.celery_app", "worker", "--queues", "train", "--loglevel", "DEBUG"]
    with log.open("wb") as writing:
        worker = subprocess.Popen(
            [sys.executable, "-m", *words, "--without-mingle", "--without-gossip"],
            env=environment,
            stdout=writing,
            stderr=subprocess.STDOUT,
        )
    try:
        eventually(lambda: "Cannot connect to redis://" in log.read_text())
    finally:
        worker.terminate()
        worker.wait(30)
    assert PASSWORD not in log.read_text()


def test_settings_do_not_print_their_secrets() -> None:
    settings = Settings(
        database_url=f"postgresql://u:{PASSWORD}@h/d",
        broker_url=f"redis://:{PASSWORD}@h/0",
        admin_key=SecretStr(secret := new_secret()),
    )
    assert PASSWORD not in repr(settings) + str(settings)
    assert secret not in repr(settings) + str(settings)
