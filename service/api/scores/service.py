"""Create, list and show scores."""

import tempfile
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.jobs import JobRequest, select_jobs
from service.api.scores.images import ReceivedImage, check_count, receive
from service.api.scores.schemas import ScoreSummary, ScoreView
from service.contracts.runs import SPEC_VERSION
from service.contracts.scores import ScoreSpec
from service.contracts.status import TERMINAL
from service.core.settings import Settings
from service.db.artifacts import ArtifactStore
from service.db.base import new_id
from service.db.models import Generation, GenerationImage, Score, ScoreImage
from service.http.errors import FieldError, Invalid, NotFinished, invalid
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.validation import unknown
from service.jobs.views import JobFilters


def create(session: Session, request: JobRequest, spec: ScoreSpec) -> uuid.UUID:
    """Check a score, store its images, commit it, wake a worker and return the score's id.

    For a repeated request, returns the id of the earlier score, which may have been deleted since. Raises Invalid,
    NotFinished, TooManyOpenJobs or IdempotencyMismatch.
    """
    id = new_id()
    settings, artifacts = request.database.settings, request.database.artifacts
    errors: list[FieldError] = []
    for index, name in enumerate(spec.rewards):
        errors += unknown(request.catalog.reward, name, ("body", "rewards", index))
    errors += check_count(settings, len(spec.images or ()), "images")
    if errors:
        raise Invalid(errors)
    with tempfile.TemporaryDirectory(prefix="g2rpo-score-") as directory:
        received = receive(settings, spec.images or (), Path(directory))  # slow, so it runs before the transaction
        if (earlier := request.idempotency.claim(session, id)) is not None:
            return earlier
        request.check_quota(session)
        if spec.images:
            images = _received_images(artifacts, id, spec, received)
        else:
            images = _generated_images(session, settings, id, spec)
    row = Score(
        id=id,
        requested=_without_files(spec, received),
        spec=spec.model_dump(mode="json", include={"rewards", "generation"}),
        spec_version=SPEC_VERSION,
        total_images=len(images),
        created_by=request.principal.id,
    )
    return request.add(session, row, images)


def _received_images(
    artifacts: ArtifactStore, id: uuid.UUID, spec: ScoreSpec, received: list[ReceivedImage]
) -> list[ScoreImage]:
    """Add the images of the request to the artifact store and return their rows."""
    rows = []
    for number, (given, image) in enumerate(zip(spec.images or (), received, strict=True)):
        stored = artifacts.put_file(image.file, f"scores/{id}/{number}.png", image.sha256)
        columns = {"width": image.width, "height": image.height, **vars(stored)}
        rows.append(ScoreImage(score_id=id, number=number, prompt=given.prompt, **columns))
    return rows


def _generated_images(session: Session, settings: Settings, id: uuid.UUID, spec: ScoreSpec) -> list[ScoreImage]:
    """Return rows that refer to the stored images of the generation. Raises Invalid or NotFinished."""
    # Lock FOR SHARE until the commit: either a concurrent deletion is visible here, or it sees the new score.
    generation = session.get(Generation, spec.generation, with_for_update={"read": True})
    if generation is None:
        raise invalid(["body", "generation"], f"Generation {spec.generation} not found", "unknown_name")
    if generation.status not in TERMINAL:
        raise NotFinished(f"Generation {spec.generation} is {generation.status}; score its images once it has ended")
    own = select(GenerationImage).where(GenerationImage.generation_id == spec.generation)
    images = session.scalars(own.order_by(GenerationImage.number)).all()
    if not images:
        raise invalid(["body", "generation"], f"Generation {spec.generation} has no images", "no_images")
    if errors := list(check_count(settings, len(images), "generation")):
        raise Invalid(errors)
    return [
        ScoreImage(
            score_id=id,
            number=image.number,
            prompt=generation.spec["prompts"][image.prompt_index],
            width=generation.spec["width"],
            height=generation.spec["height"],
            **vars(image.stored),
        )
        for image in images
    ]


def _without_files(spec: ScoreSpec, received: list[ReceivedImage]) -> dict[str, Any]:
    """Return the request as it is stored, with the images replaced by their hashes."""
    requested = spec.model_dump(mode="json", exclude_unset=True)
    if spec.images is not None:
        pairs = zip(spec.images, received, strict=True)
        requested["images"] = [
            {"prompt": given.prompt, "image_sha256": image.received_sha256} for given, image in pairs
        ]
    return requested


def list_scores(session: Session, filters: JobFilters) -> Page[ScoreSummary]:
    """Return a page of the matching scores, newest first."""
    return paged(session, select_jobs(Score, filters), (Score.id,), filters, _summary)


def _summary(row: Score) -> ScoreSummary:
    return views.from_row(ScoreSummary, row, rewards=row.spec["rewards"], generation=row.spec["generation"])


def show(session: Session, id: uuid.UUID) -> ScoreView:
    """Return the full details of a score. Raises NotFound if it does not exist."""
    row = views.find(session, Score, id)
    images = session.scalars(select(ScoreImage).where(ScoreImage.score_id == id).order_by(ScoreImage.number))
    return views.from_row(
        ScoreView,
        row,
        rewards=row.spec["rewards"],
        generation=row.spec["generation"],
        queue_position=views.queue_position(session, row),
        versions=row.rewards,
        images=list(images),
    )
