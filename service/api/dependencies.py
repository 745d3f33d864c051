"""The dependencies of routes: session, settings, catalog, queue."""

from collections.abc import Iterator
from typing import Annotated

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog
from service.core.catalog_loader import CatalogLoader
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


async def _catalog_loader(request: Request) -> CatalogLoader:
    loader: CatalogLoader = request.app.state.catalog
    return loader


async def _catalog(loader: Annotated[CatalogLoader, Depends(_catalog_loader)]) -> Catalog:
    return loader.current()


async def _queue(request: Request) -> Queue:
    queue: Queue = request.app.state.queue
    return queue


async def _waiter(request: Request) -> JobWaiter:
    waiter: JobWaiter = request.app.state.waiter
    return waiter


def _session(request: Request, database: Annotated[Database, Depends(_database)]) -> Iterator[Session]:
    with (database.readers if request.method == "GET" else database.sessions)() as session:
        yield session


DatabaseDep = Annotated[Database, Depends(_database)]
SettingsDep = Annotated[Settings, Depends(_settings)]
CatalogLoaderDep = Annotated[CatalogLoader, Depends(_catalog_loader)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
QueueDep = Annotated[Queue, Depends(_queue)]
WaiterDep = Annotated[JobWaiter, Depends(_waiter)]
SessionDep = Annotated[Session, Depends(_session, scope="function")]
"""Closed before the response is sent, so that a slow client holds no connection. Services commit."""
