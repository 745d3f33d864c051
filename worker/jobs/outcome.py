"""Outcomes of attempts: exceptions, exit codes and lost leases mapped to a job status, error code, message and hint.

A child process that fails normally reports its own error in a `Failed` event (`worker.entrypoints`), which is used
unchanged. This module provides the errors of processes that report none, and of the worker itself.
"""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sqlalchemy.exc import InterfaceError, InternalError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.contracts.events import Failed, Finished
from service.contracts.status import JobStatus
from service.db.artifacts import ArtifactDamaged, StoreUnavailable
from service.db.models import JobError
from worker.jobs.artifact_transfer import PromptSetDamaged

DATABASE_UNAVAILABLE = (OperationalError, InterfaceError, InternalError, PoolTimeout)
"""Temporary errors: the database is unreachable or aborted the transaction. Other errors would recur on every retry."""
_EXTERNAL_SIGNALS = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals sent by a shutdown, an operator or the kernel's out-of-memory killer, not caused by the job itself."""

Stop = Literal["cancel", "drain", "pause", "budget"]
"""Reasons to stop a process: a user cancels or pauses, the worker shuts down ("drain"), or the time budget is spent."""


@dataclass(frozen=True)
class Outcome:
    """The new status of a job, with the error if it failed or paused automatically."""

    status: JobStatus
    error: JobError | None = None
    lost: bool = False
    """Whether the attempt was lost. Lost attempts count toward the maximum; orderly stops do not."""
    returncode: int = 0
    """Return code of a lost process."""
    log_tail: str = ""
    """End of a lost process's log."""


def failed(code: str, detail: str, hint: str = "", log_tail: str = "") -> Outcome:
    """Return the outcome of a failed job with the given error."""
    return Outcome(JobStatus.FAILED, _error(code, detail, hint, log_tail))


def _error(code: str, detail: str, hint: str, log_tail: str) -> JobError:
    clean = detail.replace("\x00", "�")  # PostgreSQL stores no NUL in text
    return {"code": code, "detail": clean, "hint": hint, "log_tail": log_tail}


