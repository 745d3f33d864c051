"""The route `/catalog`: models, algorithms, rewards and other names that can be used in requests."""

from fastapi import APIRouter

from service.api.catalog import service
from service.api.catalog.schemas import CatalogView
from service.api.dependencies import CatalogDep, SessionDep, SettingsDep
from service.api.routing import ApiRoute, declare
from service.auth.principal import Scope

router = APIRouter(tags=["catalog"], route_class=ApiRoute)


@router.get("/catalog", summary="Show the catalog")
@declare(Scope.READ, cacheable=True)
def get_catalog(session: SessionDep, settings: SettingsDep, catalog: CatalogDep) -> CatalogView:
    """Return models, algorithms with JSON Schemas, presets, rewards, prompt sets, judges, and workers with devices."""
    return service.show(session, settings, catalog)
