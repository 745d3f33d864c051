"""Authenticate requests by API key.

While no keys exist, only clients on this machine are served, and they need no key. Once the first key exists, every
request needs a key, except on public routes, and the client's address no longer matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import ProgrammingError
from starlette.concurrency import run_in_threadpool

from service.auth import api_keys
from service.auth.errors import KeyMalformed, KeyMissing, Unauthorized
from service.auth.principal import ANONYMOUS, LOCAL, AuthResult, Principal
from service.auth.rate_limit import RateLimiter
from service.core import api_key_format
from service.db.session import Database
from service.http.errors import UNAVAILABLE, ServiceError

DATABASE_ERRORS = (*UNAVAILABLE, ProgrammingError)
"""Raised if the database is unavailable or has a different schema."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Credentials:
    """The information in a request that identifies its sender."""

    authorization: tuple[str, ...]
    """The Authorization headers."""
    remote_error: ServiceError | None
    """Why the request is not considered local to this machine, or None if it is local."""


class Authenticator:
    """Finds the principal of a request. Every request looks up its key, so revoking a key takes effect immediately."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._limiter = RateLimiter(database.settings.broker_url)
        self._admin_key = database.settings.admin_key
        """The admin key that is not stored yet, or None."""
        self._keys_exist = self._admin_key is not None
        """Once true, this never becomes false, because rows of `api_keys` are never deleted."""

    def start(self) -> None:
        """Store the admin key from the environment. If the database is unavailable, the first request stores it."""
        try:
            self._store_admin_key()
        except DATABASE_ERRORS as error:
            log.warning("admin_key_not_stored", error=type(error).__name__, hint="the first request stores it")

    async def authenticate(self, credentials: Credentials, response_headers: dict[str, str]) -> AuthResult:
        """Return the principal of a request, and add its rate limit headers to `response_headers`.

        Raises Unauthorized or RateLimited, or, while no keys exist, NotLocal or HostNotAllowed.
        """
        result = await run_in_threadpool(self._authenticate, credentials)
        principal = result.principal
        if principal.id is not None:
            limit = principal.requests_per_minute or self._database.settings.requests_per_minute
            response_headers.update(await self._limiter.take(principal.id, limit))
        return result

    async def identify(self, credentials: Credentials) -> Principal:
        """Return the principal of a request to a public route: LOCAL, the owner of a valid key, or ANONYMOUS.

        Raises NotLocal or HostNotAllowed while no keys exist.
        """
        if credentials.remote_error is None:
            return LOCAL
        try:
            return (await run_in_threadpool(self._authenticate, credentials)).principal
        except (Unauthorized, *DATABASE_ERRORS):
            return ANONYMOUS

    async def close(self) -> None:
        """Close all connections."""
        await self._limiter.close()

    def _authenticate(self, credentials: Credentials) -> AuthResult:
        self._store_admin_key()
        if not self._keys_exist:
            with self._database.readers() as session:
                self._keys_exist, snapshot = api_keys.keys_exist_with_snapshot(session)
            if not self._keys_exist:
                if credentials.remote_error is not None:
                    raise credentials.remote_error
                return AuthResult(LOCAL, snapshot)
        secret = secret_of(credentials.authorization)
        with self._database.readers() as session:
            lookup = api_keys.look_up(session, secret)
        if lookup.stale:
            with self._database.sessions() as session:
                api_keys.record_use(session, lookup.result.principal.id)
        return lookup.result

    def _store_admin_key(self) -> None:
        if (admin_key := self._admin_key) is not None:
            with self._database.sessions() as session:
                api_keys.store_environment_key(session, admin_key.get_secret_value())
            self._admin_key = None


def secret_of(authorization: Sequence[str]) -> str:
    """Return the API key in the Authorization headers of a request.

    Raises KeyMissing or KeyMalformed. Error messages never contain the key.
    """
    if not authorization:
        raise KeyMissing
    scheme, _, secret = authorization[0].strip().partition(" ")
    if len(authorization) > 1 or scheme.lower() != "bearer":
        raise KeyMalformed("Invalid Authorization header: send one header `Authorization: Bearer g2k_…`")
    try:
        api_key_format.check_format(secret.strip())
    except ValueError as error:
        raise KeyMalformed(f"Malformed API key: {error}") from None
    return secret.strip()
