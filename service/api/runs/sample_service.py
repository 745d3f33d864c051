"""The rules of sample pictures."""

import uuid

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.runs.sample_schemas import SampleFilters, SampleView
from service.db.models import Run, Sample
from service.http.errors import NotFound
from service.http.pagination import Page, paged
from service.jobs import views

_KEY = (Sample.step, Sample.kind, Sample.index)


def samples(session: Session, run_id: uuid.UUID, filters: SampleFilters) -> Page[SampleView]:
    """A run's samples by step, kind and index, each by its newest attempt. Raises NotFound."""
    views.find(session, Run, run_id)
    query = select(Sample).where(Sample.run_id == run_id).distinct(*_KEY)
    if filters.kind is not None:
        query = query.where(Sample.kind == filters.kind)
    if filters.step is not None:
        query = query.where(Sample.step == filters.step)
    return paged(session, query, _KEY, filters, _view, ascending=True, then=[Sample.attempt.desc()])


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
