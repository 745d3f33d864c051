"""What a child's end means for its job."""

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from service.contracts.events import Cause, Failed, Finished
from service.contracts.status import JobStatus
from service.db.models import JobError

_LOST = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""Signals from outside: a machine going down, an operator, the kernel short of memory. Not the run's fault."""


Stop = Literal["cancel", "drain", "pause", "budget"]
"""Why a child is asked to stop: somebody wants the run's end, the worker leaves, somebody wants a rest, time is up."""


@dataclass(frozen=True)
class Outcome:
    """The status a job gets, and why if it failed or paused by itself. An interrupted job is taken again."""

    status: JobStatus
    error: JobError | None = None
    lost: bool = False
    """Interrupted by a loss, which counts towards the most attempts, unlike a worker's orderly end."""


def failed(code: str, detail: str, hint: str = "", log_tail: str = "") -> Outcome:
    """A failure, for the person who reads it."""
    return Outcome(JobStatus.FAILED, _error(code, detail, hint, log_tail))


def paused(cause: Cause, log_tail: str = "") -> Outcome:
    """A rest that the job took by itself; whoever reads why resumes it."""
    return Outcome(JobStatus.PAUSED, _error(cause.code, cause.detail, cause.hint, log_tail))


def _error(code: str, detail: str, hint: str, log_tail: str) -> JobError:
    said = detail.replace("\x00", "�")  # PostgreSQL keeps no NUL
    return {"code": code, "detail": said, "hint": hint, "log_tail": log_tail}


def classify(
    ending: Finished | Failed | None, returncode: int, *, stop: Stop | None, out_of_memory: bool, log_tail: str
) -> Outcome:
    """What became of a child that exited by itself or was ended; its own last word counts first.

    `stop` is why it was asked to stop, if it was.
    """
    if isinstance(ending, Finished) and ending.outcome != "paused":
        return Outcome(JobStatus(ending.outcome))
    if isinstance(ending, Failed):
        return failed(ending.code, ending.detail, ending.hint, log_tail)
    if isinstance(ending, Finished) and ending.cause is not None and stop != "cancel":
        return paused(ending.cause, log_tail)
    if stop is not None:
        return _stopped(stop, log_tail)
    if ending is not None:
        return Outcome(JobStatus.INTERRUPTED)
    if out_of_memory and returncode == -signal.SIGKILL:
        return failed(
            "out_of_memory",
            "the kernel ended the process because the machine's or container's memory was used up",
            "Lower sampling.rollout_batch_size or the image size, or give the worker more memory.",
            log_tail,
        )
    if returncode < 0:
        name = _signal_name(-returncode)
        if -returncode in _LOST:
            return Outcome(JobStatus.INTERRUPTED, lost=True)
        return failed("crashed", f"the process was ended by {name}", "The end of the log may say where.", log_tail)
    return failed(
        "error",
        f"the process exited with status {returncode} and did not say why",
        "The end of the log may say why.",
        log_tail,
    )


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
                "the run has had a worker for as long as its limits.wall_clock_seconds, or the operator, allows",
                "Resume it for as long again, or clone it with another limit.",
                log_tail,
            )


def stuck_for(seconds: float, log_tail: str) -> Outcome:
    """The end of a child that said nothing for too long."""
    detail = f"the process reported nothing for {seconds:g} s and was ended"
    hint = (
        "limits.progress_timeout_seconds and G2RPO_PROGRESS_TIMEOUT_SECONDS say how long is too long. Resume the run."
    )
    return failed("stuck", detail, hint, log_tail)


def too_often_lost(attempts: int, returncode: int | None, log_tail: str = "") -> Outcome:
    """The end of a job whose every attempt was lost."""
    how = (
        f"; the last one was ended by {_signal_name(-returncode)}" if returncode is not None and returncode < 0 else ""
    )
    return failed(
        "lost",
        f"all {attempts} attempts were lost, their worker or process having disappeared{how}",
        "Look for a shortage of memory or for restarts of the worker; G2RPO_MAX_ATTEMPTS sets how often to try.",
        log_tail,
    )


def oom_kills() -> int:
    """How often the kernel killed something of this process's control group for want of memory; 0 where not counted."""
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
    """The files that may count, of this process's own group first, then of the one mounted at the root (containers)."""
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
