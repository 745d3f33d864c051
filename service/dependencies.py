"""What routes are given: a session, the settings, the catalog, the queue."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog
from service.db.session import Database
from service.queue import Queue
from service.settings import Settings
from service.waiting import JobWaiter


def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.database.settings
    return settings


def _catalog(request: Request) -> Catalog:
    catalog: Catalog = request.app.state.catalog
    return catalog


def _queue(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


def _waiter(request: Request) -> JobWaiter:
    waiter: JobWaiter = request.app.state.waiter
    return waiter


def _session(database: Annotated[Database, Depends(_database)]) -> Iterator[Session]:
    with database.sessions() as session:
        yield session


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
QueueDep = Annotated[Queue, Depends(_queue)]
WaiterDep = Annotated[JobWaiter, Depends(_waiter)]
SessionDep = Annotated[Session, Depends(_session, scope="function")]
"""Closed before the answer is sent, so that a slow reader of it holds no connection. Services commit."""
