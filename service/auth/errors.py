"""Errors raised for authentication, authorization, rate limits and quotas."""

from http import HTTPStatus

from service.auth.principal import Principal, Scope
from service.http.errors import ServiceError


class Unauthorized(ServiceError, status=HTTPStatus.UNAUTHORIZED, code="unauthorized"):
    """The request has no valid API key."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="g2rpo", error="invalid_token"'})


class KeyMissing(Unauthorized, code="key_missing"):
    """The request does not contain an API key."""

    def __init__(self) -> None:
        ServiceError.__init__(
            self,
            "API key required: send it as `Authorization: Bearer g2k_…`. An administrator creates keys with "
            "`g2rpo keys create`",
            headers={"WWW-Authenticate": 'Bearer realm="g2rpo"'},
        )


class KeyMalformed(Unauthorized, code="key_malformed"):
    """The Authorization header does not contain a well-formed key."""


class KeyUnknown(Unauthorized, code="key_unknown"):
    """The key does not exist in the database."""


class KeyRevoked(Unauthorized, code="key_revoked"):
    """The key was revoked."""


class KeyExpired(Unauthorized, code="key_expired"):
    """The key has expired."""


class ScopeMissing(ServiceError, status=HTTPStatus.FORBIDDEN, code="scope_missing"):
    """The key does not have the scope that the route requires."""

    def __init__(self, principal: Principal, scope: Scope) -> None:
        own = ", ".join(sorted(principal.scopes))
        super().__init__(
            f"This request needs the scope `{scope}`; the key {principal.prefix} ({principal.name}) has: {own}",
            headers={"WWW-Authenticate": f'Bearer realm="g2rpo", error="insufficient_scope", scope="{scope}"'},
        )


class NotLocal(ServiceError, status=HTTPStatus.FORBIDDEN, code="not_local"):
    """The request comes from another machine while no API keys exist."""


class HostNotAllowed(ServiceError, status=HTTPStatus.BAD_REQUEST, code="host_not_allowed"):
    """The Host header refers to a host other than this machine, as in a DNS rebinding attack."""


class CrossOrigin(ServiceError, status=HTTPStatus.FORBIDDEN, code="cross_origin"):
    """A browser sent the request for a page of another origin (cross-site request forgery)."""

    def __init__(self, origin: str | None, host: str) -> None:
        page = f"of the origin {origin[:200]!r}" if origin else "of another site"
        super().__init__(
            f"A page {page} cannot change data of {host[:200]!r}. Use the service's own pages, or a program that sends "
            "no Origin header; a proxy in front of the service must forward the Host header unchanged"
        )


class RateLimited(ServiceError, status=HTTPStatus.TOO_MANY_REQUESTS, code="rate_limited"):
    """The key exceeded its maximum number of requests per minute."""


class TooManyOpenJobs(ServiceError, status=HTTPStatus.TOO_MANY_REQUESTS, code="too_many_open_jobs"):
    """The key has reached its maximum number of open jobs."""


class LastAdminKey(ServiceError, status=HTTPStatus.CONFLICT, code="last_admin_key"):
    """The key cannot be revoked because it is the last valid key with the scope `admin`."""

    def __init__(self) -> None:
        super().__init__(
            "This is the last valid key with the scope `admin`; without it no keys can be created through the API. "
            "Create another admin key first, or revoke this one with `g2rpo keys revoke` on the server"
        )
