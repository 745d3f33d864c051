"""Links to other routes. Behind a proxy that publishes the service under a path prefix, links start with the prefix."""

from contextvars import ContextVar

from starlette.types import Scope

ROOT_PATH: ContextVar[str] = ContextVar("root_path", default="")
"""The prefix of the current request, without a slash at the end."""


def route_path(scope: Scope) -> str:
    """Return the path of a request without the prefix."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def link(path: str) -> str:
    """Return the URL path by which a client reaches the route `path`."""
    return ROOT_PATH.get() + path
