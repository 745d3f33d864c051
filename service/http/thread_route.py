"""A route whose plain function has one thread from its first statement to its last, with the session's end."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastapi.concurrency import run_in_threadpool
from fastapi.routing import APIRoute
from sqlalchemy.orm import Session


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
