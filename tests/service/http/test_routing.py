"""Finding a request's route: the same one that routing itself would take."""

import re

import pytest
from fastapi import FastAPI
from starlette.routing import Match
from starlette.types import Scope

from service.app import create_app
from service.http.routing import Routes

APP = create_app()
ID = "01890a5d-ac96-774b-bcce-b302099a8057"
PATHS = [re.sub(r"\{[^}]+\}", ID, route.path) for route in APP.state.api_routes]


def routed(app: FastAPI, scope: Scope) -> object:
    """The route that routing takes by itself, trying all."""
    return next((route for route in app.state.api_routes if route.matches(scope)[0] is Match.FULL), None)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("root", ["", "/behind/a/proxy"])
def test_it_finds_what_routing_would(method: str, root: str) -> None:
    routes = Routes(APP.state.api_routes)
    for path in [*PATHS, "/runs/", "/nothing", "", "//runs", f"/runs/{ID}/nothing"]:
        scope = {"type": "http", "method": method, "path": root + path, "root_path": root}
        expected = routed(APP, dict(scope))
        assert routes.find(scope) is expected
        assert scope.get("route") is expected


def test_every_route_is_found() -> None:
    found = set()
    for path in PATHS:
        for method in ("GET", "HEAD", "POST", "PATCH", "DELETE"):
            scope: Scope = {"type": "http", "method": method, "path": path}
            if (route := Routes(APP.state.api_routes).find(scope)) is not None:
                found.add(route.operation_id)
    assert found == {route.operation_id for route in APP.state.api_routes}
