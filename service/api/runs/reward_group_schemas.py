"""How reward groups are asked for and shown."""

from pydantic import BaseModel, ConfigDict, Field

from service.http import openapi_examples
from service.http.pagination import Cursor, Limit, Text


class RewardFilters(BaseModel):
    """Which groups to list; everything must hold together."""

    model_config = ConfigDict(extra="forbid")

    step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this optimizer step.")
    sde_step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this SDE step.")
    granularity: int | None = Field(None, ge=1, le=2**31 - 1, description="Of this stride.")
    reward: Text | None = Field(None, description="Of this reward.")
    limit: Limit = 50
    cursor: Cursor = None


class RewardGroupView(BaseModel):
    """The rewards of one group: a prompt, an SDE step, a granularity, a reward."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.REWARD_GROUP))

    step: int
    prompt_index: int = Field(description="Place of the prompt in the step's batch.")
    prompt: str
    sde_step: int
    granularity: int
    reward: str
    attempt: int = Field(description="The newest attempt that did this step.")
    values: list[float | None] = Field(description="One value per sample, in the reward's unit; null: it failed.")
    mean: float | None = Field(description="Of the values that did not fail.")
    std: float | None = Field(description="Unbiased, as in the advantages; null with fewer than two values.")
    failures: int = Field(description="Samples the reward failed on.")
    zero_std: bool = Field(description="The spread is under `std_floor`: the group's advantages are 0.")
