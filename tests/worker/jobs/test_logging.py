"""A worker logs JSON lines that name the worker, the job and the request."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import structlog
from kombu import Connection

from service.contracts.status import TERMINAL
from service.core.settings import Settings
from service.db.models import Run
from service.db.session import Database, connect
from service.jobs.queue import Queue


def environment(settings: Settings) -> dict[str, str]:
    return os.environ | {
        "G2RPO_DATABASE_URL": settings.database_url,
        "G2RPO_BROKER_URL": settings.broker_url,
        "G2RPO_DATA_DIR": str(settings.data_dir),
        "G2RPO_RECONCILE_SECONDS": "0.5",
        "G2RPO_LEASE_SECOND": "5",
    }


def add(database: Database) -> Run:
    """A run that is claimed and fails because of its invalid spec."""
    run = Run(
        model="m", algorithm="g2rpo", requested={}, spec={"model": 3}, spec_version=1, plan={}, seed=1, max_steps=1
    )
    with database.transaction() as session:
        session.add(run)
    return run


def test_log_lines_name_job_and_request(
    settings: Settings, new_database_url: str, tmp_path: Path, eventually: Callable[..., None]
) -> None:
    own = settings.model_copy(update={"database_url": new_database_url})
    database = connect(own)
    with Connection(own.broker_url) as connection:
        connection.SimpleQueue("train").clear()  # other tests' messages would wake it for these runs, too
    told, beside = add(database), add(database)  # the message names the first run, but wakes a worker for both
    with structlog.contextvars.bound_contextvars(request_id="asked-1"):
        assert Queue(own).send(Run, told.id)

    command = ["-m", "celery", "--app", "worker.celery_app", "worker", "--queues", "train", "--without-mingle"]
    with (tmp_path / "log").open("w") as log:
        worker = subprocess.Popen([sys.executable, *command], stderr=log, stdout=subprocess.PIPE, env=environment(own))
    try:
        eventually(lambda: all(_status(database, run) in TERMINAL for run in (told, beside)))
        eventually(lambda: " succeeded in " in (tmp_path / "log").read_text())  # the message has been processed
        found = add(database)  # without a message: the worker's housekeeping finds the run
        eventually(lambda: _status(database, found) in TERMINAL)
    finally:
        worker.terminate()
        printed, _ = worker.communicate()
        database.close()

    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {"time", "level", "event"} <= set.intersection(*(set(line) for line in lines))
    assert len({line["worker"] for line in lines}) == 1
    for run, request_id in ((told, "asked-1"), (beside, None), (found, None)):
        of_the_run = [line for line in lines if line.get("run") == str(run.id)]
        assert "job.ended" in {line["event"] for line in of_the_run}
        assert {(line["attempt"], line.get("request_id")) for line in of_the_run} == {(1, request_id)}
    assert any(line["event"].endswith(" ready.") for line in lines)
    [unknown] = [line for line in lines if line["event"] == "setting.unknown"]
    assert unknown["did_you_mean"] == "G2RPO_LEASE_SECONDS"
    assert b"transport" not in printed  # no banner


def _status(database: Database, run: Run) -> str:
    with database.transaction() as session:
        return session.get_one(Run, run.id).status
