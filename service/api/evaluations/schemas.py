"""How evaluations are asked for and shown."""

import uuid
from typing import Any

from pydantic import ConfigDict, Field

from service.contracts.base import Moment
from service.contracts.benchmarks.scores import Scores
from service.contracts.evaluations import RewardMean
from service.contracts.status import JobStatus
from service.http import openapi_examples
from service.http.pagination import PageQuery, Text
from service.jobs.views import JobView


class EvaluationFilters(PageQuery):
    """Which evaluations to list."""

    status: list[JobStatus] = Field([], max_length=len(JobStatus), description="One of these states.")
    model: Text | None = Field(None, description="Of this model.")
    checkpoint: uuid.UUID | None = Field(None, description="Of this checkpoint.")
    benchmark: Text | None = Field(None, description="On this benchmark.")
    created_after: Moment | None = Field(None, description="Created at or after this time.")
    created_before: Moment | None = Field(None, description="Created before this time.")


class EvaluationSummary(JobView):
    """An evaluation in a list."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.EVALUATION_SUMMARY))

    name: str
    model: str
    checkpoint: str = Field(description="A checkpoint's id, or `base`.")
    benchmark: str
    judge: str | None = Field(description="What scores are labelled with: those of different judges do not compare.")
    total_images: int
    overall: float | None = Field(description="Mean of the ten primary accuracies; null where there is none yet.")


class EvaluationView(EvaluationSummary):
    """An evaluation in full."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.EVALUATION))

    spec: dict[str, Any] = Field(description="What is drawn and judged: the request, with what it did not say.")
    prompts: int = Field(description="Prompts of the benchmark that are evaluated.")
    benchmark_prompts: int = Field(description="Prompts of the benchmark.")
    data_sha256: str = Field(description="Of the file that the benchmark's prompts are from.")
    content_sha256: str = Field(description="Of the benchmark's prompts and the judge's words.")
    template_sha256: str | None = Field(description="Of the template in which the judge is asked; null: there is none.")
    definitions_sha256: str | None = Field(description="Of the definitions that the judge is told.")
    queue_position: int | None = Field(description="1 is taken next; null when it does not wait.")
    eta_seconds: float | None = Field(description="Estimated seconds to the end; null until images were timed.")
    seconds_used: float = Field(description="Seconds with a worker in ended attempts.")
    images: int = Field(description="Images drawn so far.")
    judged: int = Field(description="Images whose newest answer could be read.")
    failed: int = Field(description="Images whose newest answer could not be read; resuming asks again.")
    scores: Scores | None = Field(description="Of all answers when it last ended; null before.")
    rewards: dict[str, RewardMean] = Field(description="Of all images when it last ended.")
