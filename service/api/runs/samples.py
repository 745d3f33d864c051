"""`/runs/{run_id}/samples`: sample images: held out, and the best and worst of groups."""

import uuid
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.dependencies import DatabaseDep, SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import Run, Sample
from service.http import openapi_examples
from service.http.errors import NotFound, problems
from service.http.image_response import PNG, image_response
from service.http.openapi_links import FIRST_ID, links
from service.http.pagination import Page, PageQuery, paged
from service.jobs import views


class SampleFilters(PageQuery):
    """Which samples to list; everything must hold together."""

    kind: Literal["heldout", "best", "worst"] | None = Field(None, description="Of this kind.")
    step: int | None = Field(None, ge=0, le=2**31 - 1, description="Of this optimizer step.")


class SampleView(BaseModel):
    """An image worth looking at."""

    model_config = ConfigDict(json_schema_extra=openapi_examples.example(openapi_examples.SAMPLE))

    id: UUID
    step: int = Field(description="Optimizer steps done when it was drawn.")
    kind: str = Field(description="`heldout`: the same prompts and noises each time. `best`, `worst`: of a group.")
    index: int = Field(description="Place among the images of this kind at this step.")
    prompt: str
    rewards: dict[str, float | None] = Field(description="By name; null: the reward failed.")
    sde_step: int | None = Field(description="For best and worst: the SDE step of the group.")
    granularity: int | None = Field(description="For best and worst: the stride it was denoised with.")
    attempt: int
    sha256: str
    size: int = Field(description="Bytes of the PNG.")
    image: str = Field(description="Where the PNG is.")


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


router = APIRouter(prefix="/runs/{run_id}/samples", tags=["samples"], route_class=ApiRoute)
IMAGE = links("getSampleImage", run_id="$request.path.run_id", sample_id=FIRST_ID)


@router.get(
    "",
    operation_id="listSamples",
    summary="Sample images of a run",
    responses={200: {"links": IMAGE}, **problems(404, 422)},
)
@declare(Scope.READ, cacheable=True)
def list_samples(
    run_id: uuid.UUID, filters: Annotated[SampleFilters, Query()], session: SessionDep
) -> Page[SampleView]:
    """Held-out images at each evaluation, and the best and worst of a group with their rewards."""
    return samples(session, run_id, filters)


@router.get(
    "/{sample_id}/image",
    operation_id="getSampleImage",
    summary="The image of a sample",
    response_class=Response,
    responses={**PNG, **problems(404, 422)},
)
@declare(Scope.READ, cacheable=True)
def get_sample_image(
    run_id: uuid.UUID, sample_id: uuid.UUID, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """The PNG as the run drew it, checked against its hash."""
    row = sample(session, run_id, sample_id)
    return image_response(request, database.artifacts, row.key, row.sha256)
