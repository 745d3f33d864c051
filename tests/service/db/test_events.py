"""Events of a run, and notifications of a job."""

import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import select

from service.db import events
from service.db.models import Run
from service.db.models.run import RunEvent
from service.db.session import Database


def test_concurrent_events_have_consecutive_ids(database: Database, records: Any) -> None:
    run = records.run()

    def write(number: int) -> None:
        with database.transaction() as session:
            events.record(session, Run, run.id, 1, "tried", {"number": number})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(40)))
    with database.sessions() as session:
        rows = session.scalars(select(RunEvent).where(RunEvent.run_id == run.id).order_by(RunEvent.id)).all()
    assert [row.id for row in rows] == list(range(1, 41))
    assert {row.data["number"] for row in rows} == set(range(40))


def test_an_event_of_an_unknown_run_is_an_error(database: Database) -> None:
    with pytest.raises(LookupError), database.transaction() as session:
        events.record(session, Run, uuid.uuid4(), 1, "tried")


def test_a_notification_is_sent_at_the_commit(database: Database) -> None:
    arguments = dict(database.engine.dialect.create_connect_args(database.engine.url)[1])
    job = uuid.uuid4()
    with psycopg.connect(**arguments, autocommit=True) as listener:
        listener.execute(f"LISTEN {events.CHANNEL}")
        with database.transaction() as session:
            events.notify_job(session, "run", job)
            session.flush()
            assert list(listener.notifies(timeout=0.05)) == []
        notifications = list(listener.notifies(timeout=30, stop_after=1))
    assert [notification.payload for notification in notifications] == [f"run:{job}"]
