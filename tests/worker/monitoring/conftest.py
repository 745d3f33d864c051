"""The fixtures of `tests/worker/jobs`."""

from tests.worker.jobs.conftest import _poll_often, impatient, jobs, program

__all__ = ["_poll_often", "impatient", "jobs", "program"]
