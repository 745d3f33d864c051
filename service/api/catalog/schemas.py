"""How the catalog is shown: names and numbers, never where weights lie."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelView(BaseModel):
    """A flow text-to-image model."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    family: str = Field(description="The adapter that loads it.")
    description: str
    steps: int = Field(description="Its own number of denoising steps.")
    shift: float = Field(description="Its own schedule shift.")
    guidance: float = Field(description="Its own guidance.")
    width: int = Field(description="Its own image width, pixels.")
    height: int = Field(description="Its own image height, pixels.")
    size_multiple: int = Field(description="Width and height must be multiples of this, pixels.")
    max_size: int = Field(description="The largest width and height, pixels.")
    text_length: int = Field(description="Tokens of the T5 sequence.")
    parameters: int = Field(description="Transformer parameters.")
    seconds_per_nfe: float | None = Field(description="Measured seconds per sample and evaluation, batched.")
    seconds_per_compiled_nfe: float | None = Field(description="The same with `sampling.compile`.")
    measured_on: str


class RewardView(BaseModel):
    """A reward: one value per image, higher is better."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    description: str
    scale: str = Field(description="What the values mean and where they usually lie.")


class CatalogPromptSet(BaseModel):
    """A named list of prompts."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    split: str | None = Field(description="Which part of the bundled world's prompts.")
    description: str


class JudgeView(BaseModel):
    """What tells whether images show what a benchmark asks for."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    kind: str
    description: str
    identity: str = Field(description="What scores are labelled with.")


class AlgorithmView(BaseModel):
    """An alignment algorithm."""

    name: str
    description: str
    json_schema: dict[str, Any] = Field(description="JSON Schema of `algorithm` in a run's spec.")


class WorkerView(BaseModel):
    """A worker that is there."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    queue: str = Field(description="`train`, `generate` or `evaluate`.")
    device: str
    started_at: datetime
    heartbeat_at: datetime


class CatalogView(BaseModel):
    """Everything that a request may name."""

    models: list[ModelView]
    algorithms: list[AlgorithmView]
    presets: dict[str, dict[str, Any]] = Field(
        description="By name, the spec of a run that says nothing but the preset."
    )
    rewards: list[RewardView]
    prompt_sets: list[CatalogPromptSet]
    judges: list[JudgeView]
    workers: list[WorkerView]
