"""The rules of generations."""

import uuid
from collections.abc import Iterator
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.generations.schemas import GenerationFilters, GenerationImageView, GenerationSummary, GenerationView
from service.api.idempotency import IdempotentRequest
from service.auth.principal import Principal
from service.auth.quota import check_open_jobs
from service.contracts.catalog import Catalog
from service.contracts.generations import GenerationSpec
from service.contracts.runs import SPEC_VERSION
from service.contracts.status import TERMINAL, JobStatus
from service.core.settings import Settings
from service.db import events, retention
from service.db.base import new_id
from service.db.models import Checkpoint, Generation, GenerationImage, Score
from service.db.session import Database
from service.http.errors import FieldError, InUse, Invalid, NotFinished, NotFound, WrongState
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.queue import Queue
from service.jobs.validation import check_checkpoint, check_prompts, check_size, find_model, lock_checkpoints, unknown


def create(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    spec: GenerationSpec,
    requested: dict[str, Any],
    principal: Principal,
    idempotency: IdempotentRequest,
) -> uuid.UUID:
    """Accept a generation: check its names and size, commit the row, wake a worker.

    The id may be that of a generation which an identical request made, and which was deleted since. Raises Invalid,
    TooManyOpenJobs, IdempotencyMismatch.
    """
    id = new_id()
    if (known := idempotency.claim(session, id)) is not None:
        return known
    resolved = resolve(session, database, catalog, spec)
    check_open_jobs(session, database.settings, principal.id)
    row = Generation(
        id=id,
        requested=requested,
        spec=resolved.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        created_by=principal.id,
    )
    session.add(row)
    session.commit()
    queue.send(Generation, id)
    return id


def resolve(session: Session, database: Database, catalog: Catalog, spec: GenerationSpec) -> GenerationSpec:
    """The spec with the model's own numbers in place of what was not said. Raises Invalid."""
    model = find_model(catalog, spec.model)
    if model is None:
        raise Invalid(list(unknown(catalog.model, spec.model, ("body", "model"))))
    resolved = spec.model_copy(
        update={
            "steps": spec.steps if spec.steps is not None else model.steps,
            "guidance": spec.guidance if spec.guidance is not None else model.guidance,
            "width": spec.width if spec.width is not None else model.width,
            "height": spec.height if spec.height is not None else model.height,
        }
    )
    width, height = resolved.width or model.width, resolved.height or model.height
    errors = list(check_size(model, width, height, ("body",)))
    errors += check_prompts(database.settings, len(spec.prompts), ("body", "prompts"))
    errors += _too_much(database.settings, resolved.total_images, width * height)
    lock_checkpoints(session, [one for one in spec.checkpoints if isinstance(one, uuid.UUID)])
    for index, checkpoint in enumerate(spec.checkpoints):
        if isinstance(checkpoint, uuid.UUID):
            loc = ("body", "checkpoints", index)
            errors += check_checkpoint(session, database.artifacts, checkpoint, spec.model, loc)[1]
    if errors:
        raise Invalid(errors)
    return resolved


