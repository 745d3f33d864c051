"""The dependencies of routes: session, settings, catalog, queue."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from service.contracts.catalog import Catalog
from service.core.catalog_loader import CatalogLoader
from service.core.settings import Settings
from service.db.session import Database
from service.jobs.long_poll import JobWaiter
from service.jobs.queue import Queue


def _state(name: str) -> Any:
    """The dependency on an attribute of the application's state. It is async, as FastAPI calls others in a thread."""

    async def attribute(request: Request) -> Any:
        return getattr(request.app.state, name)

    return Depends(attribute)


DatabaseDep = Annotated[Database, _state("database")]
CatalogLoaderDep = Annotated[CatalogLoader, _state("catalog")]
QueueDep = Annotated[Queue, _state("queue")]
WaiterDep = Annotated[JobWaiter, _state("waiter")]


async def _settings(database: DatabaseDep) -> Settings:
    return database.settings


async def _catalog(loader: CatalogLoaderDep) -> Catalog:
    return loader.current()


def _session(request: Request, database: DatabaseDep) -> Iterator[Session]:
    with (database.readers if request.method == "GET" else database.sessions)() as session:
        yield session


SettingsDep = Annotated[Settings, Depends(_settings)]
CatalogDep = Annotated[Catalog, Depends(_catalog)]
SessionDep = Annotated[Session, Depends(_session, scope="function")]
"""Closed before the response is sent, so that a slow client holds no connection. Services commit."""
