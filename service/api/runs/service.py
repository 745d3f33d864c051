"""Create, list, show, pause, resume, save, clone, change and delete runs."""

import math
import uuid
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete as delete_rows
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from service.api import jobs
from service.api.idempotency import IdempotentRequest
from service.api.jobs import JobRequest, record_status
from service.api.runs.schemas import (
    AttemptView,
    LatestMetric,
    ResumeRequest,
    RunChanges,
    RunFilters,
    RunSummary,
    RunView,
)
from service.auth.quota import check_open_jobs
from service.contracts.events import RECOVERED
from service.contracts.plan import make_plan
from service.contracts.presets import merge
from service.contracts.runs import SPEC_VERSION, RunSpec
from service.contracts.status import CLAIMABLE, INACTIVE, TERMINAL, JobStatus
from service.core.settings import Settings
from service.db import deletion, events, metric_series
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.base import new_id
from service.db.models import Attempt, Checkpoint, PromptSet, Run
from service.db.models.run import RunEvent
from service.http.errors import InUse, Invalid, WrongState, field_errors, invalid
from service.http.pagination import Page, PageQuery, paged
from service.jobs import views
from service.jobs.validation import check_budget, check_run, uploaded_sets


def create(session: Session, request: JobRequest, spec: RunSpec) -> uuid.UUID:
    """Check and commit a run, wake a worker and return the run's id.

    For a repeated request, returns the id of the earlier run. Raises Invalid, TooManyOpenJobs or IdempotencyMismatch.
    """
    id = new_id()
    if (earlier := request.idempotency.claim(session, id)) is not None:
        return earlier
    return _add(session, request, id, spec)


def clone(session: Session, request: JobRequest, parent: uuid.UUID, overrides: dict[str, Any]) -> uuid.UUID:
    """Create a run from the resolved spec of `parent`, merged with `overrides`, and return its id.

    For a repeated request, returns the id of the earlier run. Raises NotFound if `parent` does not exist, or Invalid,
    TooManyOpenJobs or IdempotencyMismatch.
    """
    id = new_id()
    if (earlier := request.idempotency.claim(session, id)) is not None:
        return earlier
    if "preset" in overrides:
        msg = "A clone has the resolved spec of its parent; set the fields to change instead of `preset`"
        raise invalid(["body", "preset"], msg)
    try:
        spec = RunSpec.model_validate(merge(views.find(session, Run, parent).spec, overrides))
    except ValidationError as error:
        raise Invalid(field_errors(error.errors(), RunSpec)) from error
    return _add(session, request, id, spec, parent)


def _add(
    session: Session, request: JobRequest, id: uuid.UUID, spec: RunSpec, parent: uuid.UUID | None = None
) -> uuid.UUID:
    uploaded = uploaded_sets(session, request.catalog, spec)
    plan = check_run(session, request.database, request.catalog, spec, uploaded)
    request.check_quota(session)
    run = Run(
        id=id,
        name=spec.name,
        labels=dict(spec.labels),
        model=spec.model,
        algorithm=spec.algorithm.name,
        requested=request.body,
        spec=spec.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        plan=plan.model_dump(mode="json", exclude={"spec"}),
        seed=spec.training.seed,
        max_steps=spec.training.max_steps,
        priority=spec.priority,
        prompt_sets={name: str(row.id) for name, row in uploaded.items()},
        start_from=spec.start_from,
        parent_id=parent,
        created_by=request.principal.id,
    )
    return request.add(session, run)


def list_runs(session: Session, filters: RunFilters) -> Page[RunSummary]:
    """Return a page of the matching runs, newest first."""
    query = jobs.select_jobs(Run, filters).filter_by(**filters.given("algorithm", "model"))
    for label in filters.label:
        key, _, value = label.partition(":")
        query = query.where(Run.labels.contains({key: value}))
    return paged(session, query, (Run.id,), filters, RunSummary.model_validate)


def show(session: Session, id: uuid.UUID) -> RunView:
    """Return the full details of a run. Raises NotFound if it does not exist."""
    run = views.find(session, Run, id)
    return views.from_row(
        RunView,
        run,
        checkpoint_pending=run.checkpoint_requests > run.checkpoint_answers,
        queue_position=views.queue_position(session, run),
        eta_seconds=views.eta_seconds(run),
        resources=run.spec.get("resources", {}),
        metrics=latest_metrics(session, id),
    )


def latest_metrics(session: Session, id: uuid.UUID) -> dict[str, LatestMetric]:
    """Return the latest value of each metric of a run, by name."""
    series = metric_series.latest(session, id)
    return {metric.name: LatestMetric(step=metric.last_step, value=metric.value) for metric in series}


