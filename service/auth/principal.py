"""Who sent a request, and what they may do."""

import uuid
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from fastapi import Depends, Request


class Scope(StrEnum):
    """What a key is good for; each includes those before it."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


@dataclass(frozen=True)
class Caller:
    """The sender of a request: the owner of a key, or somebody on this machine while there are no keys."""

    id: uuid.UUID | None
    """The key's id; None without one. It is what `created_by` columns take."""
    name: str
    scopes: frozenset[Scope]
    prefix: str = ""
    requests_per_minute: int | None = None
    """Most requests in a minute; None: the setting's."""

    def may(self, needed: Scope) -> bool:
        """Whether one of the scopes is `needed`, or includes it."""
        order = list(Scope)
        return any(order.index(scope) >= order.index(needed) for scope in self.scopes)


@dataclass(frozen=True)
class Admitted:
    """A caller who was let in, and what the database showed when it said so."""

    caller: Caller
    snapshot: str | None
    """Which transactions it had seen end; None where the database was not asked."""
    ended: str | None = None
    """Which transactions wrote the rows of the run that was asked for and of its attempts, if the run has ended."""


LOCAL = Caller(None, "local", frozenset({Scope.ADMIN}))
"""Whoever asks from this machine while there are no keys."""
ANONYMOUS = Caller(None, "anonymous", frozenset())
"""Whoever asks for what needs no key, without one."""


async def _caller(request: Request) -> Caller:
    caller: Caller = getattr(request.state, "caller", LOCAL)
    return caller


CallerDep = Annotated[Caller, Depends(_caller)]
