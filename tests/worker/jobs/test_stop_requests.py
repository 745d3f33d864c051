"""Requests to a running job: cancel, pause and save a checkpoint."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from service.api.jobs import cancel_job
from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.models import Checkpoint, Garbage, Run
from service.db.models.run import RunEvent
from service.db.session import Database
from tests.worker.jobs.conftest import RUN, with_settings
from worker.jobs.claim import end_lost_attempt
from worker.jobs.training_run import RunJobType


class TestCancel:
    def request(self, database: Database, id: Any) -> None:
        with database.transaction() as session:
            cancel_job(session, Run, id)

    def test_process_stops_on_request(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("cancels")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)

        self.request(impatient, id)
        supervising.join()

        assert jobs.run(id).status is JobStatus.CANCELLED
        assert jobs.attempt(id).outcome == "cancelled"

    @pytest.mark.parametrize("behavior", ["hangs", "ignores-sigterm"])
    def test_process_that_ignores_requests_is_terminated(
        self, jobs: Any, impatient: Database, behavior: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.jobs.supervisor.TERMINATION_SECONDS", 0.2)
        id = jobs.add(behavior)
        supervising = jobs.supervise(jobs.claim(), with_settings(impatient, cancel_grace_seconds=0.1))
        jobs.reaches(id, JobStatus.RUNNING)

        self.request(impatient, id)
        supervising.join()

        assert jobs.run(id).status is JobStatus.CANCELLED
        assert not jobs.alive(jobs.attempt(id).provenance["process"])


class TestPause:
    def ask(self, database: Database, id: Any, status: JobStatus = JobStatus.PAUSING) -> None:
        with database.transaction() as session:
            session.get_one(Run, id, with_for_update=True).move_to(status)

    def test_paused_run_saves_and_resumes(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("pauses")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)

        self.ask(impatient, id)
        supervising.join()

        run = jobs.run(id)
        assert (run.status, run.lease_owner, run.ended_at, run.losses) == (JobStatus.PAUSED, None, None, 0)
        assert (jobs.attempt(id).outcome, jobs.attempt(id).lost) == ("paused", False)
        assert [row.step for row in jobs.rows(Checkpoint, run)] == [1]

        self.ask(impatient, id, JobStatus.QUEUED)
        jobs.supervise(jobs.claim()).join()

        assert jobs.run(id).status is JobStatus.SUCCEEDED
        assert jobs.attempt(id, 2).resumed_at == 1

    def test_request_is_forwarded_once_the_disk_has_room(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("pauses")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)
        full = impatient.settings.data_dir / "work" / "runs" / str(id) / "attempt-1" / "control.json.new"
        full.symlink_to("/dev/full")

        with capture_logs() as said:
            self.ask(impatient, id)
            jobs.eventually(lambda: any(line["event"] == "job.request_not_forwarded" for line in said))
        full.unlink()
        supervising.join()

        run = jobs.run(id)
        assert (run.status, [row.step for row in jobs.rows(Checkpoint, run)]) == (JobStatus.PAUSED, [1])

    def test_run_with_failing_rewards_pauses_with_the_cause(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("has-its-rewards-fail")
        jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.ended_at, run.lease_owner, run.losses) == (JobStatus.PAUSED, None, None, 0)
        assert run.error is not None
        assert (run.error["code"], run.error["hint"]) == ("rewards_failed", "Restart the server.")
        assert (jobs.attempt(id).outcome, jobs.attempt(id).lost) == ("paused", False)
        with impatient.transaction() as session:
            said = session.scalars(select(RunEvent).where(RunEvent.run_id == id).order_by(RunEvent.id)).all()
        assert said[-1].data["status"] == "paused" and said[-1].data["detail"] == "reward 'x' failed"

        self.ask(impatient, id, JobStatus.QUEUED)
        jobs.supervise(jobs.claim()).join()
        assert jobs.run(id).status is JobStatus.SUCCEEDED

    def test_loading_process_is_terminated_immediately(self, jobs: Any, impatient: Database) -> None:
        for asked, becomes in ((JobStatus.PAUSING, JobStatus.PAUSED), (JobStatus.CANCELLING, JobStatus.CANCELLED)):
            id = jobs.add("loads-forever")
            supervising = jobs.supervise(jobs.claim())
            self.ask(impatient, id, asked)
            supervising.join()
            assert jobs.run(id).status is becomes

    def test_draining_worker_saves_its_run(self, jobs: Any) -> None:
        id = jobs.add("pauses")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)

        jobs.stopping.set()
        supervising.join()

        run = jobs.run(id)
        assert (run.status, run.losses) == (JobStatus.INTERRUPTED, 0)
        assert [row.step for row in jobs.rows(Checkpoint, run)] == [1]

    def test_run_over_budget_is_saved_and_fails_with_a_hint(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("pauses", seconds_used=impatient.settings.max_run_seconds)
        jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.error["code"]) == (JobStatus.FAILED, "budget_spent")
        assert "Resume the run" in run.error["hint"]
        assert run.seconds_used > impatient.settings.max_run_seconds


class TestCheckpoints:
    def test_requested_checkpoint_is_saved_once(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("saves-when-asked", checkpoint_requests=4, checkpoint_answers=3)
        supervising = jobs.supervise(jobs.claim())
        jobs.eventually(lambda: jobs.run(id).checkpoint_answers == 4)

        TestCancel().request(impatient, id)
        supervising.join()

        assert jobs.run(id).status is JobStatus.CANCELLED
        assert [row.step for row in jobs.rows(Checkpoint, jobs.run(id))] == [1]

    @pytest.mark.parametrize(("behavior", "attempts"), [("ends-before-it-is-asked", 1), ("is-killed-once", 2)])
    def test_late_request_is_answered_by_the_last_checkpoint(self, jobs: Any, behavior: str, attempts: int) -> None:
        id = jobs.add(behavior, checkpoint_requests=1)
        for _ in range(attempts):
            assert jobs.run(id).checkpoint_answers == 0
            jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.checkpoint_answers) == (JobStatus.SUCCEEDED, 1)
        assert 3 in {row.step for row in jobs.rows(Checkpoint, run)}

    def test_old_checkpoints_are_retired(self, jobs: Any, impatient: Database) -> None:
        spec = RunSpec(name="keeps-three", checkpoints={"keep": 3}).model_dump(mode="json")
        run = jobs.perform("keeps-three", spec=spec)

        kept = [row.step for row in jobs.rows(Checkpoint, run) if row.deleted_at is None]
        assert sorted(kept) == [4, 5, 6]
        with impatient.transaction() as session:
            prefixes = set(session.scalars(select(Garbage.prefix)))
        assert prefixes == {f"runs/{run.id}/1/checkpoints/{step}" for step in (1, 2, 3)}
        retired = [data["step"] for type, data in jobs.events(run.id) if type == "checkpoint_retired"]
        assert sorted(retired) == [1, 2, 3]  # newest first within one poll; the number per poll varies

    def test_best_checkpoint_is_not_retired(self, jobs: Any) -> None:
        spec = RunSpec(name="keeps-three", checkpoints={"keep": 3, "best": "clip_score"}).model_dump(mode="json")
        run = jobs.perform("keeps-three", spec=spec)

        kept = {row.step: row.best_value for row in jobs.rows(Checkpoint, run) if row.deleted_at is None}
        assert kept == {2: 0.75, 4: None, 5: None, 6: None}

    def test_run_with_only_damaged_checkpoints_fails(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("is-killed-once")
        [checkpoint] = jobs.rows(Checkpoint, run)
        impatient.artifacts.delete(f"{checkpoint.key}/lora.safetensors")

        jobs.supervise(jobs.claim()).join()

        failed = jobs.run(run.id)
        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "bad_checkpoint")
        assert jobs.rows(Checkpoint, run)[0].damaged
        assert [data["step"] for type, data in jobs.events(run.id) if type == "checkpoint_damaged"] == [1]

    def test_checkpoint_is_undamaged_once_the_store_has_it(
        self, jobs: Any, impatient: Database, tmp_path: Path
    ) -> None:
        run = jobs.perform("is-killed-once")
        [checkpoint] = jobs.rows(Checkpoint, run)
        claim, key = jobs.claim(), f"{checkpoint.key}/lora.safetensors"
        local = tmp_path / "work" / "checkpoints" / str(checkpoint.id) / "lora.safetensors"

        def damaged() -> bool:
            RunJobType().prepare(impatient, claim, jobs.run(run.id), tmp_path)
            return bool(jobs.rows(Checkpoint, run)[0].damaged)

        assert not damaged() and local.exists()
        (tmp_path / "spoiled").write_bytes(b"x" * local.stat().st_size)
        impatient.artifacts.put_file(tmp_path / "spoiled", key)
        with impatient.transaction() as session:
            session.get_one(Checkpoint, checkpoint.id).damaged = True
        assert damaged()
        impatient.artifacts.put_file(local, key)
        assert not damaged()

    def test_end_of_a_superseded_attempt_does_not_count(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("finishes")
        jobs.claim()  # this attempt is lost, and so is the next one, which made progress on another machine
        first = impatient.settings.data_dir / "work" / "runs" / str(id) / "attempt-1"
        first.mkdir(parents=True)
        failure = {"type": "failed", "time": "2026-01-01T00:00:00Z", "code": "disk_full", "detail": "no room"}
        (first / "events.jsonl").write_text(json.dumps(failure) + "\n")
        for _ in range(2):
            with impatient.transaction() as session:
                end_lost_attempt(session, RUN, session.get_one(Run, id))
            claim = jobs.claim()

        jobs.supervise(claim).join()

        assert (jobs.run(id).status, claim.attempt) == (JobStatus.SUCCEEDED, 3)

    def test_run_with_progress_between_losses_is_retried(self, jobs: Any) -> None:
        id = jobs.add("is-killed-after-each-checkpoint")
        for _ in range(6):
            jobs.supervise(jobs.claim()).join()

        assert jobs.run(id).status is JobStatus.SUCCEEDED
        assert jobs.run(id).attempt == 6
