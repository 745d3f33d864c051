"""The events of a training process, one JSON object per line of `events.jsonl`, in order."""

import errno
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from service.contracts.base import Record

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of writes that are reported as `disk_full`: full disk, quota, maximum file size."""
Phase = Literal["loading", "evaluation", "rollout", "reward", "update", "checkpoint"]
"""The current activity of a run."""


class Timed(Record):
    """An event, with its time in UTC."""

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Started(Timed):
    """The process has loaded models and data, and starts."""

    type: Literal["started"] = "started"
    provenance: dict[str, Any] = Field(description="Devices, processes, package versions, hashes, threads.")
    resumed_at: int = Field(0, description="Optimizer steps done by earlier attempts.")


class Progress(Timed):
    """The progress of the run, and its heartbeat."""

    type: Literal["progress"] = "progress"
    step: int = Field(description="Optimizer steps done.")
    max_steps: int
    phase: Phase
    eta_seconds: float | None = Field(None, description="Estimated seconds to the end; null before the first step.")
    step_seconds: float | None = Field(None, description="Seconds per recent step; null before the first step.")


class Metrics(Timed):
    """Scalar measurements after `step` optimizer steps."""

    type: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None] = Field(description="Name to value; null where not finite.")


class RewardGroup(Record):
    """The rewards of one group, from which its advantages are computed."""

    prompt: str
    prompt_index: int = Field(description="Index of the prompt in the batch of this step.")
    sde_step: int = Field(description="The SDE step in which the samples differ; −1: the samples are chains.")
    granularity: int
    reward: str
    values: list[float | None] = Field(description="One value per sample of the group; null: the reward failed.")


class RewardGroups(Timed):
    """All groups of one optimizer step."""

    type: Literal["reward_groups"] = "reward_groups"
    step: int
    groups: list[RewardGroup]


class Sample(Timed):
    """A held-out image, or the best or worst image of a group."""

    type: Literal["sample"] = "sample"
    step: int
    kind: Literal["heldout", "best", "worst"]
    index: int = Field(description="Index among the images of this kind at this step.")
    prompt: str
    rewards: dict[str, float | None]
    sde_step: int | None = Field(None, description="For best and worst: the SDE step of the group.")
    granularity: int | None = Field(None, description="For best and worst: the stride of its continuation.")
    file: str = Field(description="PNG file, relative to the attempt's directory.")
    sha256: str
    size: int = Field(description="Bytes.")


class CheckpointSaved(Timed):
    """A checkpoint directory is complete: its manifest was written last."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str = Field(description="Relative to the attempt's directory; holds `manifest.json`.")
    request: int = Field(0, description="The newest checkpoint request that it fulfills; 0: none.")
    best: float | None = Field(None, description="Its held-out value, if it is the best of the run so far.")


class HeldoutSummary(Record):
    """A held-out reward before and after training, over the same prompts and noises."""

    before: float
    after: float
    difference: float
    interval95: tuple[float, float] = Field(description="95% paired bootstrap interval of the difference.")
    pairs: int


class Cause(Record):
    """Why a run paused without a request."""

    code: Literal["rewards_failed"]
    detail: str = Field(description="What happened.")
    hint: str = Field(description="How to fix it.")


class Finished(Timed):
    """The run completed its steps, stopped on request, or paused because of a temporary problem."""

    type: Literal["finished"] = "finished"
    outcome: Literal["succeeded", "paused", "cancelled"]
    step: int
    heldout: dict[str, HeldoutSummary] = Field({}, description="By reward; empty without held-out evaluation.")
    cause: Cause | None = Field(None, description="Why it paused without a request; null otherwise.")


class Failed(Timed):
    """The run cannot continue."""

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
    hint: str = Field("", description="How to fix it.")


Event = Annotated[
    Started | Progress | Metrics | RewardGroups | Sample | CheckpointSaved | Finished | Failed,
    Field(discriminator="type"),
]
EventLine: TypeAdapter[Event] = TypeAdapter(Event)
"""Parser for a line: `EventLine.validate_json(line)`."""
