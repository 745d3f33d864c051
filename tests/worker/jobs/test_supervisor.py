"""Runs in a child process: events become rows, processes end, and outcomes are recorded."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select, text, update

from service.contracts.runs import RunSpec
from service.contracts.status import JobStatus
from service.db.models import Checkpoint, Metric, RewardGroup, Run, Sample
from service.db.models.run import LogChunk
from service.db.session import Database, connect
from tests.worker.jobs.conftest import with_settings
from worker.jobs.claim import LeaseLost, move
from worker.jobs.process import lower_priority
from worker.jobs.training_run import RunJobType
from worker.monitoring.stats import STATS


@pytest.fixture
def brief_drain(impatient: Database) -> Database:
    """Zero drain time, because a stopping worker must not wait for a child process that hangs."""
    return with_settings(impatient, drain_seconds=0.2)


class TestSuccess:
    def test_events_become_rows(self, jobs: Any) -> None:
        run = jobs.perform("finishes")

        assert run.status is JobStatus.SUCCEEDED
        assert run.error is None
        assert run.ended_at is not None and run.lease_owner is None
        assert run.heldout["clip_score"]["interval95"] == [0.2, 0.3]
        assert run.progress["step"] == 3
        metrics = {(row.name, row.step): row.value for row in jobs.rows(Metric, run)}
        assert metrics[("reward/clip_score", 2)] == 0.2
        assert metrics[("loss", 1)] is None
        assert len(metrics) == 6
        assert [row.values for row in jobs.rows(RewardGroup, run)] == [[0.25, None, 0.75]] * 3

    def test_images_and_checkpoints_are_stored_with_their_hashes(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("finishes")

        [sample] = jobs.rows(Sample, run)
        assert impatient.artifacts.read(sample.key, sample.sha256).startswith(b"\x89PNG")
        [checkpoint] = jobs.rows(Checkpoint, run)
        [file] = checkpoint.manifest["files"]
        assert impatient.artifacts.read(f"{checkpoint.key}/{file['name']}", file["sha256"]) == b"weights after 3 steps"
        assert impatient.artifacts.exists(f"{checkpoint.key}/manifest.json")

    def test_log_and_the_attempt_are_recorded(self, jobs: Any) -> None:
        run = jobs.perform("finishes")

        assert b"".join(row.data for row in jobs.rows(LogChunk, run)) == b"the child started\n"
        attempt = jobs.attempt(run.id)
        assert attempt.outcome == "succeeded"
        assert attempt.worker == "worker:1"
        assert attempt.provenance["device"] == "scripted"
        assert jobs.statuses(run.id) == ["starting", "running", "succeeded"]

    def test_slow_removal_of_files_loses_no_lease(
        self, jobs: Any, impatient: Database, eventually: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        remove = shutil.rmtree

        def slowly(path: Path, **how: Any) -> None:
            eventually(lambda: not any(thread.name.startswith("lease-") for thread in threading.enumerate()))
            remove(path, **how)

        monkeypatch.setattr("worker.jobs.supervisor.shutil.rmtree", slowly)
        lost = STATS.snapshot().get("leases_lost", 0)
        run = jobs.perform("finishes")

        assert (run.status, STATS.snapshot().get("leases_lost", 0)) == (JobStatus.SUCCEEDED, lost)
        assert not list(impatient.settings.data_dir.glob("work/runs/*/attempt-1/checkpoints"))

    def test_run_starts_from_the_given_checkpoint(self, jobs: Any, impatient: Database) -> None:
        first = jobs.perform("finishes")
        [checkpoint] = jobs.rows(Checkpoint, first)

        second = jobs.perform("finishes", start_from=checkpoint.id)

        assert jobs.attempt(second.id).provenance["weights"] == "weights after 3 steps"
        assert not list(impatient.settings.data_dir.glob("work/runs/*/attempt-1/start"))

    def test_damaged_start_checkpoint_is_a_failure(self, jobs: Any, impatient: Database) -> None:
        first = jobs.perform("finishes")
        [checkpoint] = jobs.rows(Checkpoint, first)
        impatient.artifacts.delete(f"{checkpoint.key}/lora.safetensors")

        second = jobs.perform("finishes", start_from=checkpoint.id)

        assert second.status is JobStatus.FAILED
        assert second.error["code"] == "bad_checkpoint"
        assert "lora.safetensors" in second.error["detail"]


class TestFailure:
    def test_failure_reported_by_the_process_is_recorded(self, jobs: Any) -> None:
        run = jobs.perform("fails")

        assert run.status is JobStatus.FAILED
        assert run.error["code"] == "not_finite"
        assert run.error["hint"] == "Lower the learning rate."
        assert run.error["log_tail"] == "the child started"

    def test_silent_exit_shows_the_log_tail(self, jobs: Any) -> None:
        run = jobs.perform("is-silent")

        assert run.status is JobStatus.FAILED
        assert run.error["code"] == "error"
        assert "status 3" in run.error["detail"]
        assert "the disk is on fire" in run.error["log_tail"]

    def test_crash_names_the_signal(self, jobs: Any) -> None:
        run = jobs.perform("crashes")

        assert run.error["code"] == "crashed"
        assert "SIGSEGV" in run.error["detail"]

    def test_endless_output_does_not_block_the_process(self, jobs: Any, impatient: Database) -> None:
        most = 100_000
        id = jobs.add("prints-too-much")
        jobs.supervise(jobs.claim(), with_settings(impatient, max_log_bytes=most)).join()

        run = jobs.run(id)
        assert run.error["detail"] == "too many words"
        assert run.error["log_tail"].endswith("the last words")
        with impatient.transaction() as session:
            chunks = session.scalars(select(LogChunk.data).order_by(LogChunk.offset)).all()
        log = b"".join(chunks)
        assert log.startswith(b"the child started\na line of log") and b"the last words" not in log
        assert log[most:] == b"\n[only the first 100000 bytes of this log are kept: G2RPO_MAX_LOG_BYTES]\n"
        assert jobs.attempt(id).log_offset == len(log)

    def test_stuck_process_is_terminated(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("hangs")
        jobs.supervise(jobs.claim(), with_settings(impatient, progress_timeout_seconds=1.5)).join()

        assert jobs.run(id).error["code"] == "stuck"
        assert not jobs.alive(jobs.attempt(id).provenance["process"])

    def test_process_above_the_memory_limit_is_terminated_and_not_retried(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("uses-memory")
        jobs.supervise(jobs.claim(), with_settings(impatient, worker_memory_bytes=100 * 2**20)).join()

        run = jobs.run(id)
        assert (run.status, run.attempt, run.error["code"]) == (JobStatus.FAILED, 1, "out_of_memory")
        assert "above the limit of 0.10 GiB" in run.error["detail"]
        assert "G2RPO_WORKER_MEMORY_BYTES" in run.error["hint"]
        assert not jobs.alive(jobs.attempt(id).provenance["process"])

    def test_invalid_events_are_recorded_and_skipped(self, jobs: Any) -> None:
        run = jobs.perform("writes-garbage")

        assert run.status is JobStatus.SUCCEEDED
        events = jobs.events(run.id)
        lines = [data["line"] for type, data in events if type == "unreadable_event"]
        assert lines == ['{"type": "metrics", "step": 1', "��� not even text"]
        details = [data["detail"] for type, data in events if type in ("sample_rejected", "checkpoint_rejected")]
        assert "is outside the attempt's directory" in details[0]
        assert "has the SHA-256" in details[1] and "has the SHA-256" in details[2]
        assert len(jobs.rows(Sample, run)) == 1
        assert [row.step for row in jobs.rows(Checkpoint, run)] == [3]

    def test_missing_program_is_a_failure(self, jobs: Any, impatient: Database) -> None:
        from worker.jobs.job_runner import run_job

        id = jobs.add()
        claim = jobs.claim(job_type=RunJobType(("/no/such/program",)))
        run_job(impatient, claim, threading.Event())

        assert jobs.run(id).status is JobStatus.FAILED


class TestLoss:
    def test_killed_run_resumes_from_its_newest_checkpoint(self, jobs: Any) -> None:
        run = jobs.perform("is-killed-once")
        assert run.status is JobStatus.INTERRUPTED

        jobs.supervise(jobs.claim("worker:2")).join()

        run = jobs.run(run.id)
        assert run.status is JobStatus.SUCCEEDED
        assert run.attempt == 2
        second = jobs.attempt(run.id, 2)
        assert (second.resumed_at, second.provenance["weights"]) == (1, "weights after 1 steps")
        metrics = {(row.name, row.step, row.attempt) for row in jobs.rows(Metric, run)}
        assert ("reward/clip_score", 1, 1) in metrics and ("reward/clip_score", 3, 2) in metrics

    def test_run_fails_after_too_many_losses(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("is-killed-always")
        for _ in range(impatient.settings.max_attempts):
            jobs.supervise(jobs.claim()).join()

        run = jobs.run(id)
        assert run.status is JobStatus.FAILED
        assert run.error["code"] == "lost"
        assert "SIGKILL" in run.error["detail"]

    def test_draining_worker_interrupts_its_run(self, jobs: Any, brief_drain: Database) -> None:
        id = jobs.add("hangs")
        supervising = jobs.supervise(jobs.claim(), brief_drain)
        jobs.reaches(id, JobStatus.RUNNING)

        jobs.stopping.set()
        supervising.join()

        assert jobs.run(id).status is JobStatus.INTERRUPTED
        assert not jobs.alive(jobs.attempt(id).provenance["process"])

    def test_superseded_process_is_terminated_and_writes_nothing(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("hangs")
        claim = jobs.claim()
        supervising = jobs.supervise(claim)
        jobs.reaches(id, JobStatus.RUNNING)
        with impatient.transaction() as session:
            session.execute(update(Run).where(Run.id == id).values(attempt=2, lease_owner="worker:2"))

        supervising.join()

        assert not jobs.alive(jobs.attempt(id).provenance["process"])
        assert jobs.run(id).status is JobStatus.RUNNING
        with pytest.raises(LeaseLost):
            move(impatient, claim, JobStatus.FAILED)

    def test_unreachable_database_terminates_the_process(self, jobs: Any, impatient: Database, eventually: Any) -> None:
        id = jobs.add("hangs")
        brief = connect(impatient.settings.model_copy(update={"lease_seconds": 3.0}))
        supervising = jobs.supervise(jobs.claim(), brief)
        jobs.reaches(id, JobStatus.RUNNING)
        child = jobs.attempt(id).provenance["process"]

        with impatient.engine.begin() as blocking:
            blocking.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
            eventually(lambda: not jobs.alive(child))
        supervising.join()
        brief.close()

    def test_next_supervisor_reads_unread_events(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("is-killed-once")
        with impatient.transaction() as session:
            for table in (Metric, Checkpoint, LogChunk):
                session.execute(table.__table__.delete())
            session.execute(text("UPDATE attempts SET events_offset = 0, log_offset = 0"))

        jobs.supervise(jobs.claim()).join()

        assert jobs.attempt(run.id, 2).resumed_at == 1
        assert {row.attempt for row in jobs.rows(Metric, run)} == {1, 2}
        assert {row.attempt for row in jobs.rows(LogChunk, run)} == {1, 2}


class TestRanks:
    """A run with several processes is a single child process of its supervisor."""

    def spec(self, name: str) -> dict[str, Any]:
        return RunSpec(name=name, resources={"processes_per_node": 2}).model_dump(mode="json")

    def left_over(self, jobs: Any, id: Any) -> list[int]:
        """The running processes of the run's process group."""
        group, found = jobs.attempt(id).provenance["group"], []
        for process in psutil.process_iter():
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.pid)
        return found

    def test_run_succeeds_when_all_ranks_have_ended(self, jobs: Any) -> None:
        run = jobs.perform("finishes", spec=self.spec("finishes"))
        assert run.status is JobStatus.SUCCEEDED
        assert len(jobs.rows(Metric, run)) == 6

    def test_killed_rank_is_a_loss(self, jobs: Any) -> None:
        run = jobs.perform("second-rank-is-killed", spec=self.spec("second-rank-is-killed"))
        assert (run.status, run.losses) == (JobStatus.INTERRUPTED, 1)
        log = b"".join(row.data for row in jobs.rows(LogChunk, run)).decode()
        assert "rank 1 of 2" in log and "was ended by SIGKILL" in log
        assert not self.left_over(jobs, run.id)

    def test_failure_of_a_rank_is_the_runs(self, jobs: Any) -> None:
        run = jobs.perform("second-rank-fails", spec=self.spec("second-rank-fails"))
        assert (run.status, run.error["code"], run.error["detail"]) == (JobStatus.FAILED, "out_of_memory", "rank 1")
        assert "out of memory in the second rank" in run.error["log_tail"]
        assert not self.left_over(jobs, run.id)

    def test_interrupted_run_ends_all_ranks(self, jobs: Any, brief_drain: Database) -> None:
        id = jobs.add("hangs", spec=self.spec("hangs"))
        supervising = jobs.supervise(jobs.claim(), brief_drain)
        jobs.reaches(id, JobStatus.RUNNING)
        jobs.eventually(lambda: len(self.left_over(jobs, id)) == 3)  # two ranks and their launcher

        jobs.stopping.set()
        supervising.join()

        assert not self.left_over(jobs, id)


