"""Job states and the allowed transitions between them."""

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
INACTIVE = TERMINAL | {JobStatus.PAUSED}
"""States that a job leaves only when a user requests it."""

MOVES: dict[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.STARTING, JobStatus.PAUSED, JobStatus.CANCELLED}),
    JobStatus.STARTING: frozenset({JobStatus.RUNNING, JobStatus.PAUSING, JobStatus.CANCELLING})
    | {JobStatus.INTERRUPTED, JobStatus.FAILED, JobStatus.CANCELLED},
    JobStatus.RUNNING: frozenset({JobStatus.PAUSING, JobStatus.PAUSED, JobStatus.CANCELLING, JobStatus.INTERRUPTED})
    | TERMINAL,
    JobStatus.PAUSING: frozenset({JobStatus.PAUSED, JobStatus.CANCELLING}) | TERMINAL,
    JobStatus.PAUSED: frozenset({JobStatus.QUEUED, JobStatus.CANCELLED}),
    JobStatus.CANCELLING: TERMINAL,
    JobStatus.INTERRUPTED: frozenset({JobStatus.STARTING, JobStatus.PAUSED, JobStatus.CANCELLED, JobStatus.FAILED}),
    **dict.fromkeys(TERMINAL, frozenset({JobStatus.QUEUED})),
}
"""Allowed transitions by current state. A paused or ended job is queued again when it is resumed.

A running job may pause automatically after a problem.
"""


def check_move(old: JobStatus, new: JobStatus) -> None:
    """Raise ValueError unless the transition from `old` to `new` is allowed."""
    if new not in MOVES[old]:
        allowed = ", ".join(sorted(MOVES[old]))
        raise ValueError(f"Invalid status change from {old} to {new}; allowed: {allowed}")
