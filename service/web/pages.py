"""Serve the dashboard: one HTML page, its JavaScript modules and style sheet, and the chart library."""

import os
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
PREFIX = "/assets"
HEADERS = {"Cache-Control": "no-cache"}
"""Files are revalidated by ETag, so that a page never mixes modules of two versions."""


class _Assets(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return (str(_d3()), _d3().stat()) if path == "d3.js" else super().lookup_path(path)


def _d3() -> Path:
    """Return the minified D3 5 in the package mpld3, without importing the package."""
    spec = find_spec("mpld3")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "js" / "d3.v5.min.js"


def index_page() -> Response:
    """Return the dashboard's HTML page."""
    return FileResponse(STATIC / "index.html", media_type="text/html", headers=HEADERS)


def public_paths() -> frozenset[str]:
    """Return the paths of the static files, which need no API key."""
    files = (path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
    return frozenset(f"{PREFIX}/{name}" for name in (*files, "d3.js"))


def install(app: FastAPI) -> None:
    """Serve the static files under `/assets`."""
    app.mount(PREFIX, _Assets(directory=STATIC))
