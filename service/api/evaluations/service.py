"""Evaluations: create, list, show, cancel, resume, delete."""

import uuid
from typing import Any

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select
from sqlalchemy.orm import Session, contains_eager

from service.api.benchmarks import service as benchmarks
from service.api.evaluations.results import judge_of
from service.api.evaluations.schemas import EvaluationFilters, EvaluationSummary, EvaluationView
from service.api.idempotency import IdempotentRequest
from service.auth.principal import Principal
from service.auth.quota import check_open_jobs
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import JudgePrompt
from service.contracts.catalog import Catalog, JudgeEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.runs import SPEC_VERSION
from service.contracts.status import TERMINAL, JobStatus
from service.core.settings import Settings
from service.db import events, retention
from service.db.artifacts import ArtifactStore
from service.db.base import new_id
from service.db.evaluation_scores import conclude, is_newest
from service.db.models import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage
from service.db.session import Database
from service.http.errors import Invalid, NotFound, WrongState, invalid
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.queue import Queue
from service.jobs.validation import check_checkpoint, check_size, find_model, lock_checkpoints, unknown


def create(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    spec: EvaluationSpec,
    requested: dict[str, Any],
    principal: Principal,
    idempotency: IdempotentRequest,
) -> EvaluationView:
    """Create an evaluation: check its names and size, commit the row, notify a worker.

    Raises Invalid, TooManyOpenJobs, IdempotencyMismatch, Deleted.
    """
    id = new_id()
    if (known := idempotency.claim(session, id)) is not None:
        with views.made_by_this_request(Evaluation, known):
            return show(session, known)
    benchmark, judge = _benchmark(session, spec), _judge(catalog, spec)
    resolved = _resolved(session, database.artifacts, catalog, spec)
    prompts = _spread([prompt["index"] for prompt in benchmark.prompts], spec.limit)
    _check_amount(database.settings, len(prompts) * spec.num_images)
    check_open_jobs(session, database.settings, principal.id)
    row = Evaluation(
        id=id,
        name=spec.name,
        requested=requested,
        spec=resolved.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        model=spec.model,
        checkpoint_id=None if spec.checkpoint == "base" else spec.checkpoint,
        benchmark_id=benchmark.id,
        judge=None if judge is None else judge.model_dump(mode="json"),
        prompts=prompts,
        total_images=len(prompts) * spec.num_images,
        created_by=principal.id,
    )
    session.add(row)
    session.flush()
    _record(session, row)
    session.commit()
    queue.send(Evaluation, id)
    return show(session, id)


