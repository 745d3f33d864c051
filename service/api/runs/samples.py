"""`/runs/{run_id}/samples`: held-out images, and images of reward groups."""

import uuid
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import select

from service.api.dependencies import DatabaseDep, SessionDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.db.models import Run, Sample
from service.http.errors import NotFound
from service.http.image_response import PNG, image_response
from service.http.links import link
from service.http.pagination import Page, PageQuery, paged
from service.jobs import views


class SampleFilters(PageQuery):
    """Query parameters of the list. Samples must match all filters."""

    kind: Literal["heldout", "best", "worst", "group"] | None = Field(None, description="The kind of the sample.")
    step: int | None = Field(None, ge=0, le=2**31 - 1, description="The optimizer step.")
    sde_step: int | None = Field(None, ge=0, le=1000, description="The SDE step of the group.")
    granularity: int | None = Field(None, ge=1, le=1000, description="The granularity of the group.")


class SampleView(BaseModel):
    """A sample image."""

    id: UUID
    step: int = Field(description="Number of optimizer steps completed when the image was generated.")
    kind: str = Field(
        description="`heldout`: uses the same prompts and noise in each evaluation. `best`, `worst`: the best or worst "
        "image of a group. `group`: an image of a group of the step's first prompt."
    )
    index: int = Field(description="Index among the images of this kind and step.")
    prompt: str = Field(examples=["a red circle left of a blue square"])
    rewards: dict[str, float | None] = Field(
        description="Value of each reward; null if the reward failed.", examples=[{"clip_score": 0.71}]
    )
    sde_step: int | None = Field(description="The SDE step of the group; null for held-out images.")
    granularity: int | None = Field(description="The granularity of the group; null for held-out images.")
    attempt: int
    sha256: str
    size: int = Field(description="Size of the PNG in bytes.")
    image: str = Field(description="URL of the PNG.")


_KEY = (Sample.step, Sample.kind, Sample.index)


def _view(row: Sample) -> SampleView:
    return views.from_row(SampleView, row, image=link(f"/runs/{row.run_id}/samples/{row.id}/image"))


router = APIRouter(prefix="/runs/{run_id}/samples", tags=["samples"], route_class=ApiRoute)


@router.get("", summary="List sample images of a run")
@declare(Scope.READ, cacheable=True)
def list_samples(
    run_id: uuid.UUID, filters: Annotated[SampleFilters, Query()], session: SessionDep
) -> Page[SampleView]:
    """Return the held-out images and the images of groups at each step, with their rewards."""
    views.find(session, Run, run_id)
    query = select(Sample).where(Sample.run_id == run_id).distinct(*_KEY).filter_by(**filters.given())
    return paged(session, query, _KEY, filters, _view, ascending=True, then=[Sample.attempt.desc()])


@router.get("/{sample_id}/image", summary="Download a sample image", response_class=Response, responses=PNG)
@declare(Scope.READ, cacheable=True)
def get_sample_image(
    run_id: uuid.UUID, sample_id: uuid.UUID, request: Request, database: DatabaseDep, session: SessionDep
) -> Response:
    """Return the PNG after verifying it against its hash."""
    row = session.get(Sample, sample_id)
    if row is None or row.run_id != run_id:
        raise NotFound(f"Sample {sample_id} of run {run_id} not found")
    return image_response(request, database.artifacts, row.key, row.sha256)
