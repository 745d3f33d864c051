"""Steps shared by the endpoints for all kinds of jobs: create, list, cancel, delete, and wait for the end."""

import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from service.api.dependencies import CatalogDep, DatabaseDep, QueueDep, WaiterDep
from service.api.idempotency import IdempotentRequest, IdempotentRequestDep
from service.auth.principal import Principal, PrincipalDep
from service.auth.quota import check_open_jobs
from service.contracts.catalog import Catalog, ModelEntry
from service.contracts.evaluations import EvaluationSpec
from service.contracts.generations import GenerationSpec
from service.contracts.status import HELD, TERMINAL, JobStatus
from service.db import deletion, events
from service.db.base import Base
from service.db.evaluation_scores import conclude
from service.db.models import Evaluation, Job, SupervisedJob
from service.db.session import Database
from service.http.content_negotiation import PreferHeader
from service.http.errors import Deleted, Invalid, NotFound, WrongState
from service.http.links import link
from service.jobs import views
from service.jobs.long_poll import JobWaiter, wait_for_end
from service.jobs.queue import Queue
from service.jobs.validation import find_model, unknown
from service.jobs.views import JobFilters, JobRow

View = TypeVar("View")
Show = Callable[[Session, uuid.UUID], View]
Spec = TypeVar("Spec", GenerationSpec, EvaluationSpec)


@dataclass(frozen=True)
class JobRequest:
    """A request that queues a job, with the objects needed to do so."""

    request: Request
    database: Database
    catalog: Catalog
    queue: Queue
    principal: Principal
    idempotency: IdempotentRequest

    @property
    def body(self) -> dict[str, Any]:
        """The parsed body, as stored in the `requested` columns. Empty if the request has no body."""
        return getattr(self.request.state, "body", None) or {}

    def check_quota(self, session: Session) -> None:
        """Raise TooManyOpenJobs if the principal's key has reached its limit of open jobs."""
        check_open_jobs(session, self.database.settings, self.principal.id)

    def add(self, session: Session, job: Job, rows: Iterable[Base] = ()) -> uuid.UUID:
        """Commit a new job and its rows, notify a worker, and return the job's id.

        The job starts even if the notification is lost, because workers find the committed row.
        """
        kind, id = type(job), job.id
        session.add(job)
        session.flush()
        session.add_all(rows)
        if isinstance(job, SupervisedJob):
            record_status(session, job)
        session.commit()
        session.close()  # hold no connection while an unreachable broker times out, which takes a second
        self.queue.send(kind, id)
        return id


@dataclass(frozen=True)
class LongPoll:
    """A request that can wait for a job to end, if it has the header `Prefer: wait=N`."""

    response: Response
    database: Database
    waiter: JobWaiter
    prefer: str | None

    async def create(self, job: type[Job], create: Callable[[Session], uuid.UUID], show: Show[View]) -> View:
        """Create a job and return its view. The status becomes 200 if the job ends while the request waits."""

        def created() -> uuid.UUID:
            with self.database.sessions() as session:
                return create(session)

        id = await run_in_threadpool(created)
        if await wait_for_end(self.prefer, self.response, self.database, self.waiter, job, id):
            self.response.status_code = 200

        def read() -> View:
            with self.database.sessions() as session:
                return show_created(self.response, session, job, id, show)

        return await run_in_threadpool(read)

    async def show(self, job: type[Job], id: uuid.UUID, show: Show[View]) -> View:
        """Return the view of a job, after waiting for its end if the client requests it.

        Raises NotFound, without waiting, if the job does not exist.
        """

        def read() -> View:
            with self.database.readers() as session:
                return show(session, id)

        found = await run_in_threadpool(read)
        if self.prefer is None:
            return found
        await wait_for_end(self.prefer, self.response, self.database, self.waiter, job, id)
        return await run_in_threadpool(read)


async def _job_request(
    request: Request,
    database: DatabaseDep,
    catalog: CatalogDep,
    queue: QueueDep,
    principal: PrincipalDep,
    idempotency: IdempotentRequestDep,
) -> JobRequest:
    return JobRequest(request, database, catalog, queue, principal, idempotency)


