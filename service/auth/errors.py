"""Why a request is not let in, or not let do what it asks."""

from http import HTTPStatus

from service.auth.principal import Caller, Scope
from service.http.errors import ServiceError


class Unauthorized(ServiceError):
    """The request shows no key that is good."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unauthorized"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="g2rpo", error="invalid_token"'})


class KeyMissing(Unauthorized):
    """It shows none."""

    code = "key_missing"

    def __init__(self) -> None:
        ServiceError.__init__(
            self,
            "this service asks for an API key: send the header `Authorization: Bearer g2k_…`; an administrator makes "
            "keys by `g2rpo keys create`",
            headers={"WWW-Authenticate": 'Bearer realm="g2rpo"'},
        )


class KeyMalformed(Unauthorized):
    """What it shows is no key."""

    code = "key_malformed"


class KeyUnknown(Unauthorized):
    """Nobody has been given that key."""

    code = "key_unknown"


class KeyRevoked(Unauthorized):
    """The key was taken back."""

    code = "key_revoked"


class KeyExpired(Unauthorized):
    """The key's time is over."""

    code = "key_expired"


class ScopeMissing(ServiceError):
    """The key is not good for this."""

    status = HTTPStatus.FORBIDDEN
    code = "scope_missing"

    def __init__(self, caller: Caller, needed: Scope) -> None:
        has = ", ".join(sorted(caller.scopes))
        super().__init__(
            f"this needs the scope `{needed}`; the key {caller.prefix} ({caller.name}) has: {has}",
            headers={"WWW-Authenticate": f'Bearer realm="g2rpo", error="insufficient_scope", scope="{needed}"'},
        )


class NotLocal(ServiceError):
    """The request comes from another machine, and there are no keys to tell who it is."""

    status = HTTPStatus.FORBIDDEN
    code = "not_local"


class HostNotAllowed(ServiceError):
    """The request names another host than this machine, as that of a web page that rebinds its name does."""

    status = HTTPStatus.BAD_REQUEST
    code = "host_not_allowed"


class RateLimited(ServiceError):
    """The key has sent its share of requests."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "rate_limited"


class TooManyOpenJobs(ServiceError):
    """The key has its share of jobs that have not ended."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "too_many_open_jobs"


class LastAdminKey(ServiceError):
    """Without this key nobody could make another."""

    status = HTTPStatus.CONFLICT
    code = "last_admin_key"

    def __init__(self) -> None:
        super().__init__(
            "this is the last key with the scope `admin` that is good, and nobody could make another by the API; make "
            "a new one first, or revoke it by `g2rpo keys revoke` where the database is"
        )
