"""The kinds of work that a child process does, by the queue whose workers do it."""

from worker.jobs.evaluation import EvaluationWork
from worker.jobs.job_type import Work
from worker.jobs.run import RunWork

WORKS: dict[str, Work] = {"train": RunWork(), "evaluate": EvaluationWork()}
