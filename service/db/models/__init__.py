"""The tables of the database. Importing this package registers all of them."""

from service.db.models.api_key import ApiKey, IdempotencyKey
from service.db.models.checkpoint import Checkpoint
from service.db.models.deployment import Deployment, Garbage, Worker
from service.db.models.evaluation import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage
from service.db.models.generation import Generation, GenerationImage
from service.db.models.job import Job, JobError, SupervisedJob
from service.db.models.prompt_set import PromptSet
from service.db.models.run import Attempt, Metric, RewardGroup, Run, Sample
from service.db.models.score import Score, ScoreImage

__all__ = [
    "ApiKey",
    "Attempt",
    "BenchmarkRow",
    "Checkpoint",
    "Deployment",
    "Evaluation",
    "EvaluationAnswer",
    "EvaluationImage",
    "Garbage",
    "Generation",
    "GenerationImage",
    "IdempotencyKey",
    "Job",
    "JobError",
    "Metric",
    "PromptSet",
    "RewardGroup",
    "Run",
    "Sample",
    "Score",
    "ScoreImage",
    "SupervisedJob",
    "Worker",
]
