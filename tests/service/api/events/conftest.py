"""Runs with events in the form that workers store them, and a service on a socket."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import FastAPI

from service.client import Client
from service.contracts.status import JobStatus
from service.db import events
from service.db.models import Run
from service.db.session import Database

Serve = Callable[..., AbstractContextManager[str]]


@dataclass
class Story:
    """Writes the rows that workers write during a run."""

    database: Database

    def tell(self, run: Run, *types: str, **data: Any) -> None:
        """Record events of these types."""
        with self.database.transaction() as session:
            for type_ in types:
                events.record(session, Run, run.id, 1, type_, data)
            events.notify_job(session, "run", run.id)

    def progress(self, run: Run, step: int) -> None:
        """Store the progress of the run."""
        with self.database.transaction() as session:
            session.get_one(Run, run.id).progress = {
                "time": "2026-01-01T12:00:00Z",
                "step": step,
                "max_steps": 60,
                "phase": "rollout",
                "eta_seconds": 60.0 - step,
                "step_seconds": 1.0,
            }
            events.notify_job(session, "run", run.id)

    def move(self, run: Run, status: JobStatus) -> None:
        """Store the new status in the row and as an event."""
        with self.database.transaction() as session:
            row = session.get_one(Run, run.id, with_for_update=True)
            row.move_to(status)
            session.flush()
            events.record(session, Run, run.id, row.attempt, "status", {"status": status})
            events.notify_job(session, "run", run.id)


@pytest.fixture
def story(database: Database) -> Story:
    """A writer of run events."""
    return Story(database)


@pytest.fixture
def url(app: FastAPI, serve: Serve) -> Iterator[str]:
    """The URL of the service."""
    with serve(app) as address:
        yield address


@pytest.fixture
def following(url: str) -> Iterator[Client]:
    """A client of the service on its socket."""
    with Client(url) as connected:
        yield connected
