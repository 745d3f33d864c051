"""The states of a job and the one table of allowed moves, used by every writer."""

from enum import StrEnum


class JobStatus(StrEnum):
    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    INTERRUPTED = "interrupted"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})
CLAIMABLE = frozenset({JobStatus.QUEUED, JobStatus.INTERRUPTED})
HELD = frozenset({JobStatus.STARTING, JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
"""States in which a worker holds the job's lease."""
RESTING = TERMINAL | {JobStatus.PAUSED}
"""States that a job leaves only when somebody asks for it."""

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.STARTING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.STARTING: frozenset({JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
    | {JobStatus.INTERRUPTED, JobStatus.FAILED, JobStatus.CANCELLED},
    JobStatus.RUNNING: frozenset({JobStatus.PAUSING, JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.INTERRUPTED})
    | TERMINAL,
    JobStatus.PAUSING: frozenset({JobStatus.PAUSED, JobStatus.CANCELLING}) | TERMINAL,
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.CANCELLING: TERMINAL,
    JobStatus.INTERRUPTED: frozenset(
        {JobStatus.STARTING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED},
    ),
    JobStatus.SUCCEEDED: frozenset({JobStatus.QUEUED}),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}
"""An ended or paused job is queued again when it is resumed. One that runs may pause by itself, for a cause."""


def check_move(old: JobStatus, new: JobStatus) -> None:
    """Raise ValueError unless a job may go from `old` to `new`."""
    if new not in MOVES[old]:
        allowed = ", ".join(sorted(MOVES[old]))
        raise ValueError(f"a job cannot go from {old} to {new}; from {old} it may go to {allowed}")
