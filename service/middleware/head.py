"""Respond to HEAD requests of routes that only define GET."""

from collections.abc import Collection

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadMiddleware:
    """Handles HEAD like GET and omits the body, except for `routes` that define HEAD themselves."""

    def __init__(self, app: ASGIApp, routes: Collection[BaseRoute]) -> None:
        self.app = app
        self._routes = [route for route in routes if "HEAD" in (getattr(route, "methods", None) or ())]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not is_head or any(route.matches(scope)[0] is Match.FULL for route in self._routes):
            await self.app(scope, receive, send)
            return

        async def send_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                scope["method"] = "HEAD"  # the server reads it to decide whether a body follows
                await send(message)
                # The response ends here; the server then reports a disconnect, which ends a stream.
                await send({"type": "http.response.body"})

        scope["method"] = "GET"
        try:
            await self.app(scope, receive, send_headers)
        finally:
            scope["method"] = "HEAD"
