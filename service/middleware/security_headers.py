"""Security headers of responses. A route that sets one of these headers itself keeps its own value."""

from starlette.datastructures import MutableHeaders
from starlette.types import Scope

from service.http.links import route_path

_PAGE_TYPES = ("text/html", "text/javascript", "text/css")
_COMMON = "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; {_COMMON}"
"""The content security policy of pages: only files of the service, and no inline scripts or styles."""
DOCS_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    f"{_COMMON}"
)
"""The policy of `/docs`, which starts Swagger UI with an inline script. The page contains no text of a request."""


def add(headers: MutableHeaders, scope: Scope) -> None:
    """Add the security headers of a response that are not set yet: more to pages and their files."""
    headers.setdefault("X-Content-Type-Options", "nosniff")
    if not headers.get("Content-Type", "").startswith(_PAGE_TYPES):
        return
    is_docs = route_path(scope).startswith("/docs")
    headers.setdefault("Content-Security-Policy", DOCS_POLICY if is_docs else PAGE_POLICY)
    headers.setdefault("X-Frame-Options", "DENY")
    # With `no-referrer`, browsers would send `Origin: null` in form submissions of the page itself.
    headers.setdefault("Referrer-Policy", "same-origin")
