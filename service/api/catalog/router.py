"""`/catalog`: what a request may name."""

from fastapi import APIRouter

from service.api.catalog import service
from service.api.catalog.schemas import CatalogView
from service.api.dependencies import CatalogDep, SessionDep, SettingsDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope
from service.http.errors import problems

router = APIRouter(tags=["catalog"], route_class=ApiRoute)


@router.get("/catalog", operation_id="getCatalog", summary="What a request may name", responses=problems())
@declare(Scope.READ, cacheable=True)
def get_catalog(session: SessionDep, settings: SettingsDep, catalog: CatalogDep) -> CatalogView:
    """Models, algorithms with their JSON Schema, presets resolved, rewards, prompt sets, judges, workers, devices."""
    return service.show(session, settings, catalog)
