"""Registry of the job types that workers run."""

from worker.jobs.claim import JobType
from worker.jobs.evaluation import EvaluationJobType
from worker.jobs.generation import GenerationJobType
from worker.jobs.scoring import ScoreJobType
from worker.jobs.training_run import RunJobType

_ALL: tuple[JobType, ...] = (RunJobType(), GenerationJobType(), EvaluationJobType(), ScoreJobType())
JOB_TYPES: dict[str, JobType] = {job_type.model.KIND: job_type for job_type in _ALL}


def job_types(queue: str) -> list[JobType]:
    """Return the job types that workers of the given queue run."""
    return [job_type for job_type in JOB_TYPES.values() if queue == job_type.model.QUEUE]
