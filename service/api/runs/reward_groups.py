"""`/runs/{run_id}/rewards`: reward groups."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from service.api.dependencies import SessionDep
from service.api.runs import reward_group_service
from service.api.runs.reward_group_schemas import RewardFilters, RewardGroupView
from service.http.errors import problems
from service.http.pagination import Page
from service.http.thread_route import ThreadRoute

router = APIRouter(tags=["rewards"], route_class=ThreadRoute)


@router.get(
    "/runs/{run_id}/rewards",
    operation_id="listRewardGroups",
    summary="Reward groups of a run",
    responses=problems(404, 422),
)
def list_reward_groups(
    run_id: uuid.UUID, filters: Annotated[RewardFilters, Query()], session: SessionDep
) -> Page[RewardGroupView]:
    """What the advantages were made of: per prompt, SDE step, granularity and reward, with spread and failures."""
    return reward_group_service.groups(session, run_id, filters)
