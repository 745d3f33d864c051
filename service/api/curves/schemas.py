"""How curves are asked for and shown."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from service.http import openapi_examples

MetricPattern = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]


SinceStep = Annotated[int, Field(ge=0, le=2**31 - 1, description="From this optimizer step on.")]
MaxPoints = Annotated[
    int,
    Field(ge=1, le=10_000, description="Most points of a metric. Longer ones are cut into buckets of equal width."),
]
Smooth = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Exponential moving average: the weight each step keeps of what came before, corrected for the "
        "start. 0: none. Extremes stay unsmoothed.",
    ),
]


class CurveQuery(BaseModel):
    """Which metrics, from which step, how fine, how smooth."""

    model_config = ConfigDict(extra="forbid")

    metrics: list[MetricPattern] = Field(
        [],
        max_length=100,
        description="Names, repeated or separated by commas; a final `*` stands for any ending, as in `heldout/*`. "
        "Unset: all.",
    )
    since_step: SinceStep = 0
    max_points: MaxPoints = 500
    smooth: Smooth = 0


class Curve(BaseModel):
    """A metric over optimizer steps. Lists have one entry per point."""

    name: str
    steps: list[int] = Field(description="Optimizer steps done: the point's first.")
    values: list[float | None] = Field(
        description="Mean of the point's steps, smoothed; null where nothing was finite."
    )
    min: list[float | None] | None = Field(
        description="Least value of the point's steps; null if each is a single one."
    )
    max: list[float | None] | None = Field(description="Greatest value; null if each point is a single step.")


class Curves(BaseModel):
    """Convergence curves of a run, each step by its newest attempt."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.CURVES))

    run_id: str
    curves: list[Curve]
