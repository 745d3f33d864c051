"""Views of the catalog: names and numbers, without the sources of weights."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelView(BaseModel):
    """A flow-matching text-to-image model."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    family: str = Field(description="The model family, which selects the adapter.")
    description: str
    steps: int = Field(description="Default number of denoising steps.")
    shift: float = Field(description="Default shift of the schedule.")
    guidance: float = Field(description="Default guidance scale.")
    width: int = Field(description="Default image width, pixels.")
    height: int = Field(description="Default image height, pixels.")
    size_multiple: int = Field(description="Width and height must be multiples of this, pixels.")
    max_size: int = Field(description="The largest width and height, pixels.")
    text_length: int = Field(description="Length of the T5 sequence, tokens.")
    parameters: int = Field(description="Number of transformer parameters.")
    seconds_per_nfe: float | None = Field(description="Measured seconds per sample and NFE, batched.")
    seconds_per_compiled_nfe: float | None = Field(description="The same with `sampling.compile`.")
    measured_on: str


class RewardView(BaseModel):
    """A reward: one value per image; higher is better."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    description: str
    scale: str = Field(description="Meaning and usual range of the values.")


class CatalogPromptSet(BaseModel):
    """A named list of prompts."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    split: str | None = Field(description="The split of the bundled prompts.")
    description: str


class JudgeView(BaseModel):
    """A judge, which decides whether images meet the test points of a benchmark."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    description: str
    identity: str = Field(description="The label of the judge's scores.")


class AlgorithmView(BaseModel):
    """An alignment algorithm."""

    name: str
    description: str
    json_schema: dict[str, Any] = Field(description="JSON Schema of `algorithm` in a run's spec.")


class WorkerView(BaseModel):
    """A live worker."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    queue: str = Field(description="`train`, `generate` or `evaluate`.")
    device: str
    started_at: datetime
    heartbeat_at: datetime


class CatalogView(BaseModel):
    """All names for requests, and the workers."""

    models: list[ModelView]
    algorithms: list[AlgorithmView]
    presets: dict[str, dict[str, Any]] = Field(description="The resolved spec of each preset.")
    rewards: list[RewardView]
    prompt_sets: list[CatalogPromptSet]
    judges: list[JudgeView]
    workers: list[WorkerView]
