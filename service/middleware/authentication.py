"""Authenticate every request before it is routed and before its body is read."""

import functools
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.exc import ProgrammingError
from starlette.datastructures import Headers, State
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from service.auth.authenticator import DATABASE_ERRORS, Authenticator, Credentials
from service.auth.errors import CrossOrigin, HostNotAllowed, NotLocal
from service.auth.principal import DATABASE_UNAVAILABLE, AuthResult
from service.http.errors import NotReady, ServiceError, error_response
from service.http.links import route_path


@dataclass
class AuthMiddleware:
    """Sets `request.state.principal`, and `request.state.snapshot` for the response cache.

    Requests to `public` paths need no key. A client on this machine can use `without_database` paths while the database
    is unavailable. `routes` are used to find the route of a refused request for the audit log and the metrics.
    """

    app: ASGIApp
    state: State
    routes: Collection[BaseRoute]
    public: Collection[str]
    without_database: Collection[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                result = await self._authenticate(scope)
            except (ServiceError, *DATABASE_ERRORS) as error:
                for route in self.routes:
                    match, child_scope = route.matches(scope)
                    if match is Match.FULL:
                        scope.update(child_scope)
                        break
                response = await error_response(Request(scope), error)
                await response(scope, receive, send)
                return
            scope["state"].update(principal=result.principal, snapshot=result.snapshot)
        await self.app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> AuthResult:
        authenticator: Authenticator = self.state.authenticator
        headers, path = Headers(scope=scope), route_path(scope)
        _check_origin(scope, headers)
        credentials = Credentials(tuple(headers.getlist("Authorization")), _remote_error(scope, headers))
        if path in self.public:
            return AuthResult(await authenticator.identify(credentials))
        try:
            return await authenticator.authenticate(credentials, scope["state"]["response_headers"])
        except DATABASE_ERRORS as error:
            if credentials.remote_error is None and path in self.without_database:
                return AuthResult(DATABASE_UNAVAILABLE)
            if isinstance(error, ProgrammingError):
                raise NotReady("The database has no schema or another version of it; see /readyz") from error
            raise


def _check_origin(scope: Scope, headers: Headers) -> None:
    """Raise CrossOrigin for a request that changes data and that a browser sent for a page of another origin.

    Browsers set `Origin` and `Sec-Fetch-Site`, and pages cannot change them. Programs send neither. A proxy with TLS
    hides the scheme, so the scheme is not compared if the browser reports the same origin.
    """
    if scope["method"] in ("GET", "HEAD", "OPTIONS"):
        return
    origin, host, site = headers.get("origin"), headers.get("host", ""), headers.get("sec-fetch-site")
    is_foreign = site == "cross-site"
    if origin is not None:
        scheme, _, origin_host = origin.lower().partition("://")
        is_foreign |= origin_host != host.lower() or (scheme != scope["scheme"] and site != "same-origin")
    if is_foreign:
        raise CrossOrigin(origin, host)


def _remote_error(scope: Scope, headers: Headers) -> ServiceError | None:
    """Return why a request is not considered local to this machine, or None if it is local."""
    client = scope.get("client")  # None for a Unix socket
    is_forwarded = "x-forwarded-for" in headers or "forwarded" in headers  # by a proxy, for any client
    if is_forwarded or (client is not None and not is_loopback(client[0])):
        return NotLocal(
            "Without API keys the service accepts requests from this machine only. Create the first key with "
            "`g2rpo keys create` or G2RPO_ADMIN_KEY; then any machine with a key can send requests"
        )
    if not is_loopback(headers.get("host", "")):
        return HostNotAllowed("Without API keys the Host header must be localhost or a loopback address")
    return None


@functools.lru_cache(maxsize=256)
def is_loopback(host: str) -> bool:
    """Whether an address or Host header refers to this machine.

    Apart from `localhost`, DNS names are not accepted, even if they resolve to 127.0.0.1.
    """
    name = re.sub(r":\d{1,5}$", "", host)
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False
