"""Runner of claimed jobs: lease, execution and recording of the outcome.

A `Supervisor` or `InProcess` executes the job, depending on its type.
"""

import threading

from service.contracts.status import JobStatus
from service.db.session import Database
from worker.jobs.attempt import Attempt, AttemptEnded
from worker.jobs.claim import Claim, LeaseLost, move
from worker.jobs.in_process import InProcess, InProcessJobType
from worker.jobs.outcome import Outcome, from_exception, too_often_lost
from worker.jobs.supervisor import SupervisedJobType, Supervisor
from worker.monitoring.stats import STATS


def run_job(database: Database, claim: Claim, stopping: threading.Event) -> None:
    """Run a claimed job until this attempt ends.

    If `stopping` is set, the attempt stops and another worker can continue it. Errors of the job, its process, the
    database or another worker are not raised but recorded in the job's row.
    """
    attempt, job_type = Attempt(database, claim, stopping), claim.job_type
    execution: Supervisor | InProcess
    if isinstance(job_type, SupervisedJobType):
        execution = Supervisor(attempt, job_type)
    else:
        assert isinstance(job_type, InProcessJobType), f"{job_type} is not a job type of a known kind"
        execution = InProcess(attempt, job_type)
    try:
        with attempt.lease:
            outcome = _run(attempt, execution)
            if attempt.recorded.is_set():
                outcome = Outcome(JobStatus.CANCELLED)
            else:
                outcome = attempt.retry_database(_record, attempt, outcome)
            STATS.add(f"jobs.{outcome.status}")
            attempt.log.info("job.ended", status=outcome.status, code=outcome.error["code"] if outcome.error else None)
        # Clean up after the lease has ended, because removing gigabytes may take longer than a lease.
        execution.clean_up(outcome)
    except LeaseLost as lost:
        attempt.log.warning("job.lost", detail=str(lost))
    finally:
        execution.abort()


def _run(attempt: Attempt, execution: Supervisor | InProcess) -> Outcome:
    try:
        return execution.run()
    except LeaseLost:
        raise
    except AttemptEnded as ended:
        return ended.outcome
    except Exception as error:
        outcome = from_exception(error, in_process=isinstance(execution, InProcess))
        unexpected = outcome.error is not None and outcome.error["code"] == "error"
        attempt.log.warning("job.raised", error=str(error) or repr(error), exc_info=unexpected)
        return outcome


def _record(attempt: Attempt, outcome: Outcome) -> Outcome:
    """Record and return the outcome. The outcome is a failure if the job has lost the maximum number of attempts."""
    if outcome.lost and (losses := attempt.losses() + 1) >= attempt.database.settings.max_attempts:
        outcome = too_often_lost(losses, outcome.returncode, outcome.log_tail)
    move(attempt.database, attempt.claim, outcome.status, outcome.error, lost=outcome.lost)
    return outcome
