"""How a comparison of runs is asked for and shown."""

import uuid
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from service.api.curves.schemas import MaxPoints, MetricPattern, SinceStep, Smooth
from service.api.curves.service import separated
from service.http import openapi_examples

Axis = Literal["step", "nfe", "seconds"]
Band = Literal["minmax", "std", "ci95", "none"]

MOST_RUNS, MOST_GROUPS, MOST_METRICS = 64, 16, 24
_LONGEST_NAME = 200
_LONGEST_GROUP = _LONGEST_NAME + MOST_RUNS * 37
"""Letters of a name and of as many ids as there may be."""
_FORM = "write NAME:ID,ID with a name for the group and ids of runs"


class Group(NamedTuple):
    """Runs that are shown as their mean: seeds of one experiment."""

    name: str
    runs: tuple[uuid.UUID, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """The group that `NAME:ID,ID` says. Raises ValueError."""
        name, colon, ids = text.rpartition(":")
        name = name.strip()
        if not colon or not name:
            raise ValueError(f"{text[:80]!r} is no group; {_FORM}")
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise ValueError(
                f"{name[:80]!r} is no name of a group: at most {_LONGEST_NAME} printable characters are allowed"
            )
        runs = tuple(_id(one.strip(), name) for one in ids.split(","))
        if again := _repeated(runs):
            raise ValueError(f"group {name!r} has run {again} twice; each run counts once")
        return cls(name, runs)


def _id(text: str, group: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ValueError(f"{text[:80]!r} in group {group!r} is no id of a run; {_FORM}") from None


def _repeated(values: Sequence[object]) -> object | None:
    return next((value for index, value in enumerate(values) if value in values[:index]), None)


def _checked(text: str) -> str:
    Group.parse(text)
    return text


class ComparisonQuery(BaseModel):
    """Which runs and groups, which metrics, over what, and how they are drawn."""

    model_config = ConfigDict(extra="forbid")

    run: list[uuid.UUID] = Field(
        [],
        max_length=MOST_RUNS,
        description=f"A run that is shown by itself; repeatable. At most {MOST_RUNS} runs in all, those of groups "
        "counted.",
        examples=[[openapi_examples.RUN_ID]],
    )
    group: list[Annotated[str, Field(max_length=_LONGEST_GROUP), AfterValidator(_checked)]] = Field(
        [],
        max_length=MOST_GROUPS,
        validate_default=True,
        description="A named group of seeds, `NAME:ID,ID,ID`, that is shown as the mean over its runs with a band; "
        f"repeatable, at most {MOST_GROUPS} times.",
        examples=[[f"g2rpo:{openapi_examples.RUN_ID},{openapi_examples.OTHER_RUN_ID}"]],
    )
    metric: list[MetricPattern] = Field(
        min_length=1,
        max_length=100,
        description="Names, repeated or separated by commas; a final `*` stands for any ending, as in `heldout/*`. "
        f"Each metric is a panel; at most {MOST_METRICS} may be meant.",
        examples=[["heldout/clip_score"]],
    )
    x: Axis = Field(
        "step",
        description="What the metrics are shown over. `step`: optimizer steps. `nfe`: NFE of "
        "the run's training so far, rollouts and not held-out images (its metric `elapsed/nfe`). `seconds`: "
        "seconds of its training so far, held-out evaluation, loading and checkpoints apart (`elapsed/seconds`).",
    )
    band: Band = Field(
        "ci95",
        description="What is shaded about a group's mean at each x where two runs or more have a value. `ci95`: the "
        "95% confidence interval of the mean by Student's t, mean ± t(0.975, n - 1) · s / √n with n runs and their "
        "unbiased standard deviation s. `std`: mean ± s. `minmax`: from the least run to the greatest. `none`: "
        "nothing.",
    )
    since_step: SinceStep = 0
    max_points: MaxPoints = 500
    smooth: Smooth = 0
    width_mm: float = Field(
        170,
        ge=40,
        le=400,
        allow_inf_nan=False,
        description="Width of a figure in millimetres; its height follows from its panels.",
    )

    @field_validator("run")
    @classmethod
    def _once(cls, runs: list[uuid.UUID]) -> list[uuid.UUID]:
        if again := _repeated(runs):
            raise ValueError(f"run {again} is asked for twice; each is shown once")
        return runs

    @field_validator("group")
    @classmethod
    def _fit(cls, texts: list[str], info: ValidationInfo) -> list[str]:
        groups = [Group.parse(text) for text in texts]
        if again := _repeated([group.name for group in groups]):
            raise ValueError(f"there are two groups {again!r}; each needs a name of its own")
        if (alone := info.data.get("run")) is None:
            return texts  # what is wrong with them is told already
        if (count := len(alone) + sum(len(group.runs) for group in groups)) > MOST_RUNS:
            raise ValueError(f"these are {count} runs, counting those of groups; at most {MOST_RUNS} are allowed")
        if not count:
            raise ValueError("there is no run to show; say run=ID or group=NAME:ID,ID")
        return texts

    @field_validator("metric")
    @classmethod
    def _named(cls, metrics: list[str]) -> list[str]:
        if not separated(metrics):
            raise ValueError("there is no metric to show; say metric=NAME, as in metric=heldout/*")
        return metrics

    @property
    def groups(self) -> list[Group]:
        """The groups, read."""
        return [Group.parse(text) for text in self.group]


class ComparedSeries(BaseModel):
    """One metric of a run or a group over x. Lists have one entry per point."""

    name: str = Field(
        description="The group's name; the run's, or its id where it has none. The end of its id follows the name of "
        "a run that another one or a group bears too."
    )
    kind: Literal["run", "group"]
    runs: list[str] = Field(description="Ids of the runs whose values these are.")
    metric: str
    x: list[float] = Field(description="In the unit that `unit` says; each greater than the one before.")
    values: list[float | None] = Field(
        description="The run's value, or the mean over the group's runs; null where nothing was finite."
    )
    low: list[float | None] | None = Field(
        description="Lower edge of a group's band; null for a run, for a group of one, and without a band. Null at a "
        "point that fewer than two runs have."
    )
    high: list[float | None] | None = Field(description="Upper edge of a group's band; null as `low` is.")
    n: list[int] = Field(description="Runs that have a value there.")


class Comparison(BaseModel):
    """One or a few metrics of several runs over each other: metric by metric, groups before single runs."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.COMPARISON))

    x: Axis
    unit: str = Field(description="What `x` counts: optimizer steps, NFE or seconds.")
    band: Band
    series: list[ComparedSeries]
    warnings: list[str] = Field(description="What was asked for and is not, or not wholly, shown, and why.")
