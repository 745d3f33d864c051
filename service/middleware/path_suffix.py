"""Select the media type of a response by a suffix of the path, such as `/leaderboard.png`, for use in a browser."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send

MEDIA_TYPES = {
    "csv": b"text/csv",
    "html": b"text/html",
    "json": b"application/json",
    "md": b"text/markdown",
    "png": b"image/png",
    "svg": b"image/svg+xml",
}
_SUFFIX = re.compile(rf"/(?:curves|leaderboard|gallery|export)(\.({'|'.join(MEDIA_TYPES)}))$")


class PathSuffixMiddleware:
    """Removes the suffix from the path of a route with several media types, and replaces the header `Accept`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (match := _SUFFIX.search(scope["path"])):
            scope["path"] = scope["path"][: match.start(1)]
            headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
            scope["headers"] = [*headers, (b"accept", MEDIA_TYPES[match[2]])]
        await self.app(scope, receive, send)
