"""The rules of reward groups."""

import statistics
import uuid

from pydantic import TypeAdapter
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from service import jobs
from service.db.models import RewardGroup, Run
from service.pages import Page, decode_cursor, encode_cursor
from service.rewards.schemas import RewardFilters, RewardGroupView

_CURSOR = TypeAdapter(tuple[int, int, int, int, str])
_KEY = (
    RewardGroup.step,
    RewardGroup.prompt_index,
    RewardGroup.sde_step,
    RewardGroup.granularity,
    RewardGroup.reward,
)


def groups(session: Session, run_id: uuid.UUID, filters: RewardFilters) -> Page[RewardGroupView]:
    """A run's groups in the order they were made, each by its newest attempt. Raises NotFound."""
    run = jobs.find(session, Run, run_id)
    query = (
        select(RewardGroup)
        .where(RewardGroup.run_id == run_id)
        .distinct(*_KEY)
        .order_by(*_KEY, RewardGroup.attempt.desc())
        .limit(filters.limit + 1)
    )
    for column, value in (
        (RewardGroup.step, filters.step),
        (RewardGroup.sde_step, filters.sde_step),
        (RewardGroup.granularity, filters.granularity),
        (RewardGroup.reward, filters.reward),
    ):
        if value is not None:
            query = query.where(column == value)
    if filters.cursor is not None:
        query = query.where(tuple_(*_KEY) > tuple_(*decode_cursor(filters.cursor, _CURSOR)))
    rows = session.scalars(query).all()
    page = rows[: filters.limit]
    floor = float(run.spec["algorithm"]["advantage"]["std_floor"])
    last = page[-1] if len(rows) > len(page) else None
    return Page(
        items=[_view(row, floor) for row in page],
        next_cursor=encode_cursor(last.step, last.prompt_index, last.sde_step, last.granularity, last.reward)
        if last
        else None,
    )


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
