"""Create, list, show and resume evaluations."""

import uuid
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session, contains_eager

from service.api.benchmarks import service as benchmarks
from service.api.evaluations.results import judge_of
from service.api.evaluations.schemas import EvaluationFilters, EvaluationSummary, EvaluationView
from service.api.jobs import JobRequest, record_status, select_jobs, with_model_defaults
from service.auth.quota import check_open_jobs
from service.contracts.benchmarks.bundled import BUNDLED
from service.contracts.benchmarks.data import JudgePrompt
from service.contracts.catalog import Catalog, JudgeEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.runs import SPEC_VERSION
from service.contracts.status import TERMINAL, JobStatus
from service.core.settings import Settings
from service.db.base import new_id
from service.db.evaluation_scores import is_newest
from service.db.models import BenchmarkRow, Evaluation, EvaluationAnswer, EvaluationImage
from service.http.errors import Invalid, NotFound, WrongState, invalid
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.validation import check_checkpoint, check_size, lock_checkpoints, unknown


def create(session: Session, request: JobRequest, spec: EvaluationSpec) -> uuid.UUID:
    """Check an evaluation, commit it, notify a worker, and return the evaluation's id.

    For a repeated request, returns the id of the existing evaluation. Raises Invalid, TooManyOpenJobs,
    IdempotencyMismatch, IdempotencyInProgress.
    """
    id = new_id()
    if (earlier := request.idempotency.claim(session, id)) is not None:
        return earlier
    benchmark, judge = _benchmark(session, spec), _judge(request.catalog, spec)
    resolved = _resolved(session, request, spec)
    prompts = _spread([prompt["index"] for prompt in benchmark.prompts], spec.limit)
    _check_amount(request.database.settings, len(prompts) * spec.num_images)
    request.check_quota(session)
    row = Evaluation(
        id=id,
        name=spec.name,
        requested=request.body,
        spec=resolved.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        model=spec.model,
        checkpoint_id=None if spec.checkpoint == "base" else spec.checkpoint,
        benchmark_id=benchmark.id,
        judge=None if judge is None else judge.model_dump(mode="json"),
        prompts=prompts,
        total_images=len(prompts) * spec.num_images,
        created_by=request.principal.id,
    )
    return request.add(session, row)


def list_evaluations(session: Session, filters: EvaluationFilters) -> Page[EvaluationSummary]:
    """Return a page of the matching evaluations, newest first."""
    query = select_jobs(Evaluation, filters).filter_by(**filters.given("model"))
    query = query.join(Evaluation.benchmark).options(contains_eager(Evaluation.benchmark))
    if filters.checkpoint is not None:
        query = query.where(Evaluation.spec["checkpoint"].as_string() == str(filters.checkpoint))
    if filters.benchmark is not None:
        query = query.where(BenchmarkRow.name == filters.benchmark)
    return paged(
        session, query, (Evaluation.id,), filters, lambda row: views.from_row(EvaluationSummary, row, **_computed(row))
    )


def show(session: Session, id: uuid.UUID) -> EvaluationView:
    """Return the full view of an evaluation. Raises NotFound."""
    row = views.find(session, Evaluation, id)
    benchmark = row.benchmark
    judge = JudgePrompt.model_validate(benchmark.about["judge"]) if benchmark.about["judge"] else None
    images, judged, failed = _counts(session, id)
    return views.from_row(
        EvaluationView,
        row,
        **_computed(row),
        prompts=len(row.prompts),
        benchmark_prompts=benchmark.prompt_count,
        data_sha256=benchmark.data_sha256,
        content_sha256=benchmark.content_sha256,
        template_sha256=judge and judge.template_sha256,
        definitions_sha256=judge and judge.definitions_sha256,
        queue_position=views.queue_position(session, row),
        eta_seconds=views.eta_seconds(row),
        images=images,
        judged=judged,
        failed=failed,
        rewards=row.rewards or {},
    )


def resume(session: Session, request: JobRequest, id: uuid.UUID) -> None:
    """Queue an evaluation that has ended again, to generate missing images and judge those without a readable answer.

    Raises NotFound, TooManyOpenJobs, and WrongState if the evaluation has not ended, is complete, or has no usable
    checkpoint.
    """
    if request.idempotency.claim(session, id) is not None:
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
        errors = check_checkpoint(session, request.database.artifacts, row.checkpoint_id, row.model, loc)[1]
        if errors:
            code = "damaged_checkpoint" if errors[0].type == "damaged_checkpoint" else "deleted"
            raise WrongState(errors[0].msg, code=code)
    check_open_jobs(session, request.database.settings, row.created_by)
    row.move_to(JobStatus.QUEUED)
    row.error, row.cancel_requested_at = None, None
    row.losses, row.seconds_used, row.resumed_attempt = 0, 0.0, row.attempt
    record_status(session, row)
    session.commit()
    request.queue.send(Evaluation, id)


def _counts(session: Session, id: uuid.UUID) -> tuple[int, int, int]:
    """Count the images, and the images whose newest answer is readable and unreadable, respectively."""
    images = select(func.count()).where(EvaluationImage.evaluation_id == id).scalar_subquery()
    readable = EvaluationAnswer.scores.is_not(None)
    query = select(images, func.count().filter(readable), func.count().filter(~readable))
    row = session.execute(query.where(EvaluationAnswer.evaluation_id == id, is_newest())).one()
    return row[0], row[1], row[2]


def _computed(row: Evaluation) -> dict[str, Any]:
    return {
        "checkpoint": row.spec["checkpoint"],
        "benchmark": row.benchmark.name,
        "judge": judge_of(row),
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


def _resolved(session: Session, request: JobRequest, spec: EvaluationSpec) -> EvaluationSpec:
    """Return the spec with null fields replaced by the model's defaults.

    Raises Invalid if the model, size, rewards or checkpoint are invalid.
    """
    resolved, model = with_model_defaults(request.catalog, spec)
    assert resolved.width is not None and resolved.height is not None
    errors = list(check_size(model, resolved.width, resolved.height, ("body",)))
    for position, name in enumerate(spec.rewards):
        errors += unknown(request.catalog.reward, name, ("body", "rewards", position))
    if spec.checkpoint != "base":
        artifacts = request.database.artifacts
        errors += check_checkpoint(session, artifacts, spec.checkpoint, spec.model, ("body", "checkpoint"))[1]
    if errors:
        raise Invalid(errors)
    return resolved


def _check_amount(settings: Settings, images: int) -> None:
    if images > settings.max_evaluation_images:
        msg = f"{images} images (prompts x num_images); at most {settings.max_evaluation_images} are allowed"
        raise invalid(["body", "num_images"], msg, "too_many_images")


def _spread(indices: list[int], limit: int | None) -> list[int]:
    """Return `limit` prompt indices, evenly spaced in benchmark order, or all of them if `limit` is None."""
    if limit is None or limit >= len(indices):
        return indices
    return [indices[position * len(indices) // limit] for position in range(limit)]
