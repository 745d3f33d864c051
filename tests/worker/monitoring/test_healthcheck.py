"""The health check of a worker's container."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from sqlalchemy import func, insert

from service.db.models import Worker
from service.db.session import Database
from worker.maintenance.housekeeping import heartbeat
from worker.monitoring.healthcheck import is_alive, main


def test_worker_with_a_recent_heartbeat_is_alive(database: Database) -> None:
    heartbeat(database, "host_a:7", "train")
    assert is_alive(database, "host_a")
    assert not is_alive(database, "host") and not is_alive(database, "hostxa")


def test_worker_without_a_recent_heartbeat_is_not_alive(database: Database) -> None:
    silent = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds + 1)
    with database.transaction() as session:
        session.execute(insert(Worker).values(name="host:7", queue="train", device="cpu", heartbeat_at=silent))
    assert not is_alive(database, "host")


def test_check_exits_silently_or_with_a_reason(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("G2RPO_DATABASE_URL", database.settings.database_url)
    with pytest.raises(SystemExit, match="had a heartbeat"):  # a text argument means status 1, and is printed to stderr
        main()
    heartbeat(database, f"{socket.gethostname()}:7", "train")
    main()


def test_command_exits_with_status_and_reason() -> None:
    environment = {**os.environ, "G2RPO_DATABASE_URL": "postgresql://127.0.0.1:9/g2rpo"}
    command = [sys.executable, "-m", "worker.monitoring.healthcheck"]
    away = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert away.returncode == 1 and "database query failed" in away.stderr and "Traceback" not in away.stderr
