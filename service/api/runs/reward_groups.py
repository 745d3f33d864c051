"""`/runs/{run_id}/rewards`: reward groups, which a run's advantages were made of."""

import statistics
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.dependencies import SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import RewardGroup, Run
from service.http import openapi_examples
from service.http.errors import problems
from service.http.pagination import Page, PageQuery, Text, paged
from service.jobs import views


class RewardFilters(PageQuery):
    """Which groups to list; everything must hold together."""

    step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this optimizer step.")
    sde_step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this SDE step.")
    granularity: int | None = Field(None, ge=1, le=2**31 - 1, description="Of this stride.")
    reward: Text | None = Field(None, description="Of this reward.")


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


_KEY = (
    RewardGroup.step,
    RewardGroup.prompt_index,
    RewardGroup.sde_step,
    RewardGroup.granularity,
    RewardGroup.reward,
)


def groups(session: Session, run_id: uuid.UUID, filters: RewardFilters) -> Page[RewardGroupView]:
    """A run's groups in the order they were made, each by its newest attempt. Raises NotFound."""
    run = views.find(session, Run, run_id)
    query = select(RewardGroup).where(RewardGroup.run_id == run_id).distinct(*_KEY)
    for column, value in (
        (RewardGroup.step, filters.step),
        (RewardGroup.sde_step, filters.sde_step),
        (RewardGroup.granularity, filters.granularity),
        (RewardGroup.reward, filters.reward),
    ):
        if value is not None:
            query = query.where(column == value)
    view = partial(_view, floor=float(run.spec["algorithm"]["advantage"]["std_floor"]))
    return paged(session, query, _KEY, filters, view, ascending=True, then=[RewardGroup.attempt.desc()])


def _view(row: RewardGroup, floor: float) -> RewardGroupView:
    valid = [value for value in row.values if value is not None]
    std = statistics.stdev(valid) if len(valid) > 1 else None
    return RewardGroupView(
        step=row.step,
        prompt_index=row.prompt_index,
        prompt=row.prompt,
        sde_step=row.sde_step,
        granularity=row.granularity,
        reward=row.reward,
        attempt=row.attempt,
        values=row.values,
        mean=statistics.fmean(valid) if valid else None,
        std=std,
        failures=len(row.values) - len(valid),
        zero_std=std is not None and std < floor,
    )


router = APIRouter(tags=["rewards"], route_class=ApiRoute)


@router.get(
    "/runs/{run_id}/rewards",
    operation_id="listRewardGroups",
    summary="Reward groups of a run",
    responses=problems(404, 422),
)
@declare(Scope.READ, cacheable=True)
def list_reward_groups(
    run_id: uuid.UUID, filters: Annotated[RewardFilters, Query()], session: SessionDep
) -> Page[RewardGroupView]:
    """What the advantages were made of: per prompt, SDE step, granularity and reward, with spread and failures."""
    return groups(session, run_id, filters)