def listing(session: Session, filters: EvaluationFilters) -> Page[EvaluationSummary]:
    """The matching evaluations, newest first."""
    query = select(Evaluation).join(Evaluation.benchmark).options(contains_eager(Evaluation.benchmark))
    if filters.status:
        query = query.where(Evaluation.status.in_(filters.status))
    if filters.model is not None:
        query = query.where(Evaluation.model == filters.model)
    if filters.checkpoint is not None:
        query = query.where(Evaluation.spec["checkpoint"].as_string() == str(filters.checkpoint))
    if filters.benchmark is not None:
        query = query.where(BenchmarkRow.name == filters.benchmark)
    if filters.created_after is not None:
        query = query.where(Evaluation.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(Evaluation.created_at < filters.created_before)
    return paged(session, query, (Evaluation.id,), filters, lambda row: EvaluationSummary(**_summary(row)))


def show(session: Session, id: uuid.UUID) -> EvaluationView:
    """An evaluation in full. Raises NotFound."""
    row = views.find(session, Evaluation, id)
    benchmark = row.benchmark
    judge = JudgePrompt.model_validate(benchmark.about["judge"]) if benchmark.about["judge"] else None
    images, judged, failed = _counts(session, id)
    return EvaluationView(
        **_summary(row),
        spec=row.spec,
        prompts=len(row.prompts),
        benchmark_prompts=benchmark.prompt_count,
        data_sha256=benchmark.data_sha256,
        content_sha256=benchmark.content_sha256,
        template_sha256=judge and judge.template_sha256,
        definitions_sha256=judge and judge.definitions_sha256,
        queue_position=views.queue_position(session, row),
        eta_seconds=(row.progress or {}).get("eta_seconds") if row.status is JobStatus.RUNNING else None,
        seconds_used=row.seconds_used,
        images=images,
        judged=judged,
        failed=failed,
        scores=row.scores,
        rewards=row.rewards or {},
    )


def cancel(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Cancel an evaluation; canceling again has no effect. Raises NotFound.

    An evaluation without a worker is scored here, from the answers so far.
    """
    if idempotency.claim(session, id) is None:
        row, changed = views.cancel(session, Evaluation, id)
        if changed:
            if row.status in TERMINAL and row.attempt:
                conclude(session, row)
            _record(session, row)
    session.commit()


def resume(session: Session, database: Database, queue: Queue, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Queue an ended evaluation again, to generate missing images and judge those without a readable answer.

    Raises NotFound, WrongState, TooManyOpenJobs.
    """
    if idempotency.claim(session, id) is not None:
        session.commit()
        return
    checkpoint_id = session.scalar(select(Evaluation.checkpoint_id).where(Evaluation.id == id))
    lock_checkpoints(session, [checkpoint_id] if checkpoint_id is not None else [])
    row = views.find(session, Evaluation, id, lock=True)
    if row.status not in TERMINAL:
        raise WrongState(f"Evaluation {id} is {row.status}; it can be resumed when it has ended")
    images, judged, _ = _counts(session, id)
    complete = images == row.total_images and (row.judge is None or judged == row.total_images)
    if row.status is JobStatus.SUCCEEDED and complete:
        detail = f"Evaluation {id} has generated and judged all its {row.total_images} images"
        raise WrongState(f"{detail}; create another with POST /evaluations", code="nothing_left")
    if row.checkpoint_id is None and row.spec["checkpoint"] != "base":
        raise WrongState(f"Checkpoint {row.spec['checkpoint']} of evaluation {id} was deleted", code="deleted")
    if row.checkpoint_id is not None:
        loc = ("body", "checkpoint")
        errors = check_checkpoint(session, database.artifacts, row.checkpoint_id, row.model, loc)[1]
        if errors:
            code = "damaged_checkpoint" if errors[0].type == "damaged_checkpoint" else "deleted"
            raise WrongState(errors[0].msg, code=code)
    check_open_jobs(session, database.settings, row.created_by)
    row.move_to(JobStatus.QUEUED)
    row.error, row.cancel_requested_at = None, None
    row.losses, row.seconds_used, row.resumed_attempt = 0, 0.0, row.attempt
    _record(session, row)
    session.commit()
    queue.send(Evaluation, id)


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete an ended evaluation with its images, answers and scores. Raises NotFound, WrongState."""
    row = views.find(session, Evaluation, id, lock=True)
    if row.status not in TERMINAL:
        raise WrongState(f"Evaluation {id} is {row.status}; cancel it and wait for its end before deleting it")
    retention.discard(session, [f"{Evaluation.FOLDER}/{id}"])
    session.execute(delete_rows(Evaluation).where(Evaluation.id == id))
    events.notify_job(session, Evaluation.KIND, id)
    session.commit()


def _counts(session: Session, id: uuid.UUID) -> tuple[int, int, int]:
    """The number of images, and of those with a readable and an unreadable newest answer."""
    images = select(func.count()).where(EvaluationImage.evaluation_id == id).scalar_subquery()
    readable = EvaluationAnswer.scores.is_not(None)
    query = select(images, func.count().filter(readable), func.count().filter(~readable))
    row = session.execute(query.where(EvaluationAnswer.evaluation_id == id, is_newest())).one()
    return row[0], row[1], row[2]


def _summary(row: Evaluation) -> dict[str, Any]:
    return views.JobView.model_validate(row).model_dump() | {
        "name": row.name,
        "model": row.model,
        "checkpoint": row.spec["checkpoint"],
        "benchmark": row.benchmark.name,
        "judge": judge_of(row),
        "total_images": row.total_images,
        "overall": (row.scores or {}).get("overall"),
    }


def _benchmark(session: Session, spec: EvaluationSpec) -> BenchmarkRow:
    try:
        return benchmarks.current_row(session, spec.benchmark)
    except NotFound as error:
        raise invalid(["body", "benchmark"], str(error.detail), "unknown_name") from error


def _judge(catalog: Catalog, spec: EvaluationSpec) -> JudgeEntry | None:
    if spec.judge is None:
        return None
    if errors := list(unknown(catalog.judge, spec.judge, ("body", "judge"))):
        raise Invalid(errors)
    judge = catalog.judge(spec.judge)
    if judge.kind == "perception" and spec.benchmark != BUNDLED:
        others = ", ".join(entry.name for entry in catalog.judges if entry.kind != "perception") or "none"
        msg = f"Judge {judge.name!r} supports only {BUNDLED}; other judges of the catalog: {others}"
        raise invalid(["body", "judge"], msg, "judge_not_possible")
    return judge


def _resolved(session: Session, artifacts: ArtifactStore, catalog: Catalog, spec: EvaluationSpec) -> EvaluationSpec:
    """The spec with the model's defaults for fields that are null. Raises Invalid."""
    model = find_model(catalog, spec.model)
    if model is None:
        raise Invalid(list(unknown(catalog.model, spec.model, ("body", "model"))))
    fields = ("steps", "guidance", "width", "height")
    defaults = {name: getattr(model, name) for name in fields if getattr(spec, name) is None}
    resolved = spec.model_copy(update=defaults)
    assert resolved.width is not None and resolved.height is not None
    errors = list(check_size(model, resolved.width, resolved.height, ("body",)))
    for position, name in enumerate(spec.rewards):
        errors += unknown(catalog.reward, name, ("body", "rewards", position))
    if spec.checkpoint != "base":
        errors += check_checkpoint(session, artifacts, spec.checkpoint, spec.model, ("body", "checkpoint"))[1]
    if errors:
        raise Invalid(errors)
    return resolved


def _check_amount(settings: Settings, images: int) -> None:
    if images > settings.max_evaluation_images:
        msg = f"{images} images (prompts x num_images); at most {settings.max_evaluation_images} are allowed"
        raise invalid(["body", "num_images"], msg, "too_many_images")


def _spread(indices: list[int], limit: int | None) -> list[int]:
    """`limit` of the prompts' numbers, evenly spaced in the benchmark's order."""
    if limit is None or limit >= len(indices):
        return indices
    return [indices[position * len(indices) // limit] for position in range(limit)]


def _record(session: Session, row: Evaluation) -> None:
    events.record(session, Evaluation, row.id, row.attempt, "status", {"status": row.status.value})
    events.notify_job(session, Evaluation.KIND, row.id)
