"""Public views of the catalog. They do not reveal where weights are stored."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from service.contracts.catalog import ModelInfo, PromptSetInfo, RewardInfo
from service.http.pagination import RowView


class JudgeView(RowView):
    """A judge, which decides whether images meet the test points of a benchmark."""

    name: str
    kind: str
    description: str
    identity: str = Field(description="The label stored with the judge's scores.")


class AlgorithmView(BaseModel):
    """An alignment algorithm."""

    name: str
    description: str
    json_schema: dict[str, Any] = Field(description="JSON Schema of `algorithm` in a run's spec.")


class WorkerView(RowView):
    """A live worker."""

    name: str
    queue: str = Field(description="`train`, `generate` or `evaluate`.")
    device: str
    started_at: datetime
    heartbeat_at: datetime


class CatalogView(BaseModel):
    """All names that can be used in requests, and the live workers."""

    models: list[ModelInfo]
    algorithms: list[AlgorithmView]
    presets: dict[str, dict[str, Any]] = Field(description="The resolved spec of each preset.")
    preset_descriptions: dict[str, str] = Field(description="The purpose of each preset.")
    rewards: list[RewardInfo]
    prompt_sets: list[PromptSetInfo]
    judges: list[JudgeView]
    workers: list[WorkerView]
