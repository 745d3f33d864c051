"""`/catalog`: what a request may name."""

from fastapi import APIRouter

from service.catalog import service
from service.catalog.schemas import CatalogView
from service.dependencies import CatalogDep, SessionDep, SettingsDep
from service.errors import problems
from service.thread_route import ThreadRoute

router = APIRouter(tags=["catalog"], route_class=ThreadRoute)


@router.get("/catalog", operation_id="getCatalog", summary="What a request may name", responses=problems())
def get_catalog(session: SessionDep, settings: SettingsDep, catalog: CatalogDep) -> CatalogView:
    """Models, algorithms with their JSON Schema, presets resolved, rewards, prompt sets, judges, workers, devices."""
    return service.show(session, settings, catalog)
