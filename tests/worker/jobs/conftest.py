"""Runs in the database, and a supervisor with the scripted child process."""

import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from service.contracts.catalog import load_catalog
from service.contracts.plan import make_plan
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.models import Attempt, Run
from service.db.models.run import RunEvent
from service.db.session import Database
from worker.jobs.claim import Claim, JobType, claim_next
from worker.jobs.job_runner import run_job
from worker.jobs.training_run import RunJobType

PROGRAM = (sys.executable, "-S", str(Path(__file__).with_name("scripted_child.py")))
RUN = RunJobType(PROGRAM)
"""The job type of runs with the scripted child process."""


@pytest.fixture
def program() -> tuple[str, ...]:
    """The program that replaces the engine."""
    return PROGRAM


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Supervisors poll their child processes twenty times a second instead of once."""
    monkeypatch.setattr("worker.jobs.attempt.Attempt.poll_seconds", 0.05)


def with_settings(database: Database, **changes: Any) -> Database:
    """The same connections with some changed settings."""
    return replace(database, settings=database.settings.model_copy(update=changes))


@pytest.fixture
def impatient(database: Database) -> Database:
    """The emptied database, with frequent lease renewals and with timeouts that suit a slow machine."""
    return with_settings(
        database,
        lease_seconds=60.0,
        renew_seconds=0.5,
        progress_timeout_seconds=60.0,
        cancel_grace_seconds=60.0,
        drain_seconds=60.0,
    )


@dataclass
class Jobs:
    """Runs, claims and supervisors, which end with the test."""

    database: Database
    eventually: Callable[[Callable[[], object]], None]
    stopping: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def add(self, name: str = "finishes", **columns: Any) -> uuid.UUID:
        """A queued run; `name` specifies the behavior of its child process."""
        spec = RunSpec(name=name)
        values: dict[str, Any] = {"model": spec.model, "algorithm": "g2rpo", "requested": {}, "spec_version": 1}
        values |= {"plan": make_plan(spec, load_catalog()).model_dump(mode="json", exclude={"spec"})}
        values |= {"seed": spec.training.seed, "max_steps": spec.training.max_steps}
        values |= {"spec": spec.model_dump(mode="json")}
        run = Run(**(values | columns))
        with self.database.transaction() as session:
            session.add(run)
        return run.id

    def claim(self, owner: str = "worker:1", job_type: JobType = RUN) -> Claim:
        """Claim the next run."""
        claim = claim_next(self.database, job_type, owner)
        assert claim is not None, [(run.status, run.error) for run in self.every_run()]
        return claim

    def supervise(self, claim: Claim, database: Database | None = None) -> threading.Thread:
        """Supervise a claimed run in a thread."""
        thread = threading.Thread(target=run_job, args=(database or self.database, claim, self.stopping))
        thread.start()
        self.threads.append(thread)
        return thread

    def perform(self, name: str, **columns: Any) -> Run:
        """Add a run, execute one attempt, and return the row."""
        id = self.add(name, **columns)
        self.supervise(self.claim()).join()
        return self.run(id)

    def every_run(self) -> list[Run]:
        with self.database.transaction() as session:
            return list(session.scalars(select(Run)))

    def run(self, id: uuid.UUID) -> Run:
        with self.database.transaction() as session:
            return session.get_one(Run, id)

    def reaches(self, id: uuid.UUID, status: JobStatus) -> Run:
        """Wait until the run has the given status."""
        self.eventually(lambda: self.run(id).status is status)
        return self.run(id)

    def attempt(self, id: uuid.UUID, number: int = 1) -> Attempt:
        with self.database.transaction() as session:
            return session.get_one(Attempt, (id, number))

    def events(self, id: uuid.UUID) -> list[tuple[str, dict[str, Any]]]:
        """The run's events, as types and data in order."""
        with self.database.transaction() as session:
            rows = session.scalars(select(RunEvent).where(RunEvent.run_id == id).order_by(RunEvent.id)).all()
        return [(row.type, row.data) for row in rows]

    def rows(self, table: type[Any], run: Run) -> list[Any]:
        """The run's rows in a table."""
        with self.database.transaction() as session:
            return list(session.scalars(select(table).where(table.run_id == run.id)))

    @staticmethod
    def alive(pid: int) -> bool:
        """Whether the process is running; a zombie is not running."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def statuses(self, id: uuid.UUID) -> list[str]:
        return [data["status"] for type, data in self.events(id) if type == "status"]


@pytest.fixture
def jobs(impatient: Database, eventually: Callable[[Callable[[], object]], None]) -> Iterator[Jobs]:
    """Runs and supervisors on the emptied database."""
    made = Jobs(impatient, eventually)
    yield made
    made.stopping.set()
    for thread in made.threads:
        thread.join()
