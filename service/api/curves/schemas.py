"""Query parameters and responses of `/runs/{run_id}/curves` and `/curves`."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from service.contracts.base import ONE_LINE
from service.http.pagination import StrictQuery

Axis = Literal["step", "nfe", "seconds"]
Band = Literal["minmax", "std", "ci95", "none"]
Kind = Literal["run", "group"]

MAX_RUNS, MAX_GROUPS, MAX_METRICS = 64, 16, 24
_MAX_NAME = 200
_GROUP_FORMAT = "write NAME:ID,ID with a name for the group and the ids of its runs"


def _split(patterns: list[str]) -> list[str]:
    return [name.strip() for pattern in patterns for name in pattern.split(",") if name.strip()]


MetricPatterns = Annotated[
    list[Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]],
    Field(max_length=100),
    AfterValidator(_split),
]
SinceStep = Annotated[int, Field(ge=0, le=2**31 - 1, description="First optimizer step.")]
MaxPoints = Annotated[
    int,
    Field(ge=1, le=10_000, description="Maximum points per metric. Longer metrics are divided into equal buckets."),
]
Smooth = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Weight of the previous average at each step of an exponential moving average with bias "
        "correction. 0 disables smoothing. Minimum and maximum are not smoothed.",
    ),
]
_PATTERNS = "Names, repeated or separated by commas; a final `*` matches any ending, as in `heldout/*`. "


class CurveQuery(StrictQuery):
    """The metrics to show for a run, and their resolution and smoothing."""

    metrics: MetricPatterns = Field([], description=_PATTERNS + "Default: all.")
    since_step: SinceStep = 0
    max_points: MaxPoints = 500
    smooth: Smooth = 0


class Curve(BaseModel):
    """A metric over optimizer steps. Each list has one entry per point."""

    name: str
    steps: list[int] = Field(description="Optimizer step of the point, which is the first step of its bucket.")
    values: list[float | None] = Field(description="Mean over the bucket, smoothed; null if no value is finite.")
    min: list[float | None] | None = Field(description="Minimum over the bucket; null if each point is a single step.")
    max: list[float | None] | None = Field(description="Maximum over the bucket; null if each point is a single step.")


_EXAMPLE: dict[str, Any] = {
    "run_id": "01a204c3-f0ca-74ae-8fde-44fae912a6da",
    "curves": [
        {
            "name": "reward/clip_score",
            "steps": [1, 11, 21],
            "values": [0.64, 0.71, 0.76],
            "min": [0.6, 0.69, 0.72],
            "max": [0.68, 0.74, 0.81],
        }
    ],
}


class Curves(BaseModel):
    """Convergence curves of a run. If several attempts computed a step, the newest attempt's value is used."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    run_id: str
    curves: list[Curve]


EXAMPLE_RUNS = ("01a204c3-f0ca-74ae-8fde-44fae912a6da", "01a204c3-f9b1-7c52-a1d7-0c9e4b7f3e58")


