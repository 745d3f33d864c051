"""One file per noun. Importing this package registers every table."""

from service.db.models.api_key import ApiKey
from service.db.models.attempt import Attempt
from service.db.models.benchmark import BenchmarkRow
from service.db.models.checkpoint import Checkpoint
from service.db.models.deployment import Deployment
from service.db.models.evaluation import (
    Evaluation,
    EvaluationAnswer,
    EvaluationAttempt,
    EvaluationEvent,
    EvaluationImage,
    EvaluationLogChunk,
)
from service.db.models.garbage import Garbage
from service.db.models.generation import Generation, GenerationImage
from service.db.models.idempotency_key import IdempotencyKey
from service.db.models.job import Job, JobError
from service.db.models.log_chunk import LogChunk
from service.db.models.metric import Metric
from service.db.models.prompt_set import PromptSet
from service.db.models.reward_group import RewardGroup
from service.db.models.run import Run
from service.db.models.run_event import RunEvent
from service.db.models.sample import Sample
from service.db.models.score import Score, ScoreImage
from service.db.models.supervised import SupervisedJob
from service.db.models.worker import Worker

__all__ = [
    "ApiKey",
    "Attempt",
    "BenchmarkRow",
    "Checkpoint",
    "Deployment",
    "Evaluation",
    "EvaluationAnswer",
    "EvaluationAttempt",
    "EvaluationEvent",
    "EvaluationImage",
    "EvaluationLogChunk",
    "Garbage",
    "Generation",
    "GenerationImage",
    "IdempotencyKey",
    "Job",
    "JobError",
    "LogChunk",
    "Metric",
    "PromptSet",
    "RewardGroup",
    "Run",
    "RunEvent",
    "Sample",
    "Score",
    "ScoreImage",
    "SupervisedJob",
    "Worker",
]
