"""Route classes, and how a request finds its route.

`ThreadRoute` runs a plain function in one thread; `JsonRoute` also reads JSON strictly; `Routes` finds a route among
the few whose paths begin alike.
"""

import functools
import inspect
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NoReturn

from fastapi import Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from service.http.errors import invalid


class ThreadRoute(APIRoute):
    """The route class of every router.

    Going to a thread and back costs more than most requests do there. By itself FastAPI goes for the function, for its
    answer's type and for the session's end, each.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint if inspect.iscoroutinefunction(endpoint) else _in_thread(endpoint), **options)


def _in_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    def whole(arguments: dict[str, Any]) -> Any:
        try:
            return function(**arguments)
        finally:
            for argument in arguments.values():
                if isinstance(argument, Session):
                    argument.close()

    @functools.wraps(function)
    async def endpoint(**arguments: Any) -> Any:
        return await run_in_threadpool(whole, arguments)

    return endpoint


_MOST_NAMES = 1000
"""In one mapping. No request has a use for more, and each unknown one costs the making of an error."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonRequest(Request):
    """A request whose body is parsed once; `request.state.body` keeps it as it came."""

    async def json(self) -> Any:
        body = await self.body()
        try:
            parsed = json.loads(body, parse_constant=_refuse, object_pairs_hook=_mapping)
            if _SURROGATE.search(body):
                json.dumps(parsed, ensure_ascii=False).encode()  # half of a pair is no character, and nothing stores it
        except json.JSONDecodeError as error:
            raise invalid(["body", error.pos], f"the body is no JSON: {error.msg}", "json_invalid") from error
        except (ValueError, RecursionError) as error:
            # No UTF-8, half a pair of surrogates, NaN, Infinity, thousands of digits, brackets nested thousands deep.
            reason = "brackets nest too deep" if isinstance(error, RecursionError) else str(error)[:200]
            raise invalid(["body"], f"the body is no JSON this service reads: {reason}", "json_invalid") from error
        self.state.body = parsed
        return parsed


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > _MOST_NAMES:
        raise ValueError(f"a mapping of {len(pairs)} names; allowed are {_MOST_NAMES}")
    return dict(pairs)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a JSON number")


class JsonRoute(ThreadRoute):
    """The route class of every router that takes a body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if media_type != "application/json" and request.headers.get("content-length", "0") != "0":
                said = f"not {media_type!r}" if media_type else "and says nothing"
                raise invalid(["header", "content-type"], f"a body must be application/json, {said}", "content_type")
            return await handler(JsonRequest(request.scope, request.receive))

        return strict


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
