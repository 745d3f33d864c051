"""The rules of sample pictures."""

import uuid

from pydantic import TypeAdapter
from sqlalchemy import select, tuple_
from sqlalchemy.orm import Session

from service import jobs
from service.db.models import Run, Sample
from service.errors import NotFound
from service.pages import Page, decode_cursor, encode_cursor
from service.samples.schemas import SampleFilters, SampleView

_CURSOR = TypeAdapter(tuple[int, str, int])
_KEY = (Sample.step, Sample.kind, Sample.index)


def samples(session: Session, run_id: uuid.UUID, filters: SampleFilters) -> Page[SampleView]:
    """A run's samples by step, kind and index, each by its newest attempt. Raises NotFound."""
    jobs.find(session, Run, run_id)
    query = (
        select(Sample)
        .where(Sample.run_id == run_id)
        .distinct(*_KEY)
        .order_by(*_KEY, Sample.attempt.desc())
        .limit(filters.limit + 1)
    )
    if filters.kind is not None:
        query = query.where(Sample.kind == filters.kind)
    if filters.step is not None:
        query = query.where(Sample.step == filters.step)
    if filters.cursor is not None:
        query = query.where(tuple_(*_KEY) > tuple_(*decode_cursor(filters.cursor, _CURSOR)))
    rows = session.scalars(query).all()
    page = rows[: filters.limit]
    last = page[-1] if len(rows) > len(page) else None
    return Page(
        items=[_view(row) for row in page],
        next_cursor=encode_cursor(last.step, last.kind, last.index) if last else None,
    )


def sample(session: Session, run_id: uuid.UUID, sample_id: uuid.UUID) -> Sample:
    """One sample of a run. Raises NotFound."""
    row = session.get(Sample, sample_id)
    if row is None or row.run_id != run_id:
        raise NotFound(f"run {run_id} has no sample {sample_id}")
    return row


def _view(row: Sample) -> SampleView:
    return SampleView(
        id=row.id,
        step=row.step,
        kind=row.kind,
        index=row.index,
        prompt=row.prompt,
        rewards=row.rewards,
        sde_step=row.sde_step,
        granularity=row.granularity,
        attempt=row.attempt,
        sha256=row.sha256,
        size=row.size,
        image=f"/runs/{row.run_id}/samples/{row.id}/image",
    )
