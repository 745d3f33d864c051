"""The check of status transitions, and the columns that a transition sets."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from service.contracts.status import MOVES, JobStatus
from service.db.models import Run
from service.db.session import Database


@pytest.mark.parametrize("old", list(JobStatus))
@pytest.mark.parametrize("new", list(JobStatus))
def test_only_allowed_transitions_are_accepted(old: JobStatus, new: JobStatus) -> None:
    run = Run(status=JobStatus.QUEUED)
    run.__dict__["status"] = old
    if new in MOVES[old] or new is old:
        run.status = new
        assert run.status is new
    else:
        with pytest.raises(ValueError, match=f"from {old} to {new}"):
            run.status = new


def test_a_new_job_must_be_queued() -> None:
    with pytest.raises(ValueError, match="must be queued"):
        Run(status=JobStatus.RUNNING)


def test_the_database_refuses_an_unknown_status(database: Database, records: Any) -> None:
    run = records.run()
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(text("UPDATE runs SET status = 'asleep' WHERE id = :id"), {"id": run.id})


def test_a_transition_sets_times_and_lease(database: Database, records: Any) -> None:
    run = records.run(JobStatus.RUNNING, lease_owner="worker-1")
    with database.transaction() as session:
        held = session.get_one(Run, run.id)
        assert held.started_at is not None and held.ended_at is None and held.lease_owner == "worker-1"
        held.move_to(JobStatus.FAILED, {"code": "error", "detail": "it broke", "hint": "", "log_tail": ""})
    with database.sessions() as session:
        ended = session.get_one(Run, run.id)
        assert ended.status is JobStatus.FAILED
        assert ended.ended_at is not None and ended.lease_owner is None
        assert ended.error is not None and ended.error["detail"] == "it broke"


def test_the_first_start_time_is_kept(database: Database, records: Any) -> None:
    run = records.run(JobStatus.INTERRUPTED)
    with database.transaction() as session:
        again = session.get_one(Run, run.id)
        first = again.started_at
        again.move_to(JobStatus.STARTING)
    with database.sessions() as session:
        assert session.get_one(Run, run.id).started_at == first
