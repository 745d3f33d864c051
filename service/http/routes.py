"""Which route takes a request: found once, among the few whose paths begin alike."""

import itertools
from collections import defaultdict
from collections.abc import Iterable

from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send


class Routes(BaseRoute):
    """All routes as one, which is asked before each of them is.

    `find` writes the route into the request, for admission, logs and metrics; then routing itself has nothing to
    search. A path or a method that no route has is left to routing, which knows how to say so.
    """

    def __init__(self, routes: Iterable[APIRoute]) -> None:
        self._all = list(routes)
        self._alike: dict[tuple[str, str], list[APIRoute]] = defaultdict(list)
        for route in self._all:
            for method in route.methods or ():
                self._alike[method, _beginning(route.path)].append(route)

    def find(self, scope: Scope) -> APIRoute | None:
        """The route that takes a request, also as `route` in its scope; None where none does."""
        alike = self._alike.get((scope["method"], _beginning(scope["path"])), ())
        for route in itertools.chain(alike, self._all):  # none that routing could find may be overlooked
            match, found = route.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return route
        return None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the route was found."""
        return (Match.FULL if "route" in scope else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have the route that was found answer."""
        await scope["route"].handle(scope, receive, send)


def _beginning(path: str) -> str:
    return path.split("/", 2)[1] if path.startswith("/") else path