class Group(NamedTuple):
    """Runs that are shown as their mean, such as the seeds of one experiment."""

    name: str
    runs: tuple[uuid.UUID, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a group in the form `NAME:ID,ID`. Raises ValueError if the text is invalid."""
        name, _, ids = text.rpartition(":")
        name = name.strip()
        if not name:
            raise ValueError(f"Invalid group {text[:80]!r}; {_GROUP_FORMAT}")
        if len(name) > _MAX_NAME:
            raise ValueError(f"Invalid group name {name[:80]!r}; use at most {_MAX_NAME} characters")
        runs = []
        for id in ids.split(","):
            try:
                runs.append(uuid.UUID(id.strip()))
            except ValueError:
                raise ValueError(f"Invalid run id {id.strip()[:80]!r} in group {name!r}; {_GROUP_FORMAT}") from None
        if duplicate := _duplicate(runs):
            raise ValueError(f"Duplicate run {duplicate} in group {name!r}; list each run once")
        return cls(name, tuple(runs))


def _duplicate(values: Sequence[object]) -> object | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


class ComparisonQuery(StrictQuery):
    """The runs, groups and metrics to compare, the x axis, the band, and the width of the figure."""

    run: list[uuid.UUID] = Field(
        [],
        max_length=MAX_RUNS,
        description=f"A run to show as its own line; repeatable. At most {MAX_RUNS} runs, including those of groups.",
        examples=[[EXAMPLE_RUNS[0]]],
    )
    group: list[Annotated[str, StringConstraints(max_length=_MAX_NAME + MAX_RUNS * 37), ONE_LINE]] = Field(
        [],
        max_length=MAX_GROUPS,
        validate_default=True,
        description="A named group of seeds, `NAME:ID,ID,ID`, shown as the mean over its runs with a band; "
        f"repeatable, at most {MAX_GROUPS} times.",
        examples=[[f"g2rpo:{','.join(EXAMPLE_RUNS)}"]],
    )
    metric: MetricPatterns = Field(
        min_length=1,
        description=f"{_PATTERNS}Each metric is a panel; at most {MAX_METRICS}.",
        examples=[["heldout/clip_score"]],
    )
    x: Axis = Field(
        "step",
        description="The x axis. `step`: optimizer steps. `nfe`: NFE of the training so far, including rollouts but "
        "not held-out images (metric `elapsed/nfe`). `seconds`: training time so far in seconds, excluding held-out "
        "evaluation, loading and checkpoints (metric `elapsed/seconds`).",
    )
    band: Band = Field(
        "ci95",
        description="The band around a group's mean, at each x where two or more runs have a value. `ci95`: the 95% "
        "confidence interval of the mean by Student's t, mean ± t(0.975, n - 1) · s / √n for n runs with the unbiased "
        "standard deviation s. `std`: mean ± s. `minmax`: minimum to maximum over the runs. `none`: no band.",
    )
    since_step: SinceStep = 0
    max_points: MaxPoints = 500
    smooth: Smooth = 0
    width_mm: float = Field(
        170,
        ge=40,
        le=400,
        allow_inf_nan=False,
        description="Width of a figure in millimeters. The height follows from the number of panels.",
    )

    @field_validator("run")
    @classmethod
    def _check_runs(cls, runs: list[uuid.UUID]) -> list[uuid.UUID]:
        if duplicate := _duplicate(runs):
            raise ValueError(f"Duplicate run {duplicate}; list each run once")
        return runs

    @field_validator("group")
    @classmethod
    def _check_groups(cls, texts: list[str], info: ValidationInfo) -> list[str]:
        groups = [Group.parse(text) for text in texts]
        if duplicate := _duplicate([group.name for group in groups]):
            raise ValueError(f"Duplicate group name {duplicate!r}; give each group a different name")
        if (single := info.data.get("run")) is not None:  # None if `run` is invalid
            count = len(single) + sum(len(group.runs) for group in groups)
            if count > MAX_RUNS:
                raise ValueError(f"Too many runs: {count}, including those of groups; at most {MAX_RUNS} are allowed")
            if not count:
                raise ValueError("No run given; add run=ID or group=NAME:ID,ID")
        return texts

    @field_validator("metric")
    @classmethod
    def _check_metric(cls, metrics: list[str]) -> list[str]:
        if not metrics:
            raise ValueError("No metric given; add metric=NAME, as in metric=heldout/*")
        return metrics

    @property
    def groups(self) -> list[Group]:
        """The parsed groups."""
        return [Group.parse(text) for text in self.group]


class ComparedSeries(BaseModel):
    """One metric of a run or group over x. Each list has one entry per point."""

    name: str = Field(
        description="Name of the group or run, or the run's id if it has no name. If several runs or groups share a "
        "name, the end of the id is appended to the names of the runs."
    )
    kind: Kind
    runs: list[str] = Field(description="Ids of the runs.")
    metric: str = Field(examples=["heldout/clip_score"])
    x: list[float] = Field(description="In `unit`, strictly increasing.")
    values: list[float | None] = Field(
        description="Value of the run, or mean over the runs of the group; null if no value is finite."
    )
    low: list[float | None] | None = Field(
        description="Lower edge of a group's band; null for a run, for a group of one run, and if no band was "
        "requested. Entries are null at points with fewer than two runs."
    )
    high: list[float | None] | None = Field(description="Upper edge of a group's band; null where `low` is null.")
    n: list[int] = Field(description="Number of runs with a value at the point.")


class Comparison(BaseModel):
    """Metrics of several runs over a common axis, ordered by metric, with groups before single runs."""

    x: Axis
    unit: str = Field(description="Unit of `x`: optimizer steps, NFE or seconds.")
    band: Band
    heldout_pairs: int | None = Field(None, description="Pairs per held-out point; null if the runs differ.")
    series: list[ComparedSeries]
    warnings: list[str] = Field(description="What is missing from the result, and why.")