def from_exception(error: Exception, *, in_process: bool) -> Outcome:
    """Return the outcome of an attempt that raised an exception.

    `in_process` means that the engine ran in this process, so that the exception may come from it.
    """
    detail = str(error)
    match error:
        case PromptSetDamaged():
            return failed("bad_prompt_set", detail, "Restore the artifact store, or upload the prompts again.")
        case ArtifactDamaged():
            hint = "Restore the artifact store and resume the job, or use another checkpoint."
            return failed("bad_checkpoint", detail, hint)
        case OperationalError() | InterfaceError() | InternalError() | PoolTimeout():
            return Outcome(JobStatus.INTERRUPTED, lost=True)
        case StoreUnavailable():
            return failed("storage", detail, "Fix G2RPO_STORAGE_URL or the storage back end, then retry.")
        case OSError() if not in_process:
            hint = "Check free space and write permission in G2RPO_DATA_DIR and in the artifact store, then retry."
            return failed("storage", detail, hint)
        case ValueError() | KeyError() if in_process:
            return failed("bad_config", str(error.args[0] if error.args else error), "Fix the request or the catalog.")
    # The worker imports torch only if a job needs it, so torch's error is recognized by name.
    if in_process and (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"):
        return failed("out_of_memory", detail, "Request fewer or smaller images.")
    return failed("error", f"{type(error).__name__}: {error}", "See the worker's log for the traceback.")


def classify(
    ending: Finished | Failed | None, returncode: int, *, stop: Stop | None, out_of_memory: bool, log_tail: str
) -> Outcome:
    """Return the outcome of a process that has exited. The process's last event takes precedence.

    `stop` is the reason for which the supervisor stopped the process, or None. `out_of_memory` means that the kernel
    killed a process on this machine for lack of memory.
    """
    if isinstance(ending, Finished) and ending.outcome != "paused":
        return Outcome(JobStatus(ending.outcome))
    if isinstance(ending, Failed):
        return failed(ending.code, ending.detail, ending.hint, log_tail)
    if isinstance(ending, Finished) and ending.cause is not None and stop != "cancel":
        cause = ending.cause
        return Outcome(JobStatus.PAUSED, _error(cause.code, cause.detail, cause.hint, log_tail))
    if stop is not None:
        return _stopped(stop, log_tail)
    if ending is not None:
        return Outcome(JobStatus.INTERRUPTED)
    if out_of_memory and returncode == -signal.SIGKILL:
        return failed(
            "out_of_memory",
            "the kernel killed the process because the machine or container ran out of memory",
            "Lower sampling.rollout_batch_size or the image size, or give the worker more memory.",
            log_tail,
        )
    if -returncode in _EXTERNAL_SIGNALS:
        return Outcome(JobStatus.INTERRUPTED, lost=True, returncode=returncode, log_tail=log_tail)
    if returncode < 0:
        detail = f"the process was terminated by {_signal_name(-returncode)}"
        return failed("crashed", detail, "See the end of the log for the location.", log_tail)
    detail = f"the process exited with status {returncode} without reporting a cause"
    return failed("error", detail, "See the end of the log for the cause.", log_tail)


def _stopped(stop: Stop, log_tail: str) -> Outcome:
    match stop:
        case "cancel":
            return Outcome(JobStatus.CANCELLED)
        case "pause":
            return Outcome(JobStatus.PAUSED)
        case "drain":
            return Outcome(JobStatus.INTERRUPTED)
        case "budget":
            return failed(
                "budget_spent",
                "the run has used the time that limits.wall_clock_seconds or G2RPO_MAX_RUN_SECONDS allows",
                "Resume the run with the same budget again, or clone it with another limit.",
                log_tail,
            )


def stuck_for(seconds: float, log_tail: str = "") -> Outcome:
    """Return the outcome of a job that made no progress for `seconds` seconds."""
    detail = f"the process reported no progress for {seconds:g} s and was terminated"
    hint = "Resume the job. limits.progress_timeout_seconds and G2RPO_PROGRESS_TIMEOUT_SECONDS set the time limit."
    return failed("stuck", detail, hint, log_tail)


def over_memory_limit(used: int, limit: int, log_tail: str = "") -> Outcome:
    """Return the outcome of a job that was stopped because its processes used more memory than allowed, in bytes."""
    detail = f"the job used {used / 2**30:.2f} GiB of memory, above the limit of {limit / 2**30:.2f} GiB"
    hint = (
        "Request fewer or smaller images, lower sampling.rollout_batch_size, or give the worker more memory: "
        "G2RPO_WORKER_MEMORY_BYTES sets the limit."
    )
    return failed("out_of_memory", detail, hint, log_tail)


def too_often_lost(losses: int, returncode: int = 0, log_tail: str = "") -> Outcome:
    """Return the outcome of a job that has reached the limit on lost attempts."""
    last = f"; the last process was terminated by {_signal_name(-returncode)}" if returncode < 0 else ""
    return failed(
        "lost",
        f"all {losses} attempts were lost: their worker or process disappeared{last}",
        "Check for a lack of memory and for restarts of the worker. G2RPO_MAX_ATTEMPTS sets the limit.",
        log_tail,
    )


def oom_kills() -> int:
    """Return the number of processes in this control group that the kernel killed for lack of memory.

    Returns 0 if the kernel provides no counter.
    """
    for counter in _oom_counters():
        try:
            for line in counter.read_text(encoding="ascii").splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        except (OSError, ValueError):
            continue
    return 0


def _oom_counters() -> Iterator[Path]:
    """Yield the candidate counter files: first of this process's control group, then of the root group.

    Containers usually mount their own group as the root group.
    """
    root = Path("/sys/fs/cgroup")
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        groups = []
    for _, controllers, group in (line.split(":", 2) for line in groups if line.count(":") >= 2):
        if not controllers:
            yield root / group.lstrip("/") / "memory.events"
        elif "memory" in controllers.split(","):
            yield root / "memory" / group.lstrip("/") / "memory.oom_control"
    yield root / "memory.events"
    yield root / "memory" / "memory.oom_control"
    yield Path("/proc/vmstat")  # of the whole machine


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
