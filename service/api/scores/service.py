"""The rules of scorings."""

import tempfile
import uuid
from pathlib import Path
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.scores.images import ReceivedImage, check_count, receive
from service.api.scores.schemas import ScoredImage, ScoreFilters, ScoreSummary, ScoreView
from service.auth.principal import Principal
from service.auth.quota import check_open_jobs
from service.contracts.catalog import Catalog
from service.contracts.runs import SPEC_VERSION
from service.contracts.scores import ScoreSpec
from service.contracts.status import TERMINAL
from service.core.settings import Settings
from service.db import events, retention
from service.db.artifacts import ArtifactStore
from service.db.base import new_id
from service.db.models import Generation, GenerationImage, Score, ScoreImage
from service.http.errors import FieldError, Invalid, NotFinished, WrongState, invalid
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.queue import Queue
from service.jobs.validation import unknown


def create(
    session: Session,
    settings: Settings,
    artifacts: ArtifactStore,
    catalog: Catalog,
    queue: Queue,
    spec: ScoreSpec,
    principal: Principal,
    idempotency: IdempotentRequest,
) -> uuid.UUID:
    """Accept a scoring: check names and images, store these, commit the rows, wake a worker.

    The id may be that of a scoring which an identical request made, and which was deleted since. Raises Invalid,
    NotFinished, TooManyOpenJobs, IdempotencyMismatch.
    """
    id = new_id()
    _check(settings, catalog, spec)
    with tempfile.TemporaryDirectory(prefix="g2rpo-score-") as directory:
        received = receive(settings, spec.images or (), Path(directory))  # before the transaction: it takes a while
        if (known := idempotency.claim(session, id)) is not None:
            return known
        check_open_jobs(session, settings, principal.id)
        rows = _given(artifacts, id, spec, received) if spec.images else _drawn(session, settings, id, spec)
    row = Score(
        id=id,
        requested=_without_files(spec, received),
        spec=spec.model_dump(mode="json", include={"rewards", "generation"}),
        spec_version=SPEC_VERSION,
        total_images=len(rows),
        created_by=principal.id,
    )
    session.add(row)
    session.flush()
    session.add_all(rows)
    session.commit()
    queue.send(Score, id)
    return id


def _check(settings: Settings, catalog: Catalog, spec: ScoreSpec) -> None:
    errors: list[FieldError] = []
    for index, name in enumerate(spec.rewards):
        errors += unknown(catalog.reward, name, ("body", "rewards", index))
    errors += check_count(settings, len(spec.images or ()), "images")
    if errors:
        raise Invalid(errors)


def _given(artifacts: ArtifactStore, id: uuid.UUID, spec: ScoreSpec, received: list[ReceivedImage]) -> list[ScoreImage]:
    """The images of the request, in the store."""
    rows = []
    for number, (given, one) in enumerate(zip(spec.images or (), received, strict=True)):
        stored = artifacts.put_file(one.file, f"scores/{id}/{number}.png", one.sha256)
        size = {"width": one.width, "height": one.height, "size": stored.size}
        key = {"key": stored.key, "sha256": stored.sha256}
        rows.append(ScoreImage(score_id=id, number=number, prompt=given.prompt, **size, **key))
    return rows


def _drawn(session: Session, settings: Settings, id: uuid.UUID, spec: ScoreSpec) -> list[ScoreImage]:
    """The images of the generation, where they are."""
    # Shared until the commit: a generation deleted meanwhile is either missed here or found in use there.
    generation = session.get(Generation, spec.generation, with_for_update={"read": True})
    if generation is None:
        raise invalid(["body", "generation"], f"there is no generation {spec.generation}", "unknown_name")
    if generation.status not in TERMINAL:
        raise NotFinished(f"generation {spec.generation} is {generation.status}; its images can be scored at its end")
    own = select(GenerationImage).where(GenerationImage.generation_id == spec.generation)
    images = session.scalars(own.order_by(GenerationImage.number)).all()
    if not images:
        raise invalid(["body", "generation"], f"generation {spec.generation} has no image", "no_images")
    if errors := list(check_count(settings, len(images), "generation")):
        raise Invalid(errors)
    drawn = generation.spec
    return [
        ScoreImage(
            score_id=id,
            number=image.number,
            prompt=drawn["prompts"][image.prompt_index],
            width=drawn["width"],
            height=drawn["height"],
            key=image.key,
            sha256=image.sha256,
            size=image.size,
        )
        for image in images
    ]


def _without_files(spec: ScoreSpec, received: list[ReceivedImage]) -> dict[str, Any]:
    said = spec.model_dump(mode="json", exclude_unset=True)
    if spec.images is not None:
        pairs = zip(spec.images, received, strict=True)
        said["images"] = [{"prompt": given.prompt, "image_sha256": one.received_sha256} for given, one in pairs]
    return said


def listing(session: Session, filters: ScoreFilters) -> Page[ScoreSummary]:
    """The scorings that match, newest first."""
    query = select(Score)
    if filters.status:
        query = query.where(Score.status.in_(filters.status))
    if filters.created_after is not None:
        query = query.where(Score.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(Score.created_at < filters.created_before)
    return paged(session, query, (Score.id,), filters, lambda row: ScoreSummary(**_summary(row)))


def show(session: Session, id: uuid.UUID) -> ScoreView:
    """A scoring in full. Raises NotFound."""
    row = views.find(session, Score, id)
    images = session.scalars(select(ScoreImage).where(ScoreImage.score_id == id).order_by(ScoreImage.number))
    return ScoreView(
        **_summary(row),
        queue_position=views.queue_position(session, row),
        versions=row.rewards,
        images=[ScoredImage.model_validate(one, from_attributes=True) for one in images],
    )


def cancel(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> ScoreView:
    """Ask for a scoring's end; asking again changes nothing. Raises NotFound."""
    if idempotency.claim(session, id) is not None:
        return show(session, id)
    views.cancel(session, Score, id)
    session.commit()
    return show(session, id)


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete an ended scoring with the images that were sent for it. Raises NotFound, WrongState."""
    row = views.find(session, Score, id, lock=True)
    if row.status not in TERMINAL:
        raise WrongState(f"score {id} is {row.status}; cancel it and wait for its end before deleting it")
    retention.discard(session, [f"scores/{id}"])
    session.execute(delete_rows(Score).where(Score.id == id))
    events.notify_job(session, Score.KIND, id)
    session.commit()


def _summary(row: Score) -> dict[str, Any]:
    return views.JobView.model_validate(row).model_dump() | {
        "rewards": row.spec["rewards"],
        "generation": row.spec["generation"],
        "total_images": row.total_images,
    }