class TestProcesses:
    def test_every_process_of_a_job_has_the_niceness_of_the_setting(self, jobs: Any, impatient: Database) -> None:
        id = jobs.add("hangs", spec=RunSpec(name="hangs", resources={"processes_per_node": 2}).model_dump(mode="json"))
        supervising = jobs.supervise(jobs.claim(), with_settings(impatient, job_niceness=7, drain_seconds=0.2))
        jobs.reaches(id, JobStatus.RUNNING)
        leader = psutil.Process(jobs.attempt(id).provenance["group"])
        jobs.eventually(lambda: len(leader.children()) == 2)

        niceness = [process.nice() for process in (leader, *leader.children())]
        assert niceness == [psutil.Process().nice() + 7] * 3
        autogroup = Path(f"/proc/{leader.pid}/autogroup")
        if autogroup.exists():  # Linux schedules sessions, so niceness has no effect unless the session has it too
            assert autogroup.read_text().split()[1:] == ["nice", str(niceness[0])]
        jobs.stopping.set()
        supervising.join()

    def test_niceness_is_added_and_has_a_maximum(self, tmp_path: Path) -> None:
        argv = ("nice", "-n", str(15 - os.nice(0)), "cat")
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write(b".")
            process.stdin.flush()
            process.stdout.read(1)  # `cat` runs with its niceness
            lower_priority(process.pid, 10)
            assert psutil.Process(process.pid).nice() == 19
            process.stdin.close()

    def test_grandchildren_end_with_the_process(self, jobs: Any, impatient: Database) -> None:
        run = jobs.perform("leaves-a-grandchild")

        with impatient.transaction() as session:
            pid = session.scalars(select(Metric.value).where(Metric.run_id == run.id)).one()
        assert not jobs.alive(int(pid))

    @pytest.mark.parametrize("processes", [1, 2])
    def test_process_ends_when_its_supervisor_is_killed(
        self, processes: int, jobs: Any, program: tuple[str, ...], tmp_path: Path, eventually: Any
    ) -> None:
        (tmp_path / "attempt-1").mkdir()
        (tmp_path / "spec.json").write_text('{"name": "hangs"}')
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(tmp_path), str(processes), *program], stdout=subprocess.PIPE, text=True
        )
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        family = [child]
        if processes > 1:
            eventually(lambda: len(psutil.Process(child).children()) == processes)
            family += [rank.pid for rank in psutil.Process(child).children()]
        assert all(jobs.alive(process) for process in family)

        holder.kill()
        holder.wait()

        eventually(lambda: not any(jobs.alive(process) for process in family))


HOLDER = """
import sys, threading
from pathlib import Path
from worker.jobs.process import Process
from worker.jobs.training_run import train_command
directory = Path(sys.argv[1])
spec, out = directory / "spec.json", directory / "attempt-1"
command = train_command(spec, out, program=sys.argv[3:], processes=int(sys.argv[2]))
child = Process(command, directory / "log.txt", threading.Event())
print(child.pid, flush=True)
child.ended.wait()
"""
