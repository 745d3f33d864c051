"""What a child process tells its supervisor: one JSON object a line in `events.jsonl`, in the order it happened."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter

Phase = Literal["loading", "evaluation", "rollout", "reward", "update", "checkpoint"]
"""What a run is doing."""


class Timed(BaseModel):
    """Every event carries its time (UTC). NaN and infinity are written as null."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Started(Timed):
    """The child has loaded what it needs and begins to work."""

    type: Literal["started"] = "started"
    provenance: dict[str, Any] = Field(
        description="Devices and processes, one for each rank, package versions, weight and prompt hashes, threads."
    )
    resumed_at: int = Field(0, description="Optimizer steps already done by an earlier attempt.")


class Progress(Timed):
    """Where the run stands. Also the sign that it is not stuck."""

    type: Literal["progress"] = "progress"
    step: int = Field(description="Optimizer steps done.")
    max_steps: int
    phase: Phase
    eta_seconds: float | None = Field(
        None, description="Estimated seconds to the end; null until a step has been timed."
    )
    step_seconds: float | None = Field(None, description="Seconds of a step lately; null until one has been timed.")


class Metrics(Timed):
    """Scalar measurements after `step` optimizer steps."""

    type: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None] = Field(description="Name to value; null where not finite.")


class RewardGroup(BaseModel):
    """The rewards of one group: what its advantages were made of."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt: str
    prompt_index: int = Field(description="Place of the prompt in this step's batch.")
    sde_step: int = Field(description="The SDE step that its samples differ by; −1: they are whole chains.")
    granularity: int
    reward: str
    values: list[float | None] = Field(description="One value per sample of the group; null = the reward failed.")


class RewardGroups(Timed):
    """All groups of one optimizer step."""

    type: Literal["reward_groups"] = "reward_groups"
    step: int
    groups: list[RewardGroup]


class Sample(Timed):
    """An image worth looking at: held out, or the best or worst of a group."""

    type: Literal["sample"] = "sample"
    step: int
    kind: Literal["heldout", "best", "worst"]
    index: int = Field(description="Place among the images of this kind at this step.")
    prompt: str
    rewards: dict[str, float | None]
    sde_step: int | None = Field(None, description="For best and worst: the SDE step of the group.")
    granularity: int | None = Field(None, description="For best and worst: the stride it was denoised with.")
    file: str = Field(description="PNG, relative to the attempt's directory.")
    sha256: str
    size: int = Field(description="Bytes.")


class CheckpointSaved(Timed):
    """A checkpoint directory is complete: its manifest was written last."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str = Field(description="Relative to the attempt's directory; holds `manifest.json`.")
    request: int = Field(0, description="The newest request for a checkpoint that it answers; 0: none.")
    best: float | None = Field(None, description="Its held-out value, where it is the best so far.")


class HeldoutSummary(BaseModel):
    """A held-out reward before and after, over the same prompts and noises."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    before: float
    after: float
    difference: float
    interval95: tuple[float, float] = Field(description="95% paired bootstrap interval of the difference.")
    pairs: int


class Cause(BaseModel):
    """Why a run pauses that nobody asked to."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: Literal["rewards_failed"]
    detail: str = Field(description="What happened.")
    hint: str = Field(description="What to do about it.")


class Finished(Timed):
    """The run did all its steps, was asked to stop, or paused by itself for a cause that may pass."""

    type: Literal["finished"] = "finished"
    outcome: Literal["succeeded", "paused", "cancelled"]
    step: int
    heldout: dict[str, HeldoutSummary] = Field({}, description="By reward; empty when nothing was evaluated.")
    cause: Cause | None = Field(None, description="Why it paused by itself; null where it was asked to, or ended.")


class Failed(Timed):
    """The run cannot go on."""

    type: Literal["failed"] = "failed"
    code: Literal[
        "bad_config",
        "out_of_memory",
        "rewards_failed",
        "not_finite",
        "disk_full",
        "judge_failed",
        "no_compiler",
        "error",
    ]
    detail: str = Field(description="What happened.")
    hint: str = Field("", description="What to do about it.")


Event = Annotated[
    Started | Progress | Metrics | RewardGroups | Sample | CheckpointSaved | Finished | Failed,
    Field(discriminator="type"),
]
EventLine: TypeAdapter[Event] = TypeAdapter(Event)
"""Reads one line: `EventLine.validate_json(line)`."""
