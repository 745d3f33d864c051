"""No two workers hold the same job, and a worker that lost a job cannot write to it."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.session import Database
from worker.jobs.attempt import Attempt
from worker.jobs.claim import LeaseLost, claim_next, move, renew
from worker.jobs.training_run import RunJobType


class TestClaimNext:
    def test_concurrent_workers_never_claim_the_same_job(self, jobs: Any, impatient: Database) -> None:
        ids = {jobs.add() for _ in range(40)}
        start = threading.Barrier(8)

        def work(worker: int) -> list[Any]:
            start.wait()
            taken = []
            while claim := claim_next(impatient, RunJobType(), f"worker:{worker}"):
                taken.append(claim.id)
            return taken

        with ThreadPoolExecutor(8) as pool:
            taken = Counter(id for one in pool.map(work, range(8)) for id in one)

        assert taken == Counter(ids)
        assert {jobs.run(id).attempt for id in ids} == {1}

    def test_order_is_by_priority_then_age(self, jobs: Any) -> None:
        late, first, second = jobs.add(priority=5), jobs.add(priority=-1), jobs.add(priority=-1)

        assert [jobs.claim().id for _ in range(3)] == [first, second, late]

    def test_empty_queue_gives_none(self, impatient: Database) -> None:
        assert claim_next(impatient, RunJobType(), "worker:1") is None

    def test_run_that_needs_more_devices_is_not_claimed(self, jobs: Any, impatient: Database) -> None:
        large = jobs.add(spec=RunSpec(resources={"processes_per_node": 4}).model_dump(mode="json"))
        small = jobs.add()

        taken = [claim_next(impatient, RunJobType(), "worker:1", devices=2) for _ in range(2)]
        assert [claim and claim.id for claim in taken] == [small, None]
        claim = claim_next(impatient, RunJobType(), "worker:2", devices=4)
        assert claim is not None and claim.id == large

    def test_claim_starts_an_attempt_and_a_lease(self, jobs: Any) -> None:
        id = jobs.add()
        jobs.claim("worker:7")

        run = jobs.run(id)
        assert (run.status, run.attempt, run.lease_owner) == (JobStatus.STARTING, 1, "worker:7")
        assert (run.lease_expires_at - run.started_at).total_seconds() == jobs.database.settings.lease_seconds
        assert jobs.attempt(id).worker == "worker:7"


class TestMove:
    @pytest.fixture
    def superseded(self, jobs: Any, impatient: Database) -> Any:
        jobs.add()
        old = jobs.claim("worker:1")
        move(impatient, old, JobStatus.INTERRUPTED)
        jobs.claim("worker:1")
        return old

    def test_superseded_attempt_cannot_write(self, superseded: Any, jobs: Any, impatient: Database) -> None:
        for write in (
            lambda: move(impatient, superseded, JobStatus.FAILED),
            lambda: renew(impatient, superseded),
            lambda: Attempt(impatient, superseded, threading.Event()).stop_request(),
        ):
            with pytest.raises(LeaseLost):
                write()
        assert jobs.run(superseded.id).status is JobStatus.STARTING

    def test_ended_job_does_not_change(self, jobs: Any, impatient: Database) -> None:
        jobs.add()
        claim = jobs.claim()
        move(impatient, claim, JobStatus.FAILED, {"code": "error", "detail": "no", "hint": "", "log_tail": ""})

        with pytest.raises(LeaseLost):
            move(impatient, claim, JobStatus.SUCCEEDED)
        assert jobs.run(claim.id).error["detail"] == "no"

    def test_interrupted_cancelling_job_is_cancelled(self, jobs: Any, impatient: Database) -> None:
        jobs.add()
        claim = jobs.claim()
        move(impatient, claim, JobStatus.CANCELLING)
        move(impatient, claim, JobStatus.INTERRUPTED)

        assert jobs.run(claim.id).status is JobStatus.CANCELLED
