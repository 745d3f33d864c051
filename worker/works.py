"""The kinds of work that a child process does, by the queue whose workers do it."""

from worker.celery_app import EVALUATE, TRAIN
from worker.evaluation_work import EvaluationWork
from worker.run_work import RunWork
from worker.work import Work

WORKS: dict[str, Work] = {TRAIN: RunWork(), EVALUATE: EvaluationWork()}
