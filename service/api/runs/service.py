"""The rules of runs."""

import uuid
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from service.api.idempotency import IdempotentRequest
from service.api.runs.schemas import LatestMetric, RunFilters, RunSummary, RunView
from service.auth.principal import Principal
from service.auth.quota import check_open_jobs
from service.contracts.catalog import Catalog
from service.contracts.runs import SPEC_VERSION, RunSpec
from service.contracts.status import JobStatus
from service.db import events, metric_series
from service.db.base import new_id
from service.db.models import Run
from service.db.session import Database
from service.http.pagination import Page, paged
from service.jobs import views
from service.jobs.queue import Queue
from service.jobs.validation import check_run, uploaded_sets


def create(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    spec: RunSpec,
    requested: dict[str, Any],
    principal: Principal,
    idempotency: IdempotentRequest,
) -> RunView:
    """Accept a run. Raises Invalid, TooManyOpenJobs, IdempotencyMismatch, Deleted."""
    id = new_id()
    if (known := idempotency.claim(session, id)) is not None:
        with views.made_by_this_request(Run, known):
            return show(session, known)
    return accept(session, database, catalog, queue, id, spec, requested, principal)


def accept(
    session: Session,
    database: Database,
    catalog: Catalog,
    queue: Queue,
    id: uuid.UUID,
    spec: RunSpec,
    requested: dict[str, Any],
    principal: Principal,
    parent: uuid.UUID | None = None,
) -> RunView:
    """Check a run, commit the row, wake a worker. The row alone is what makes it happen.

    Raises Invalid, TooManyOpenJobs.
    """
    uploaded = uploaded_sets(session, catalog, spec)
    plan = check_run(session, database, catalog, spec, uploaded)
    check_open_jobs(session, database.settings, principal.id)
    run = Run(
        id=id,
        name=spec.name,
        labels=dict(spec.labels),
        model=spec.model,
        algorithm=spec.algorithm.name,
        requested=requested,
        spec=spec.model_dump(mode="json"),
        spec_version=SPEC_VERSION,
        plan=plan.model_dump(mode="json", exclude={"spec"}),
        seed=spec.training.seed,
        max_steps=spec.training.max_steps,
        priority=spec.priority,
        prompt_sets={name: str(one.id) for name, one in uploaded.items()},
        start_from=spec.start_from,
        parent_id=parent,
        created_by=principal.id,
    )
    session.add(run)
    session.flush()
    events.record(session, Run, run.id, 0, "status", {"status": JobStatus.QUEUED})
    session.commit()
    shown = show(session, run.id)
    session.close()  # a broker that does not answer takes a second, which needs no connection
    queue.send(Run, run.id)
    return shown


def listing(session: Session, filters: RunFilters) -> Page[RunSummary]:
    """The runs that match, newest first."""
    query = select(Run)
    if filters.status:
        query = query.where(Run.status.in_(filters.status))
    if filters.algorithm is not None:
        query = query.where(Run.algorithm == filters.algorithm)
    if filters.model is not None:
        query = query.where(Run.model == filters.model)
    for label in filters.label:
        key, _, value = label.partition(":")
        query = query.where(Run.labels.contains({key: value}))
    if filters.created_after is not None:
        query = query.where(Run.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(Run.created_at < filters.created_before)
    return paged(session, query, (Run.id,), filters, RunSummary.model_validate)


def show(session: Session, id: uuid.UUID) -> RunView:
    """A run in full. Raises NotFound."""
    run = views.find(session, Run, id)
    progress = run.progress or {}
    return RunView(
        **RunSummary.model_validate(run).model_dump(),
        spec=run.spec,
        spec_version=run.spec_version,
        notes=run.notes,
        seconds_used=run.seconds_used,
        checkpoint_pending=run.checkpoint_requests > run.checkpoint_answers,
        queue_position=views.queue_position(session, run),
        eta_seconds=progress.get("eta_seconds") if run.status is JobStatus.RUNNING else None,
        resources=run.spec.get("resources", {}),
        plan=run.plan,
        prompt_sets=run.prompt_sets,
        metrics={
            one.name: LatestMetric(step=one.last_step, value=one.value) for one in metric_series.latest(session, run.id)
        },
    )
