"""`/runs/{run_id}/rewards`: the groups of rewards from which advantages are computed."""

import statistics
import uuid
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from sqlalchemy import select

from service.api.dependencies import SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import RewardGroup, Run
from service.http.pagination import Page, PageQuery, Text, paged
from service.jobs import views


class RewardFilters(PageQuery):
    """Query parameters of the list. Groups must match all filters."""

    step: int | None = Field(None, ge=0, le=2**31 - 1, description="The optimizer step.")
    sde_step: int | None = Field(None, ge=0, le=2**31 - 1, description="The SDE step.")
    granularity: int | None = Field(None, ge=1, le=2**31 - 1, description="The granularity.")
    reward: Text | None = Field(None, description="The name of the reward.")


class RewardGroupView(BaseModel):
    """The reward values of one group, identified by prompt, SDE step, granularity and reward."""

    step: int
    prompt_index: int = Field(description="Index of the prompt in the step's batch.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    sde_step: int
    granularity: int
    reward: str = Field(examples=["clip_score"])
    attempt: int = Field(description="The newest attempt that contains this step.")
    values: list[float | None] = Field(
        description="One value per sample, in the unit of the reward; null if the reward failed."
    )
    mean: float | None = Field(description="Mean of the valid values; null if there are none.")
    std: float | None = Field(
        description="Unbiased standard deviation, as used for the advantages; null for fewer than two valid values."
    )
    failures: int = Field(description="Number of samples on which the reward failed.")
    zero_std: bool = Field(
        description="Whether the standard deviation is below `std_floor`, so that the group's advantages are 0."
    )


_KEY = (RewardGroup.step, RewardGroup.prompt_index, RewardGroup.sde_step, RewardGroup.granularity, RewardGroup.reward)


def _view(row: RewardGroup, floor: float) -> RewardGroupView:
    valid = [value for value in row.values if value is not None]
    std = statistics.stdev(valid) if len(valid) > 1 else None
    return views.from_row(
        RewardGroupView,
        row,
        mean=statistics.fmean(valid) if valid else None,
        std=std,
        failures=len(row.values) - len(valid),
        zero_std=std is not None and std < floor,
    )


router = APIRouter(tags=["rewards"], route_class=ApiRoute)


@router.get("/runs/{run_id}/rewards", summary="List reward groups of a run")
@declare(Scope.READ, cacheable=True)
def list_reward_groups(
    run_id: uuid.UUID, filters: Annotated[RewardFilters, Query()], session: SessionDep
) -> Page[RewardGroupView]:
    """Return the reward values per prompt, SDE step, granularity and reward, with standard deviation and failures."""
    run = views.find(session, Run, run_id)
    query = select(RewardGroup).where(RewardGroup.run_id == run_id).distinct(*_KEY).filter_by(**filters.given())
    view = partial(_view, floor=float(run.spec["algorithm"]["advantage"]["std_floor"]))
    return paged(session, query, _KEY, filters, view, ascending=True, then=[RewardGroup.attempt.desc()])
