"""The sender of a request and its scopes."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Request


class Scope(StrEnum):
    """The permissions of an API key. Each scope includes the preceding scopes."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Principal:
    """The sender of a request: the owner of an API key, or a user of this machine while no keys exist."""

    id: uuid.UUID | None
    """The id of the key, as stored in `created_by` columns, or None for a request without a key."""
    name: str
    scopes: frozenset[Scope]
    prefix: str = ""
    requests_per_minute: int | None = None
    """The maximum number of requests per minute, or None for the default from the settings."""

    def has_scope(self, scope: Scope) -> bool:
        """Whether one of the principal's scopes is `scope` or includes it."""
        order = list(Scope)
        return any(order.index(own) >= order.index(scope) for own in self.scopes)


@dataclass(frozen=True)
class AuthResult:
    """An authenticated principal, and the database snapshot of the key lookup."""

    principal: Principal
    snapshot: str | None = None
    """`pg_current_snapshot()` at the time of the lookup, or None if the database was not queried."""


LOCAL = Principal(None, "local", frozenset({Scope.ADMIN}))
"""A client on this machine while no API keys exist."""
ANONYMOUS = Principal(None, "anonymous", frozenset())
"""A client without a valid key, on a route that requires no key."""
DATABASE_UNAVAILABLE = Principal(None, "anonymous", frozenset({Scope.READ}))
"""A client on this machine while the database is unavailable, on a route that does not require the database."""


async def _principal(request: Request) -> Principal:
    principal: Principal = request.state.principal
    return principal


PrincipalDep = Annotated[Principal, Depends(_principal)]