def listing(session: Session, filters: GenerationFilters) -> Page[GenerationSummary]:
    """The generations that match, newest first."""
    query = select(Generation)
    if filters.status:
        query = query.where(Generation.status.in_(filters.status))
    if filters.created_after is not None:
        query = query.where(Generation.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(Generation.created_at < filters.created_before)
    return paged(session, query, (Generation.id,), filters, _summary)


def _summary(row: Generation) -> GenerationSummary:
    return GenerationSummary(
        **views.JobView.model_validate(row).model_dump(),
        model=row.spec["model"],
        checkpoints=row.spec["checkpoints"],
        total_images=_total(row.spec),
    )


def _total(spec: dict[str, Any]) -> int:
    return len(spec["checkpoints"]) * len(spec["prompts"]) * int(spec["num_images"])


def show(session: Session, id: uuid.UUID) -> GenerationView:
    """A generation in full. Raises NotFound."""
    row = views.find(session, Generation, id)
    spec = row.spec
    images = session.scalars(
        select(GenerationImage).where(GenerationImage.generation_id == id).order_by(GenerationImage.number)
    )
    return GenerationView(
        **views.JobView.model_validate(row).model_dump(),
        spec=spec,
        queue_position=views.queue_position(session, row),
        total_images=_total(spec),
        images=[_view(image, spec["prompts"]) for image in images],
        grid=f"/generations/{id}/grid.png",
    )


def image(session: Session, id: uuid.UUID, number: int) -> GenerationImage:
    """One image. Raises NotFound, and NotFinished while it may still be drawn."""
    row = views.find(session, Generation, id)
    found = session.get(GenerationImage, (id, number))
    if found is not None:
        return found
    if row.status not in TERMINAL and number < show(session, id).total_images:
        raise NotFinished(f"image {number} of generation {id} is not drawn yet; the generation is {row.status}")
    raise NotFound(f"generation {id} has no image {number}")


def comparison(session: Session, id: uuid.UUID) -> tuple[GenerationView, dict[int, GenerationImage], dict[str, str]]:
    """All that a grid needs: the generation, its images by number, and a short label for each checkpoint.

    Raises NotFound, and NotFinished unless it has succeeded.
    """
    shown = show(session, id)
    if shown.status is not JobStatus.SUCCEEDED:
        raise NotFinished(f"generation {id} is {shown.status}; a grid is made of one that has succeeded")
    images = session.scalars(select(GenerationImage).where(GenerationImage.generation_id == id))
    labels = {name: _label(session, name) for name in shown.spec["checkpoints"]}
    return shown, {image.number: image for image in images}, labels


def cancel(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> GenerationView:
    """Ask for a generation's end; asking again changes nothing. Raises NotFound."""
    if idempotency.claim(session, id) is not None:
        return show(session, id)
    views.cancel(session, Generation, id)
    session.commit()
    return show(session, id)


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete an ended generation with its images. Raises NotFound, WrongState, InUse.

    Ended scorings of these keep their values, for which no image is read again.
    """
    row = views.find(session, Generation, id, lock=True)
    if row.status not in TERMINAL:
        raise WrongState(f"generation {id} is {row.status}; cancel it and wait for its end before deleting it")
    reading = (Score.spec["generation"].astext == str(id), Score.status.not_in(TERMINAL))
    if (score := session.scalar(select(Score.id).where(*reading).limit(1))) is not None:
        raise InUse(f"generation {id} is in use: score {score}, which has not ended, reads its images")
    retention.discard(session, [f"generations/{id}"])
    session.execute(delete_rows(Generation).where(Generation.id == id))
    events.notify_job(session, Generation.KIND, id)
    session.commit()


def _too_much(settings: Settings, images: int, pixels: int) -> Iterator[FieldError]:
    if images > settings.max_images:
        msg = f"{images} images in all (checkpoints x prompts x num_images); allowed are {settings.max_images}"
        yield FieldError(loc=["body", "num_images"], msg=msg, type="too_many_images")
    elif images * pixels > settings.max_pixels:
        msg = f"{images * pixels} pixels over all images; allowed are {settings.max_pixels}"
        yield FieldError(loc=["body", "width"], msg=msg, type="too_many_pixels")


def _view(image: GenerationImage, prompts: list[str]) -> GenerationImageView:
    return GenerationImageView(
        number=image.number,
        checkpoint=image.checkpoint,
        prompt_index=image.prompt_index,
        image_index=image.image_index,
        prompt=prompts[image.prompt_index],
        seed=image.seed,
        sha256=image.sha256,
        size=image.size,
        url=f"/generations/{image.generation_id}/images/{image.number}",
    )


def _label(session: Session, name: str) -> str:
    if name == "base":
        return "base"
    checkpoint = session.get(Checkpoint, uuid.UUID(name))
    return f"step {checkpoint.step} of {str(checkpoint.run_id)[-6:]}" if checkpoint else name[-6:]