def pause(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Pause a waiting run immediately, or a running run once its worker has saved a checkpoint.

    Raises NotFound, or WrongState if the run has ended or is being cancelled.
    """
    if idempotency.claim(session, id) is None:
        run = views.find(session, Run, id, lock=True)
        if run.status in TERMINAL or run.status is JobStatus.CANCELLING:
            detail = f"Run {id} is {run.status} and cannot be paused"
            raise WrongState(f"{detail}; POST /runs/{id}/resume resumes a run that has ended")
        if run.status not in (JobStatus.PAUSING, JobStatus.PAUSED):
            run.move_to(JobStatus.PAUSED if run.status in CLAIMABLE else JobStatus.PAUSING)
            record_status(session, run)
    session.commit()


def resume(session: Session, request: JobRequest, id: uuid.UUID, changes: ResumeRequest) -> None:
    """Queue a paused or ended run again. It counts as an open job of the key that created it.

    Raises NotFound, WrongState, Invalid or TooManyOpenJobs.
    """
    if request.idempotency.claim(session, id) is not None:
        session.commit()
        return
    run = views.find(session, Run, id, lock=True)
    saved, steps = _check_resumable(session, request, run, changes)
    check_open_jobs(session, request.database.settings, run.created_by)
    if steps > run.max_steps:
        _check_longer(request, run, steps)
    _lock_prompt_sets(session, run)
    run.move_to(JobStatus.QUEUED)
    run.max_steps, run.error, run.cancel_requested_at, run.heldout = steps, None, None, None
    run.losses, run.seconds_used, run.resumed_attempt = 0, 0.0, run.attempt
    record_status(session, run, max_steps=steps, from_step=saved)
    session.commit()
    request.queue.send(Run, id)


def _check_resumable(session: Session, request: JobRequest, run: Run, changes: ResumeRequest) -> tuple[int, int]:
    """Return the step of the checkpoint to continue from, and the total number of steps.

    Raises WrongState if the run cannot be resumed, or Invalid if `max_steps` is too small.
    """
    id = run.id
    if run.status not in INACTIVE:
        detail = f"Run {id} is {run.status}; only a paused or ended run can be resumed"
        raise WrongState(f"{detail}. POST /runs/{id}/pause, then wait until it is paused")
    saved = _newest_intact_step(session, request.database.artifacts, id)
    if saved is None and run.status in TERMINAL:
        _check_recovered(session, request.database.settings, run)
        detail = f"Run {id} has no checkpoint to resume from; POST /runs/{id}/clone starts it from the beginning"
        raise WrongState(detail, code="no_checkpoint")
    steps = changes.max_steps or run.max_steps
    if steps < (saved or 0):
        msg = f"{steps} is less than the {saved} steps of the run's newest checkpoint; the minimum is {saved}"
        raise invalid(["body", "max_steps"], msg, "too_few_steps")
    done = (run.progress or {}).get("step", run.max_steps)
    if run.status is JobStatus.SUCCEEDED and done < run.max_steps:
        detail = f"Run {id} stopped early, after {done} of {run.max_steps} steps: its held-out reward stopped improving"
        hint = f"POST /runs/{id}/clone with `start_from` and without `heldout.early_stop` continues from there"
        raise WrongState(f"{detail}. {hint}", code="stopped_early")
    if run.status is JobStatus.SUCCEEDED and steps <= run.max_steps:
        detail = f"Run {id} has completed all its {run.max_steps} steps; set max_steps above {run.max_steps}"
        raise WrongState(detail, code="nothing_left")
    return saved or 0, steps


def _check_recovered(session: Session, settings: Settings, run: Run) -> None:
    """Raise WrongState if the run failed because of the artifact store and its worker may still have a checkpoint."""
    own = (RunEvent.run_id == run.id, RunEvent.attempt == run.attempt, RunEvent.type == RECOVERED)
    if run.error is None or run.error["code"] != "storage" or session.scalar(select(exists().where(*own))):
        return
    seconds = math.ceil(settings.reconcile_seconds)
    detail = (
        f"Run {run.id} failed because the artifact store was unavailable. Its worker stores checkpoints that wait on "
        f"its disk every {seconds} s once the store works; retry then. Without the worker, POST /runs/{run.id}/clone "
        "starts the run from the beginning"
    )
    raise WrongState(detail, code="checkpoint_not_stored", headers={"Retry-After": str(seconds)})


def _newest_intact_step(session: Session, artifacts: ArtifactStore, id: uuid.UUID) -> int | None:
    """Return the step of the run's newest checkpoint with complete files, or None if the run has no checkpoints.

    Checkpoints marked as damaged are included because they may have been repaired since. Hashes are not checked here,
    but by the worker that fetches the files. Raises WrongState if all checkpoints are damaged.
    """
    own = select(Checkpoint).where(Checkpoint.run_id == id, Checkpoint.deleted_at.is_(None))
    damage = ""
    for checkpoint in session.scalars(own.order_by(Checkpoint.step.desc(), Checkpoint.attempt.desc())):
        try:
            artifacts.check_whole(checkpoint.stored.values())
            return checkpoint.step
        except ArtifactDamaged as error:
            damage = damage or str(error)
    if damage:
        hint = "repair the artifact store, or clone the run to start it again"
        raise WrongState(f"All checkpoints of run {id} are damaged ({damage}); {hint}", code="damaged_checkpoint")
    return None


def _check_longer(request: JobRequest, run: Run, steps: int) -> None:
    """Raise Invalid if the run would exceed the budget with `steps` steps."""
    spec = RunSpec.model_validate(run.spec)
    longer = spec.model_copy(update={"training": spec.training.model_copy(update={"max_steps": steps})})
    if errors := list(check_budget(request.database.settings, make_plan(longer, request.catalog))):
        raise Invalid([error.model_copy(update={"loc": ["body", "max_steps"]}) for error in errors])


def _lock_prompt_sets(session: Session, run: Run) -> None:
    """Prevent the run's uploaded prompt sets from being deleted before the commit.

    Raises WrongState if one of them has already been deleted.
    """
    ids = [uuid.UUID(id) for id in run.prompt_sets.values()]
    sets = select(PromptSet).where(PromptSet.id.in_(ids)).order_by(PromptSet.id).with_for_update(read=True)
    for row in session.scalars(sets):
        if row.deleted_at is not None:
            detail = f"Prompt set {row.name!r} of run {run.id} was deleted at {row.deleted_at:%Y-%m-%d %H:%M:%S} UTC"
            raise WrongState(f"{detail}; clone the run with another prompt set", code="deleted_prompt_set")


def save(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Request a checkpoint of a running run after its current step, unless such a request is already pending.

    Raises NotFound, or WrongState if the run is neither starting nor running.
    """
    if idempotency.claim(session, id) is None:
        run = views.find(session, Run, id, lock=True)
        if run.status not in (JobStatus.STARTING, JobStatus.RUNNING):
            raise WrongState(f"Run {id} is {run.status}; only a starting or running run can be saved")
        if run.checkpoint_requests == run.checkpoint_answers:
            run.checkpoint_requests += 1
            events.record(session, Run, id, run.attempt, "checkpoint_requested", {"request": run.checkpoint_requests})
    session.commit()


def change(session: Session, id: uuid.UUID, changes: RunChanges) -> None:
    """Change the run fields that the request sets. Raises NotFound if the run does not exist."""
    run = views.find(session, Run, id, lock=True)
    for name in changes.model_fields_set:
        setattr(run, name, getattr(changes, name))
    events.notify_job(session, Run.KIND, id)
    session.commit()


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete a paused or ended run, including its rows and checkpoints.

    Raises NotFound, WrongState, or InUse if a checkpoint is in use.
    """
    run = jobs.find_deletable(session, Run, id, INACTIVE)
    own = select(Checkpoint).where(Checkpoint.run_id == id).order_by(Checkpoint.id)
    checkpoints = session.scalars(own.with_for_update()).all()
    started = select(Run.id).where(Run.start_from.in_([row.id for row in checkpoints]), Run.id != id)
    if (other := session.scalar(started.limit(1))) is not None:
        raise InUse(f"Run {other} started from a checkpoint of run {id}; delete run {other} first")
    for checkpoint in checkpoints:
        if (use := deletion.use_of(session, checkpoint, by_its_run=False)) is not None:
            raise InUse(f"Checkpoint {checkpoint.id} of run {id} is in use: {use}")
    session.execute(delete_rows(Checkpoint).where(Checkpoint.run_id == id))
    jobs.delete(session, run)


def list_attempts(session: Session, id: uuid.UUID, query: PageQuery) -> Page[AttemptView]:
    """Return a page of the attempts of a run, newest first. Raises NotFound if the run does not exist."""
    views.find(session, Run, id)
    own = select(Attempt).where(Attempt.run_id == id)
    return paged(session, own, (Attempt.number,), query, AttemptView.model_validate)
