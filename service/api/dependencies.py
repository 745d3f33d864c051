"""What routes are given: a session, the settings, the catalog, the queue. None of it is worth a thread."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog
from service.core.catalog_loader import Offer
from service.core.settings import Settings
from service.db.session import Database
from service.jobs.long_poll import JobWaiter
from service.jobs.queue import Queue


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.database.settings
    return settings


async def _offer(request: Request) -> Offer:
    offer: Offer = request.app.state.catalog
    return offer


async def _catalog(offer: Annotated[Offer, Depends(_offer)]) -> Catalog:
    return offer.current()


async def _queue(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


async def _waiter(request: Request) -> JobWaiter:
    waiter: JobWaiter = request.app.state.waiter
    return waiter


async def _session(request: Request, database: Annotated[Database, Depends(_database)]) -> AsyncIterator[Session]:
    session = (database.readers if request.method == "GET" else database.sessions)()
    try:
        yield session
    finally:
        if session.in_transaction():  # a ThreadRoute has closed it in its own thread
            await run_in_threadpool(session.close)


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
OfferDep = Annotated[Offer, Depends(_offer)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
QueueDep = Annotated[Queue, Depends(_queue)]
WaiterDep = Annotated[JobWaiter, Depends(_waiter)]
SessionDep = Annotated[Session, Depends(_session, scope="function")]
"""Closed before the answer is sent, so that a slow reader of it holds no connection. Services commit."""
