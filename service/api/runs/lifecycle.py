"""The rules of a run's life after it was accepted: pausing, going on, saving, cloning, changing, deleting."""

import uuid
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from sqlalchemy import delete as delete_rows
from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.runs import service
from service.api.runs.schemas import AttemptFilters, AttemptView, Resumption, RunChanges, RunView
from service.auth.principal import Principal
from service.auth.quota import check_open_jobs
from service.contracts.catalog import Catalog
from service.contracts.plan import make_plan
from service.contracts.presets import merge
from service.contracts.runs import RunSpec
from service.contracts.status import CLAIMABLE, RESTING, TERMINAL, JobStatus
from service.core.settings import Settings
from service.db import events, retention
from service.db.artifacts import ArtifactDamaged, ArtifactStore
from service.db.base import new_id
from service.db.models import Attempt, Checkpoint, PromptSet, Run
from service.db.session import Database
from service.http.errors import InUse, Invalid, WrongState, invalid
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.queue import Queue
from service.jobs.validation import check_budget


def cancel(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Ask for a run's end; asking again changes nothing. Raises NotFound."""
    if idempotency.claim(session, id) is None:
        run, changed = views.cancel(session, Run, id)
        if changed:
            _record(session, run)
    session.commit()


def pause(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Have a run saved and given up by its worker; one that waits rests at once. Raises NotFound, WrongState."""
    if idempotency.claim(session, id) is None:
        run = views.find(session, Run, id, lock=True)
        if run.status in TERMINAL or run.status is JobStatus.CANCELLING:
            detail = f"run {id} is {run.status} and cannot be paused"
            raise WrongState(f"{detail}; POST /runs/{id}/resume goes on with a run that has ended")
        if run.status not in (JobStatus.PAUSING, JobStatus.PAUSED):
            run.move_to(JobStatus.PAUSED if run.status in CLAIMABLE else JobStatus.PAUSING)
            _record(session, run)
    session.commit()


def resume(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    id: uuid.UUID,
    wanted: Resumption,
    idempotency: IdempotentRequest,
) -> None:
    """Queue a paused or ended run again, perhaps for other steps. It is again an open job of the key that made it.

    Raises NotFound, WrongState, Invalid, TooManyOpenJobs.
    """
    if idempotency.claim(session, id) is not None:
        session.commit()
        return
    run = views.find(session, Run, id, lock=True)
    if run.status not in RESTING:
        detail = f"run {id} is {run.status}: only a paused or ended run can be resumed"
        raise WrongState(f"{detail}; POST /runs/{id}/pause first, and wait until it is paused")
    newest = _newest_whole(session, database.artifacts, id)
    if newest is None and run.status in TERMINAL:
        raise WrongState(
            f"run {id} has no checkpoint to go on from; POST /runs/{id}/clone starts it from its beginning",
            code="no_checkpoint",
        )
    steps = wanted.max_steps or run.max_steps
    if steps < (newest or 0):
        allowed = f"its newest checkpoint has {newest} steps, allowed are {newest} and more"
        raise invalid(["body", "max_steps"], f"{steps} is too few: {allowed}", "too_few_steps")
    done = (run.progress or {}).get("step", run.max_steps)
    if run.status is JobStatus.SUCCEEDED and done < run.max_steps:
        detail = f"run {id} stopped early, after {done} of {run.max_steps} steps: its held-out reward rose no more"
        raise WrongState(
            f"{detail}; POST /runs/{id}/clone with start_from and without heldout.early_stop goes on from there",
            code="stopped_early",
        )
    if run.status is JobStatus.SUCCEEDED and steps <= run.max_steps:
        detail = f"run {id} has done all its {run.max_steps} steps"
        raise WrongState(f"{detail}; give max_steps above {run.max_steps}", code="nothing_left")
    check_open_jobs(session, database.settings, run.created_by)
    if steps > run.max_steps:
        _check_budget(database.settings, catalog, run, steps)
    _check_prompt_sets(session, run)
    run.move_to(JobStatus.QUEUED)
    run.max_steps, run.error, run.cancel_requested_at, run.heldout = steps, None, None, None
    run.losses, run.seconds_used, run.resumed_attempt = 0, 0.0, run.attempt
    _record(session, run, max_steps=steps, from_step=newest or 0)
    session.commit()
    queue.send(Run, id)


def save(session: Session, id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Ask a working run for a checkpoint after its step; asking again before it came is no second one."""
    if idempotency.claim(session, id) is None:
        run = views.find(session, Run, id, lock=True)
        if run.status not in (JobStatus.STARTING, JobStatus.RUNNING):
            raise WrongState(f"run {id} is {run.status}: only one that a worker works on can be saved")
        if run.checkpoint_requests == run.checkpoint_answers:
            run.checkpoint_requests += 1
            events.record(session, Run, id, run.attempt, "checkpoint_requested", {"request": run.checkpoint_requests})
    session.commit()


def clone(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    id: uuid.UUID,
    overrides: dict[str, Any],
    principal: Principal,
    idempotency: IdempotentRequest,
) -> RunView:
    """Accept a run like another, but for `overrides`; it remembers its parent.

    Raises NotFound, Invalid, TooManyOpenJobs, IdempotencyMismatch, Deleted.
    """
    made = new_id()
    if (known := idempotency.claim(session, made)) is not None:
        with views.made_by_this_request(Run, known):
            return service.show(session, known)
    spec = _cloned_spec(session, id, overrides)
    return service.accept(session, database, catalog, queue, made, spec, overrides, principal, parent=id)


def _cloned_spec(session: Session, id: uuid.UUID, overrides: dict[str, Any]) -> RunSpec:
    """The resolved spec of a run with `overrides` in place of what it says. Raises NotFound, Invalid."""
    spec = views.find(session, Run, id).spec
    if "preset" in overrides:
        raise invalid(["body", "preset"], "a clone has the resolved spec of its parent; say the fields to change")
    try:
        return RunSpec.model_validate(merge(spec, overrides))
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from error


def change(session: Session, id: uuid.UUID, changes: RunChanges) -> None:
    """Change what people say of a run, and its priority. Raises NotFound."""
    run = views.find(session, Run, id, lock=True)
    for name in changes.model_fields_set:
        setattr(run, name, getattr(changes, name))
    events.notify_job(session, "run", id)
    session.commit()


def delete(session: Session, id: uuid.UUID) -> None:
    """Delete a run that rests, with everything recorded of it. Raises NotFound, WrongState, InUse."""
    run = views.find(session, Run, id, lock=True)
    if run.status not in RESTING:
        raise WrongState(f"run {id} is {run.status}; cancel it and wait for its end before deleting it")
    own = select(Checkpoint).where(Checkpoint.run_id == id).order_by(Checkpoint.id)
    checkpoints = session.scalars(own.with_for_update()).all()
    started = select(Run.id).where(Run.start_from.in_([one.id for one in checkpoints]), Run.id != id)
    if (other := session.scalar(started.limit(1))) is not None:
        raise InUse(f"run {other} started from a checkpoint of run {id}; delete that one first")
    for checkpoint in checkpoints:
        if (use := retention.use_of(session, checkpoint, by_its_run=False)) is not None:
            raise InUse(f"checkpoint {checkpoint.id} of run {id} is in use: {use}")
    retention.discard(session, [f"runs/{id}"])
    session.execute(delete_rows(Checkpoint).where(Checkpoint.run_id == id))
    session.delete(run)
    events.notify_job(session, "run", id)
    session.commit()


def attempts(session: Session, id: uuid.UUID, filters: AttemptFilters) -> Page[AttemptView]:
    """A run's attempts, newest first. Raises NotFound."""
    views.find(session, Run, id)
    own = select(Attempt).where(Attempt.run_id == id)
    return paged(session, own, (Attempt.number,), filters, AttemptView.model_validate)


def _newest_whole(session: Session, artifacts: ArtifactStore, id: uuid.UUID) -> int | None:
    """The steps of the run's newest checkpoint that the store has in its full length; None where it has no checkpoint.

    One that was found damaged may have been mended since. Hashes are checked by the worker that fetches one. Raises
    WrongState where there are some and none is whole.
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
        raise WrongState(
            f"no checkpoint of run {id} is whole ({damage}); mend the artifact store, or clone the run to begin anew",
            code="damaged_checkpoint",
        )
    return None


def _check_prompt_sets(session: Session, run: Run) -> None:
    """Raise WrongState where an uploaded prompt set of the run is gone; else none can be deleted before the commit."""
    ids = [uuid.UUID(id) for id in run.prompt_sets.values()]
    sets = select(PromptSet).where(PromptSet.id.in_(ids)).order_by(PromptSet.id).with_for_update(read=True)
    for one in session.scalars(sets) if ids else ():
        if one.deleted_at is not None:
            detail = f"prompt set {one.name!r} of run {run.id} was deleted at {one.deleted_at:%Y-%m-%d %H:%M:%S} UTC"
            raise WrongState(f"{detail}; clone the run with another one", code="deleted_prompt_set")


def _check_budget(settings: Settings, catalog: Catalog, run: Run, steps: int) -> None:
    spec = RunSpec.model_validate(run.spec)
    longer = spec.model_copy(update={"training": spec.training.model_copy(update={"max_steps": steps})})
    errors = list(check_budget(settings, make_plan(longer, catalog)))
    if errors:
        raise Invalid([error.model_copy(update={"loc": ["body", "max_steps"]}) for error in errors])


def _record(session: Session, run: Run, **said: Any) -> None:
    events.record(session, Run, run.id, run.attempt, "status", {"status": run.status.value, **said})
    events.notify_job(session, "run", run.id)
