"""What people ask of a run while it works: its child stops, rests and saves, and what it saved is kept."""

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from structlog.testing import capture_logs

from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.models import Checkpoint, Garbage, Run, RunEvent
from service.db.session import Database
from service.jobs import views as service_jobs
from tests.worker.jobs.conftest import RUN, with_settings
from worker.jobs.claim import end_lost_attempt
from worker.jobs.run import RunJobType


class TestCancel:
    def request(self, database: Database, id: Any) -> None:
        with database.transaction() as session:
            service_jobs.cancel(session, Run, id)

    def test_the_child_is_asked_and_stops_by_itself(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("cancels")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)

        self.request(impatient, id)
        supervising.join()

        assert jobs.run(id).status is JobStatus.CANCELLED
        assert jobs.attempt(id).outcome == "cancelled"

    @pytest.mark.parametrize("behaviour", ["hangs", "ignores-sigterm"])
    def test_a_child_that_does_not_listen_is_ended(
        self, jobs: Any, impatient: Database, behaviour: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.jobs.supervisor.TERMINATION_SECONDS", 0.2)
        id = jobs.add(behaviour)
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

    def test_the_child_saves_and_the_run_rests_until_it_is_queued_again(self, jobs: Any, impatient: Database) -> None:
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

    def test_a_child_that_could_not_be_told_for_want_of_room_is_told_when_there_is_some(
        self, jobs: Any, impatient: Database
    ) -> None:
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

    def test_a_child_whose_rewards_fail_rests_by_itself_with_its_cause(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("has-its-rewards-fail")
        jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.ended_at, run.lease_owner, run.losses) == (JobStatus.PAUSED, None, None, 0)
        assert run.error is not None
        assert (run.error["code"], run.error["hint"]) == ("rewards_failed", "Mend the server.")
        assert (jobs.attempt(id).outcome, jobs.attempt(id).lost) == ("paused", False)
        with impatient.transaction() as session:
            said = session.scalars(select(RunEvent).where(RunEvent.run_id == id).order_by(RunEvent.id)).all()
        assert said[-1].data["status"] == "paused" and said[-1].data["detail"] == "reward 'x' failed"

        self.ask(impatient, id, JobStatus.QUEUED)
        jobs.supervise(jobs.claim()).join()
        assert jobs.run(id).status is JobStatus.SUCCEEDED

    def test_a_child_that_is_still_loading_is_ended_at_once(self, jobs: Any, impatient: Database) -> None:
        for asked, becomes in ((JobStatus.PAUSING, JobStatus.PAUSED), (JobStatus.CANCELLING, JobStatus.CANCELLED)):
            id = jobs.add("loads-forever")
            supervising = jobs.supervise(jobs.claim())
            self.ask(impatient, id, asked)
            supervising.join()
            assert jobs.run(id).status is becomes

    def test_a_worker_that_leaves_has_its_run_saved(self, jobs: Any) -> None:
        id = jobs.add("pauses")
        supervising = jobs.supervise(jobs.claim())
        jobs.reaches(id, JobStatus.RUNNING)

        jobs.stopping.set()
        supervising.join()

        run = jobs.run(id)
        assert (run.status, run.losses) == (JobStatus.INTERRUPTED, 0)
        assert [row.step for row in jobs.rows(Checkpoint, run)] == [1]

    def test_a_run_out_of_budget_is_saved_and_fails_with_what_to_do(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("pauses", seconds_used=impatient.settings.max_run_seconds)
        jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.error["code"]) == (JobStatus.FAILED, "budget_spent")
        assert "Resume it" in run.error["hint"]
        assert run.seconds_used > impatient.settings.max_run_seconds


class TestCheckpoints:
    def test_one_asked_for_is_answered_once(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("saves-when-asked", checkpoint_requests=4, checkpoint_answers=3)
        supervising = jobs.supervise(jobs.claim())
        jobs.eventually(lambda: jobs.run(id).checkpoint_answers == 4)

        TestCancel().request(impatient, id)
        supervising.join()

        assert jobs.run(id).status is JobStatus.CANCELLED
        assert [row.step for row in jobs.rows(Checkpoint, jobs.run(id))] == [1]

    @pytest.mark.parametrize(("behaviour", "attempts"), [("ends-before-it-is-asked", 1), ("is-killed-once", 2)])
    def test_one_asked_for_too_late_is_the_last_steps(self, jobs: Any, behaviour: str, attempts: int) -> None:
        id = jobs.add(behaviour, checkpoint_requests=1)
        for _ in range(attempts):
            assert jobs.run(id).checkpoint_answers == 0
            jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert (run.status, run.checkpoint_answers) == (JobStatus.SUCCEEDED, 1)
        assert 3 in {row.step for row in jobs.rows(Checkpoint, run)}

    def test_old_ones_are_retired_but_for_those_in_use(self, jobs: Any, impatient: Database) -> None:
        spec = RunSpec(name="keeps-three", checkpoints={"keep": 3}).model_dump(mode="json")
        run = jobs.perform("keeps-three", spec=spec)

        kept = [row.step for row in jobs.rows(Checkpoint, run) if row.deleted_at is None]
        assert sorted(kept) == [4, 5, 6]
        with impatient.transaction() as session:
            prefixes = set(session.scalars(select(Garbage.prefix)))
        assert prefixes == {f"runs/{run.id}/1/checkpoints/{step}" for step in (1, 2, 3)}
        retired = [data["step"] for type, data in jobs.events(run.id) if type == "checkpoint_retired"]
        assert sorted(retired) == [1, 2, 3]  # newest first of those that one look finds; how many depends on the pace

    def test_the_best_one_is_kept(self, jobs: Any) -> None:
        spec = RunSpec(name="keeps-three", checkpoints={"keep": 3, "best": "clip_score"}).model_dump(mode="json")
        run = jobs.perform("keeps-three", spec=spec)

        kept = {row.step: row.best_value for row in jobs.rows(Checkpoint, run) if row.deleted_at is None}
        assert kept == {2: 0.75, 4: None, 5: None, 6: None}

    def test_without_a_whole_one_the_run_does_not_begin_anew_unasked(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("is-killed-once")
        [checkpoint] = jobs.rows(Checkpoint, run)
        impatient.artifacts.delete(f"{checkpoint.key}/lora.safetensors")

        jobs.supervise(jobs.claim()).join()

        failed = jobs.run(run.id)
        assert (failed.status, failed.error["code"]) == (JobStatus.FAILED, "bad_checkpoint")
        assert jobs.rows(Checkpoint, run)[0].damaged
        assert [data["step"] for type, data in jobs.events(run.id) if type == "checkpoint_damaged"] == [1]

    def test_one_counts_as_mended_when_the_store_has_it_again_and_not_this_machine_alone(
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

    def test_what_an_overtaken_attempt_says_of_its_end_counts_no_more(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("finishes")
        jobs.claim()  # its worker is lost, and so is the next one's, which had gone on elsewhere
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

    def test_a_run_that_gets_on_between_its_losses_is_not_given_up(self, jobs: Any) -> None:
        id = jobs.add("is-killed-after-each-checkpoint")
        for _ in range(6):
            jobs.supervise(jobs.claim()).join()

        assert jobs.run(id).status is JobStatus.SUCCEEDED
        assert jobs.run(id).attempt == 6
