"""`/runs/{run_id}/rewards`: reward groups."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Query

from service.dependencies import SessionDep
from service.errors import problems
from service.pages import Page
from service.rewards import service
from service.rewards.schemas import RewardFilters, RewardGroupView
from service.thread_route import ThreadRoute

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
    return service.groups(session, run_id, filters)