async def _long_poll(
    response: Response, database: DatabaseDep, waiter: WaiterDep, prefer: PreferHeader = None
) -> LongPoll:
    return LongPoll(response, database, waiter, prefer)


# Async functions, because FastAPI would call the classes in a thread.
JobRequestDep = Annotated[JobRequest, Depends(_job_request)]
LongPollDep = Annotated[LongPoll, Depends(_long_poll)]


def show_created(response: Response, session: Session, job: type[Job], id: uuid.UUID, show: Show[View]) -> View:
    """Return the view of the job created by this request or by an earlier one with the same Idempotency-Key.

    Also sets the Location header. Raises Deleted if the job has been deleted since.
    """
    response.headers["Location"] = link(f"/{job.FOLDER}/{id}")
    try:
        return show(session, id)
    except NotFound as error:
        detail = f"{job.KIND.capitalize()} {id}, which this request created, has been deleted"
        raise Deleted(f"{detail}; to create another, use a new Idempotency-Key or none") from error


def with_model_defaults(catalog: Catalog, spec: Spec) -> tuple[Spec, ModelEntry]:
    """Fill in missing fields of a spec with the model's defaults, and return the spec and the model.

    Raises Invalid if the model is unknown.
    """
    model = find_model(catalog, spec.model)
    if model is None:
        raise Invalid(list(unknown(catalog.model, spec.model, ("body", "model"))))
    fields = [name for name in ("steps", "guidance", "width", "height") if getattr(spec, name) is None]
    return spec.model_copy(update={name: getattr(model, name) for name in fields}), model


def select_jobs(job: type[JobRow], filters: JobFilters) -> Select[JobRow]:
    """Return a query for the jobs that match the filters common to all kinds of jobs."""
    query = select(job)
    if filters.status:
        query = query.where(job.status.in_(filters.status))
    if filters.created_after is not None:
        query = query.where(job.created_at >= filters.created_after)
    if filters.created_before is not None:
        query = query.where(job.created_at < filters.created_before)
    return query


def cancel(session: Session, job: type[Job], id: uuid.UUID, idempotency: IdempotentRequest) -> None:
    """Cancel a job for a request, which can be repeated. Raises NotFound."""
    if idempotency.claim(session, id) is None:
        cancel_job(session, job, id)
    session.commit()


def cancel_job(session: Session, job: type[Job], id: uuid.UUID) -> None:
    """Cancel a job. Canceling it again, or a job that has ended, has no effect. Raises NotFound.

    A job that no worker holds is cancelled immediately; an evaluation is then scored from its answers so far. Otherwise
    the status becomes `cancelling`, and the worker stops the job.
    """
    row = views.find(session, job, id, lock=True)
    if row.status in TERMINAL or row.status is JobStatus.CANCELLING:
        return
    row.cancel_requested_at = func.now()
    row.move_to(JobStatus.CANCELLING if row.status in HELD else JobStatus.CANCELLED)
    if isinstance(row, Evaluation) and row.status in TERMINAL and row.attempt:
        conclude(session, row)
    if isinstance(row, SupervisedJob):
        record_status(session, row)
    else:
        events.notify_job(session, row.KIND, id)


def find_deletable(
    session: Session, job: type[JobRow], id: uuid.UUID, states: frozenset[JobStatus] = TERMINAL
) -> JobRow:
    """Lock a job that is to be deleted and return it.

    Raises NotFound, and WrongState if the job is in none of `states`.
    """
    row = views.find(session, job, id, lock=True)
    if row.status not in states:
        raise WrongState(
            f"{job.KIND.capitalize()} {id} is {row.status}; cancel it and wait until it has ended, then delete it"
        )
    return row


def delete(session: Session, row: Job) -> None:
    """Delete a job, the rows that refer to it, and its artifacts."""
    deletion.discard(session, [f"{row.FOLDER}/{row.id}"])
    session.delete(row)
    events.notify_job(session, row.KIND, row.id)
    session.commit()


def record_status(session: Session, row: SupervisedJob, **data: Any) -> None:
    """Record a job's status as an event, and notify clients that are waiting for the job."""
    events.record(session, type(row), row.id, row.attempt, "status", {"status": row.status.value, **data})
    events.notify_job(session, row.KIND, row.id)
