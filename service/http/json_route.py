"""A route that reads JSON strictly: what is no JSON, and what only Python takes for JSON, is refused with its place."""

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

from fastapi import Request, Response

from service.http.errors import invalid
from service.http.thread_route import ThreadRoute

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
