"""Errors raised for authentication, authorization, rate limits and quotas."""

from http import HTTPStatus

from service.auth.principal import Principal, Scope
from service.http.errors import ServiceError


class Unauthorized(ServiceError):
    """The request has no valid API key."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="g2rpo", error="invalid_token"'})


class KeyMissing(Unauthorized):
    """The request does not contain an API key."""

    code = "key_missing"

    def __init__(self) -> None:
        ServiceError.__init__(
            self,
            "API key required: send it as `Authorization: Bearer g2k_…`. An administrator creates keys with "
            "`g2rpo keys create`",
            headers={"WWW-Authenticate": 'Bearer realm="g2rpo"'},
        )


class KeyMalformed(Unauthorized):
    """The Authorization header does not contain a well-formed key."""

    code = "key_malformed"


class KeyUnknown(Unauthorized):
    """The key does not exist in the database."""

    code = "key_unknown"


class KeyRevoked(Unauthorized):
    """The key was revoked."""

    code = "key_revoked"


class KeyExpired(Unauthorized):
    """The key has expired."""

    code = "key_expired"


class ScopeMissing(ServiceError):
    """The key does not have the scope that the route requires."""

    status = HTTPStatus.FORBIDDEN
    code = "scope_missing"

    def __init__(self, principal: Principal, scope: Scope) -> None:
        own = ", ".join(sorted(principal.scopes))
        super().__init__(
            f"This request needs the scope `{scope}`; the key {principal.prefix} ({principal.name}) has: {own}",
            headers={"WWW-Authenticate": f'Bearer realm="g2rpo", error="insufficient_scope", scope="{scope}"'},
        )


class NotLocal(ServiceError):
    """The request comes from another machine while no API keys exist."""

    status = HTTPStatus.FORBIDDEN
    code = "not_local"


class HostNotAllowed(ServiceError):
    """The Host header refers to a host other than this machine, as in a DNS rebinding attack."""

    status = HTTPStatus.BAD_REQUEST
    code = "host_not_allowed"


class RateLimited(ServiceError):
    """The key exceeded its maximum number of requests per minute."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"


class TooManyOpenJobs(ServiceError):
    """The key has reached its maximum number of open jobs."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_open_jobs"


class LastAdminKey(ServiceError):
    """The key cannot be revoked because it is the last valid key with the scope `admin`."""

    status = HTTPStatus.CONFLICT
    code = "last_admin_key"

    def __init__(self) -> None:
        super().__init__(
            "This is the last valid key with the scope `admin`; without it no keys can be created through the API. "
            "Create another admin key first, or revoke this one with `g2rpo keys revoke` on the server"
        )
