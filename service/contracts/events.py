"""Events of a training process, written to `events.jsonl` as one JSON object per line."""

import errno
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, Field, TypeAdapter

from service.contracts.base import Record

RECOVERED = "recovered"
"""Type of the event that records that a worker has stored what an ended attempt left on its disk."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Write errors that are reported as `disk_full`: full disk, exceeded quota, exceeded file size limit."""
Phase = Literal["loading", "evaluation", "rollout", "reward", "update", "checkpoint"]
"""The phase that a run is in."""


class Timed(Record):
    """Base class of events, with the time in UTC."""

    time: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))


class Started(Timed):
    """Event: the process has loaded its models and data and starts the job."""

    type: Literal["started"] = "started"
    provenance: dict[str, Any] = Field(description="Devices, processes, package versions, hashes, threads.")
    resumed_at: int = Field(0, description="Optimizer steps completed by earlier attempts.")


class Progress(Timed):
    """Event: the progress of the run. It also serves as the heartbeat."""

    type: Literal["progress"] = "progress"
    step: int = Field(description="Optimizer steps completed.")
    max_steps: int
    phase: Phase
    eta_seconds: float | None = Field(None, description="Estimated seconds to the end; null before the first step.")
    step_seconds: float | None = Field(None, description="Seconds per recent step; null before the first step.")


class Metrics(Timed):
    """Event: scalar metrics after `step` optimizer steps."""

    type: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None] = Field(description="Metric values by name; null if not finite.")


class RewardGroup(Record):
    """The rewards from which the advantages of one group are computed."""

    prompt: str
    prompt_index: int = Field(description="Index of the prompt in this step's batch.")
    sde_step: int = Field(description="The SDE step in which the samples differ; −1: the samples are chains.")
    granularity: int
    reward: str
    values: list[float | None] = Field(description="One value per sample of the group; null: the reward failed.")


class RewardGroups(Timed):
    """Event: the rewards of all groups in one optimizer step."""

    type: Literal["reward_groups"] = "reward_groups"
    step: int
    groups: list[RewardGroup]


class Sample(Timed):
    """Event: a held-out image, or an image of a group, was saved."""

    type: Literal["sample"] = "sample"
    step: int
    kind: Literal["heldout", "best", "worst", "group"]
    index: int = Field(
        description="Index among the images of this kind at this step. For the images of groups: "
        "(k·Λ + s)·G + g for image g of the group of the k-th SDE step and s-th granularity."
    )
    prompt: str
    rewards: dict[str, float | None]
    sde_step: int | None = Field(None, description="SDE step of the group; null for held-out images.")
    granularity: int | None = Field(None, description="Stride of the image's continuation; null for held-out images.")
    file: str = Field(description="Path of the PNG file, relative to the attempt's directory.")
    sha256: str
    size: int = Field(description="File size in bytes.")


class CheckpointSaved(Timed):
    """Event: a checkpoint directory is complete. Its manifest is written last."""

    type: Literal["checkpoint"] = "checkpoint"
    step: int
    directory: str = Field(description="Path relative to the attempt's directory; contains `manifest.json`.")
    request: int = Field(0, description="Number of the newest request that this checkpoint fulfills; 0: none.")
    best: float | None = Field(None, description="Held-out value if it is the best of the run so far; otherwise null.")


class HeldoutSummary(Record):
    """A held-out reward before and after training, on the same prompts and noises."""

    before: float
    after: float
    difference: float
    interval95: tuple[float, float] = Field(description="95% paired bootstrap interval of the difference.")
    pairs: int


class Cause(Record):
    """The reason why a run paused automatically."""

    code: Literal["rewards_failed"]
    detail: str = Field(description="What happened.")
    hint: str = Field(description="How to fix it.")


class Finished(Timed):
    """Event: the run completed its steps, stopped on request, or paused because of a temporary problem."""

    type: Literal["finished"] = "finished"
    outcome: Literal["succeeded", "paused", "cancelled"]
    step: int
    heldout: dict[str, HeldoutSummary] = Field(
        {}, description="Results by reward; empty if held-out evaluation is disabled."
    )
    cause: Cause | None = Field(None, description="Reason why the run paused automatically; otherwise null.")


class Failed(Timed):
    """Event: the run failed and cannot continue."""

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
"""Parser for one line of `events.jsonl`: `EventLine.validate_json(line)`."""
