"""Dependencies that routes declare as parameters, such as the session, settings, catalog and queue."""

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
    """Return a dependency that reads an attribute of the application state.

    The dependency is async because FastAPI runs synchronous dependencies in a thread.
    """

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
"""A database session, closed before the response is sent so that a slow client does not hold a connection.

Services commit it themselves.
"""
