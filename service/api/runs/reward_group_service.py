"""The rules of reward groups."""

import statistics
import uuid
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.runs.reward_group_schemas import RewardFilters, RewardGroupView
from service.db.models import RewardGroup, Run
from service.http.pagination import Page, paged
from service.jobs import views

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
