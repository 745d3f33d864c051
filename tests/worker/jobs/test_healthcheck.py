"""The health check of a worker's container."""

import os
import socket
import subprocess
import sys
from datetime import timedelta

from sqlalchemy import func, insert

from service.db.models import Worker
from service.db.session import Database
from worker.healthcheck import is_heard
from worker.housekeeping import heartbeat


def test_a_worker_of_this_host_is_heard_while_its_heartbeat_is_fresh(database: Database) -> None:
    heartbeat(database, "host_a:7", "train")
    assert is_heard(database, "host_a")
    assert not is_heard(database, "host") and not is_heard(database, "hostxa")


def test_a_worker_that_fell_silent_is_not_heard(database: Database) -> None:
    silent = func.now() - timedelta(seconds=database.settings.worker_timeout_seconds + 1)
    with database.transaction() as session:
        session.execute(insert(Worker).values(name="host:7", queue="train", device="cpu", heartbeat_at=silent))
    assert not is_heard(database, "host")


def test_the_command_ends_with_a_status_and_a_reason(database: Database) -> None:
    def check(url: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "G2RPO_DATABASE_URL": url}
        command = [sys.executable, "-m", "worker.healthcheck"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    url = database.settings.database_url
    unheard = check(url)
    assert unheard.returncode == 1 and "was heard" in unheard.stderr
    heartbeat(database, f"{socket.gethostname()}:7", "train")
    assert check(url).returncode == 0
    away = check("postgresql://127.0.0.1:9/g2rpo")
    assert away.returncode == 1 and "cannot be asked" in away.stderr and "Traceback" not in away.stderr
