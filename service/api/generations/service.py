"""Create, list, show and delete generations, and return their images and image grids."""

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api import jobs
from service.api.evaluations import image_grid
from service.api.generations.schemas import GenerationImageView, GenerationSummary, GenerationView
from service.api.jobs import JobRequest, with_model_defaults
from service.contracts.generations import GenerationSpec
from service.contracts.runs import SPEC_VERSION
from service.contracts.status import TERMINAL, JobStatus
from service.core.settings import Settings
from service.db.base import new_id
from service.db.models import Checkpoint, Generation, GenerationImage, Score
from service.db.session import Database
from service.http.errors import FieldError, InUse, Invalid, NotAcceptable, NotFinished, NotFound
from service.http.links import link
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.validation import check_checkpoint, check_prompts, check_size, lock_checkpoints
from service.jobs.views import JobFilters


def create(session: Session, request: JobRequest, spec: GenerationSpec) -> uuid.UUID:
    """Check and commit a generation, wake a worker and return the generation's id.

    For a repeated request, returns the id of the earlier generation, which may have been deleted since. Raises
    Invalid, TooManyOpenJobs or IdempotencyMismatch.
    """
    id = new_id()
    if (earlier := request.idempotency.claim(session, id)) is not None:
        return earlier
    resolved = _resolve(session, request, spec)
    request.check_quota(session)
    row = Generation(
        id=id,
        requested=request.body,
        spec=resolved.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        created_by=request.principal.id,
    )
    return request.add(session, row)


def _resolve(session: Session, request: JobRequest, spec: GenerationSpec) -> GenerationSpec:
    """Return the spec, completed with the model's defaults. Raises Invalid if the request is not valid."""
    resolved, model = with_model_defaults(request.catalog, spec)
    assert resolved.width is not None and resolved.height is not None
    settings, artifacts = request.database.settings, request.database.artifacts
    errors = list(check_size(model, resolved.width, resolved.height, ("body",)))
    errors += check_prompts(settings, len(spec.prompts), ("body", "prompts"))
    errors += _check_amount(settings, resolved.total_images, resolved.width * resolved.height)
    lock_checkpoints(session, [name for name in spec.checkpoints if isinstance(name, uuid.UUID)])
    for index, checkpoint in enumerate(spec.checkpoints):
        if isinstance(checkpoint, uuid.UUID):
            errors += check_checkpoint(session, artifacts, checkpoint, spec.model, ("body", "checkpoints", index))[1]
    if errors:
        raise Invalid(errors)
    return resolved


def _check_amount(settings: Settings, images: int, pixels: int) -> Iterator[FieldError]:
    if images > settings.max_images:
        msg = f"{images} images (checkpoints x prompts x num_images); the maximum is {settings.max_images}"
        yield FieldError(loc=["body", "num_images"], msg=msg, type="too_many_images")
    elif images * pixels > settings.max_pixels:
        msg = f"{images * pixels} pixels in all images; the maximum is {settings.max_pixels}"
        yield FieldError(loc=["body", "width"], msg=msg, type="too_many_pixels")


def list_generations(session: Session, filters: JobFilters) -> Page[GenerationSummary]:
    """Return a page of the matching generations, newest first."""
    return paged(session, jobs.select_jobs(Generation, filters), (Generation.id,), filters, _summary)


def _summary(row: Generation) -> GenerationSummary:
    spec = row.spec
    return views.from_row(
        GenerationSummary, row, model=spec["model"], checkpoints=spec["checkpoints"], total_images=_total(spec)
    )


def _total(spec: dict[str, Any]) -> int:
    return len(spec["checkpoints"]) * len(spec["prompts"]) * int(spec["num_images"])


def show(session: Session, id: uuid.UUID) -> GenerationView:
    """Return the full details of a generation. Raises NotFound if it does not exist."""
    row = views.find(session, Generation, id)
    spec = row.spec
    return views.from_row(
        GenerationView,
        row,
        queue_position=views.queue_position(session, row),
        total_images=_total(spec),
        images=[_image_view(image, spec["prompts"][image.prompt_index]) for image in _images(session, id)],
        grid=link(f"/generations/{id}/grid.png"),
    )


def _images(session: Session, id: uuid.UUID) -> list[GenerationImage]:
    own = select(GenerationImage).where(GenerationImage.generation_id == id)
    return list(session.scalars(own.order_by(GenerationImage.number)))


def _image_view(image: GenerationImage, prompt: str) -> GenerationImageView:
    url = link(f"/generations/{image.generation_id}/images/{image.number}")
    return views.from_row(GenerationImageView, image, prompt=prompt, url=url)


def image(session: Session, id: uuid.UUID, number: int) -> GenerationImage:
    """Return an image of a generation. Raises NotFound, or NotFinished if the image has not been generated yet."""
    row = views.find(session, Generation, id)
    found = session.get(GenerationImage, (id, number))
    if found is not None:
        return found
    if row.status not in TERMINAL and number < _total(row.spec):
        raise NotFinished(
            f"Image {number} of generation {id} has not been generated yet; the generation is {row.status}"
        )
    raise NotFound(f"Generation {id} has no image {number}; it has {_total(row.spec)} images, numbered from 0")


def grid(session: Session, database: Database, id: uuid.UUID) -> bytes:
    """Draw the images of a succeeded generation as one PNG: one row per prompt and seed, one column per checkpoint.

    Raises NotFound, NotFinished, or NotAcceptable if the grid is too large.
    """
    row = views.find(session, Generation, id)
    if row.status is not JobStatus.SUCCEEDED:
        raise NotFinished(f"Generation {id} is {row.status}; the grid is available once it has succeeded")
    spec, images = row.spec, {image.number: image for image in _images(session, id)}
    columns = [_column_label(session, name) for name in spec["checkpoints"]]
    session.close()  # reading the images takes a while and needs no connection
    prompts, num_images = spec["prompts"], spec["num_images"]
    rows = []
    for index in range(len(prompts) * num_images):
        cells = [images.get(column * len(prompts) * num_images + index) for column in range(len(columns))]
        seeds = ", ".join(str(seed) for seed in sorted({image.seed for image in cells if image}))
        readers = [partial(database.artifacts.read, image.key, image.sha256) if image else None for image in cells]
        rows.append(image_grid.Row(f"{prompts[index // num_images]} (seed {seeds})", readers))
    try:
        return image_grid.draw(columns, rows, spec["width"], spec["height"], database.settings.max_grid_pixels)
    except image_grid.GridTooLarge as error:
        raise NotAcceptable(f"{error}; download the images separately") from error


def _column_label(session: Session, name: str) -> str:
    if name == "base":
        return "base"
    checkpoint = session.get(Checkpoint, uuid.UUID(name))
    return f"step {checkpoint.step} of {str(checkpoint.run_id)[-6:]}" if checkpoint else name[-6:]


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete a generation that has ended, including its images.

    Scores of these images that have ended keep their values, which do not depend on the images. Raises NotFound,
    WrongState, or InUse if a score that has not ended reads the images.
    """
    row = jobs.find_deletable(session, Generation, id)
    reading = (Score.spec["generation"].astext == str(id), Score.status.not_in(TERMINAL))
    if (score := session.scalar(select(Score.id).where(*reading).limit(1))) is not None:
        raise InUse(f"Generation {id} is in use: score {score}, which has not finished, is reading its images")
    jobs.delete(session, row)
